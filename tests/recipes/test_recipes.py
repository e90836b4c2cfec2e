"""The ladder of recipes, what counts as a run of one, and the arithmetic of its page.

pytest tests/recipes
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.text import Text
from omegaconf import OmegaConf

from imdb_lightning.config.identity import canonical_config, differences
from imdb_lightning.config.paths import conf_dir
from imdb_lightning.config.schema import flatten
from imdb_lightning.metrics.calibration import ensemble_weights, nll
from imdb_lightning.recipes import page, rows
from imdb_lightning.recipes.archive import archive
from imdb_lightning.recipes.rows import RecipeRuns, Row
from imdb_lightning.report.figures import panel
from imdb_lightning.report.templates import ForeignFileError
from imdb_lightning.runs.predictions import Predictions
from imdb_lightning.runs.run import Run
from tests.conftest import command, composed, run_of


LADDER = rows.ladder()


def test_every_step_but_the_first_has_a_parent() -> None:
    names = list(LADDER)
    assert [name for name in names if LADDER[name].parent is None] == ["report"]
    for name, recipe in LADDER.items():
        assert recipe.description.endswith(".")
        if recipe.parent is not None:
            assert names.index(recipe.parent) < names.index(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, recipe in LADDER.items() if recipe.parent])
def test_a_step_changes_only_the_keys_in_its_file(name: str) -> None:
    own = canonical_config(composed(f"experiment=recipes/{name}"))
    parent = canonical_config(composed(f"experiment=recipes/{LADDER[name].parent}"))
    changed = set(differences(parent, own))
    follows = {"data.max_length": "model.max_length", "data.vocab_size": "model.vocab_size"}
    written = set(flatten(settings_of(name)))
    assert changed == written | {follows[key] for key in written if key in follows}


def settings_of(recipe: str) -> dict[str, Any]:
    """What a recipe's file says, with the options of the groups that it chooses."""
    settings = yaml.safe_load((conf_dir() / f"experiment/recipes/{recipe}.yaml").read_text())
    for entry in settings.pop("defaults"):
        if isinstance(entry, dict):
            ((choice, option),) = entry.items()
            group = choice.removeprefix("override /")
            settings[group] = yaml.safe_load((conf_dir() / group / f"{option}.yaml").read_text())
    return settings


def of(name: str, *seeds: int, skill: float = 1.0, parent: str | None = None) -> Row:
    """Runs whose logits are the label with noise, other noise for each seed."""
    row = Row(name, "what it is", parent, seeds=list(seeds))
    for seed in seeds:
        random = np.random.default_rng([seed, len(name)])
        for kept, count in ((row.val, 500), (row.test, 900)):
            label_N = np.arange(count) % 2 == 1
            logit_N = skill * (2 * label_N - 1) + random.normal(size=count)
            kept.append(Predictions(np.arange(count), label_N, logit_N))
        row.paths.append(Path(f"{name},seed={seed}"))
        row.metrics.append(
            {
                "seed": seed,
                "seconds": 60.0,
                "device": "cpu (2 threads)",
                "processor": "AMD EPYC",
                "cpu_seconds": 120.0,
                "parameters": 10,
                "git": "abc",
                "peak_memory": 2**20,
                "data": {"reviews": {"train": 20_000}},
            }
        )
    return row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["seed=3", "data.path=null", "data.cache_dir=null"], ["masked"]),
        (["optim.lr=1"], []),
    ],
)
def test_a_run_of_a_recipe_changes_nothing_of_it(
    overrides: list[str], names: list[str], tmp_path: Path
) -> None:
    """A run with the configuration of the recipe; what it predicts plays no part."""
    cfg = composed("experiment=recipes/masked", *overrides)
    run_of(tmp_path / "runs" / "other", "model=rnn", "trainer.max_epochs=1")
    own = run_of(tmp_path / "runs" / "run", "model=rnn", "trainer.max_epochs=1")
    metrics = Run(own).metrics | {"dataset": "imdb", "seed": cfg.seed}
    metrics["data"]["fingerprint"] = "reviews"
    Run(own).write_metrics(metrics)
    OmegaConf.save(cfg, own / ".hydra" / "config.yaml")
    found = rows.collect([tmp_path / "runs"])
    assert list(found.steps) == names
    assert len(found.problems) == 2 - len(names)


@pytest.mark.slow
def test_no_two_recipes_are_one() -> None:
    wanted = [str(settings) for settings in rows.wanted().values()]
    assert len(set(wanted)) == len(wanted) == len(LADDER)


def test_cpu_seconds_include_everything_upstream() -> None:
    row = of("net", 0)
    (metrics,) = row.metrics
    assert row.cpu_seconds == 60 * 2  # a minute of two threads
    vectors = {"settings": "v", "seed": 0, "cpu_seconds": 120.0}
    metrics["data"] = {"pretrained": vectors}
    assert row.cpu_seconds == 60 * 4
    teacher = {"settings": "t", "seed": 0, "cpu_seconds": 60.0, "pretrained": vectors}
    metrics["data"]["teacher"] = [teacher]
    assert row.cpu_seconds == 60 * 5
    metrics["data"]["teacher"] = [teacher | {"pretrained": vectors | {"settings": "other"}}]
    assert row.cpu_seconds == 60 * 7
    metrics["data"] = {"pretrained": vectors}
    metrics["cpu_seconds"] = 90.0
    assert row.cpu_seconds == 60 * 3.5


def test_shared_costs_are_counted_once() -> None:
    row, baseline = of("net", 0, 1, 2), of("nb_logistic", 0)
    vectors = {"settings": "v", "seed": 0, "cpu_seconds": 60.0}
    teacher = {"settings": "nb_logistic", "seed": 0, "cpu_seconds": 120.0}
    for run in row.metrics:
        run["data"] = {"pretrained": vectors, "teacher": [teacher]}
    assert row.cpu_seconds == 60 * (2 + 1 + 2)
    assert rows.combine(row, baseline, "both", "").cpu_seconds == 60 * (2 + 1 + 2)
    together = rows.ensemble(row, "three", "")
    assert together.cpu_seconds == 60 * (3 * 2 + 1 + 2)
    assert rows.combine(together, baseline, "all", "").cpu_seconds == 60 * (3 * 2 + 1 + 2)


def test_weights_have_the_least_loss_on_val() -> None:
    row = of("a", 0)
    (val,) = row.val
    logits_KN = np.stack([val.logit, np.random.default_rng(1).normal(size=500), -val.logit])
    w_K = ensemble_weights(logits_KN, val.label)
    assert (w_K >= 0).all() and w_K[1] < 0.2 and w_K[2] < w_K[0]
    best = nll(w_K @ logits_KN, val.label)
    for k in range(3):
        for step in (-0.05, 0.05):
            other = np.clip(w_K + step * (np.arange(3) == k), 0, None)
            assert nll(other @ logits_KN, val.label) >= best - 1e-6


def test_models_together_are_better_than_each() -> None:
    row, baseline = of("net", 0, 1, 2), of("nb_logistic", 0)
    alone = row.correct_SN.mean()
    both = rows.combine(row, baseline, "both", "")
    assert both.correct_SN.shape == (3, 900) and both.correct_SN.mean() > alone + 0.02
    together = rows.ensemble(row, "three", "")
    seconds = [r.cpu_seconds for r in (row, both, together)]
    assert seconds == [120, 240, 360]
    baseline.metrics[0]["peak_memory"] = 2**21
    assert [r.peak for r in (row, both, together)] == [2**20, 2**21, 2**20]
    assert [r.parameters for r in (row, both, together)] == [10, 20, 30]
    assert rows.combine(together, baseline, "all", "").parameters == 40
    assert together.correct_SN.shape == (1, 900) and together.correct_SN.mean() > alone + 0.02


def test_a_refit_has_the_weights_of_the_original() -> None:
    """Its own logits on val, which it has read, play no part."""
    row, baseline = of("wider", 0, 1), of("nb_logistic", 0)
    refit = of("wider_refit", 0, 1, skill=1.2, parent="wider")
    baseline_refit = of("nb_logistic_refit", 0)
    for one in (refit, baseline_refit):
        one.metrics = [run | {"train_on_val": True} for run in one.metrics]
        one.val = [Predictions(val.index, val.label, np.nan * val.logit) for val in one.val]
    baselines = {one.name: one for one in (baseline, baseline_refit)}
    combined = {
        r.name: r for r in page.combinations(RecipeRuns({"net": row, "again": refit}, baselines))
    }
    alone = page.combinations(
        RecipeRuns({"a": row, "b": refit}, {baseline_refit.name: baseline_refit})
    )
    assert [r.name for r in alone] == ["wider, ensemble", "wider_refit, ensemble"]
    assert all(np.isfinite(r.test[0].logit).all() for r in alone)
    assert len(combined) == 6
    w_K = ensemble_weights(np.stack([row.val[1].logit, baseline.val[0].logit]), row.val[1].label)
    both = combined["wider_refit + nb_logistic_refit"]
    expected = w_K @ np.stack([refit.test[1].logit, baseline_refit.test[0].logit])
    np.testing.assert_allclose(both.test[1].logit, expected)
    assert both.trained_on_val and both.correct_SN.mean() > refit.correct_SN.mean()
    several = combined["wider_refit, ensemble + nb_logistic_refit"]
    assert np.isfinite(several.test[0].logit).all()
    # Two CPU minutes a model: the runs, both baselines, and what they are refits of.
    assert (both.cpu_seconds, several.cpu_seconds) == (60 * 8, 60 * 12)
    assert (both.parameters, several.parameters) == (20, 30)
    for one, another in ((row, refit.select_seeds([1])), (row.select_seeds([1]), refit)):
        found = RecipeRuns({"net": one, "again": another}, baselines)
        (fewer,) = [r for r in page.combinations(found) if r.name == both.name]
        np.testing.assert_allclose(fewer.test[0].logit, expected)


def test_a_difference_is_that_of_the_same_seeds() -> None:
    better, worse = of("better", 0, 1, 3, skill=1.5), of("worse", 1, 3, 4)
    compared = rows.compare(better, worse)
    assert compared is not None
    difference, (low, high), p = compared
    expected = better.correct_SN[1:].mean() - worse.correct_SN[:2].mean()
    assert difference == pytest.approx(expected)
    assert low < expected < high and p < 0.01
    one = rows.ensemble(worse, "one", "")
    single = rows.compare(one, worse)  # one run against each of three
    assert single is not None
    assert single[0] == pytest.approx(one.correct_SN.mean() - worse.correct_SN.mean())


def test_reviews_that_differ_in_punctuation_alone_are_one() -> None:
    assert page.bare("Good,<br /><br />very GOOD!") == page.bare("good very good ")
    assert page.bare("good film") != page.bare("goodfilm")


def test_the_page_names_the_steps_that_are_not_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better, worse = of("longer", 0, 1, skill=1.4), of("mean_max", 0, 1, skill=1.2)
    same = replace(better, name="masked")
    steps = [of("report", 0, 1), better, same, worse]
    for one, after in pairwise(steps):
        after.parent = one.name
    found = RecipeRuns({row.name: row for row in steps}, {})
    lengths, seen = np.tile([10, 60, 150, 300, 500, 900], 150), np.arange(900) < 9
    monkeypatch.setattr(
        page, "read_test_reviews", lambda *_: page.TestReviews(lengths, seen, {"a in b": 9})
    )
    text = page.write(found, None, tmp_path, "")[0].read_text("utf-8")
    assert "that is worse or with p above 0.05:\n`masked`, `mean_max`.\n" in text
    assert "- `masked`, `mean_max`: not better than its parent." in text


def test_a_net_is_compared_with_the_baseline_that_read_as_many_labels() -> None:
    nets = {"wider": of("wider", 0, 1), "wider_refit": of("wider_refit", 0, 1, parent="wider")}
    nets["wider_refit"].metrics = [
        run | {"train_on_val": True} for run in nets["wider_refit"].metrics
    ]
    baselines = [of("nb_logistic", 0), of("nb_logistic_refit", 0)]
    found = RecipeRuns(nets, {row.name: row for row in baselines})
    reviews = page.TestReviews(np.tile([10, 60, 150, 300, 500, 900], 150), np.arange(900) < 9, {})
    compared = page.contents(found, reviews)["with_baseline"]
    for one, net, baseline in zip(compared, nets.values(), baselines, strict=True):
        assert (one.row.name, one.row.parent) == (net.name, baseline.name)
        difference = net.correct_SN.mean() - baseline.correct_SN.mean()
        assert one.difference == pytest.approx(difference) and one.p_holm >= one.p


def test_steps_with_a_refit_are_combined() -> None:
    """A step that is better on val, without a refit, is not."""
    better, row = of("schedule", 0, skill=2), of("wider", 0, parent="schedule")
    refit = of("wider_refit", 0, parent="wider")
    refit.metrics = [run | {"train_on_val": True} for run in refit.metrics]
    baselines = {name: of(name, 0) for name in ("nb_logistic", "nb_logistic_refit")}
    found = RecipeRuns({one.name: one for one in (better, row, refit)}, baselines)
    names = [one.name for one in page.combinations(found)]
    assert names == ["wider + nb_logistic", "wider_refit + nb_logistic_refit"]


def test_names_in_the_figure_are_complete_and_do_not_overlap() -> None:
    random = np.random.default_rng(0)
    points = [
        (float(x), float(y), f"a name, {i}") for i, (x, y) in enumerate(random.random((25, 2)))
    ]
    drawn, axes = panel("", "x", "y", 7, 6)
    for x, y, _ in points:
        axes.plot(x, y, "o", label="points" if x == points[0][0] else None)
    axes.legend(loc="lower right")
    page.name_points(drawn, axes, points)
    drawn.draw_without_rendering()
    assert sorted(name.get_text() for name in axes.texts) == sorted(text for _, _, text in points)
    legend = axes.get_legend()
    assert legend is not None
    boxes = [legend.get_window_extent(), *(Text.get_window_extent(name) for name in axes.texts)]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())


def test_the_page_shows_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nb = of("nb_logistic", 0, skill=1.2)
    found = RecipeRuns(
        {"report": of("report", 0, 1), "masked": of("masked", 0, 1, parent="report", skill=1.4)},
        {"nb_logistic": nb},
    )
    lengths = np.tile([10, 60, 150, 300, 500, 900], 150)
    seen = np.arange(900) < 9
    monkeypatch.setattr(
        page, "read_test_reviews", lambda *_: page.TestReviews(lengths, seen, {"a in b": 9})
    )
    written = page.write(found, None, tmp_path, "python -m imdb_lightning.recipes x")
    text = written[0].read_text("utf-8")
    for name in ("report", "masked", "nb_logistic"):
        accuracy = 100 * {**found.steps, **found.baselines}[name].correct_SN.mean()
        assert f"{accuracy:.2f}" in text and f"`{name}`" in text
    assert "masked, ensemble + nb_logistic" in text
    assert "report + nb_logistic" not in text  # the best on val alone
    assert "Not better" not in text
    assert written[1].read_text("utf-8").count("masked") >= 2  # the step and what builds on it
    again = page.write(found, None, tmp_path, "python -m imdb_lightning.recipes x")
    assert again[0].read_text("utf-8") == text
    (tmp_path / "recipes.md").write_text("mine")
    with pytest.raises(ForeignFileError):
        page.write(found, None, tmp_path, "")


@pytest.mark.slow
def test_an_archived_run_has_the_same_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = composed("experiment=recipes/vectors", f"data.cache_dir={tmp_path}")
    cfg.pretrained = str(tmp_path / "vectors")
    own = run_of(tmp_path / "runs" / "run", "model=rnn", "trainer.max_epochs=1")
    metrics = Run(own).metrics | {"dataset": "imdb", "seed": cfg.seed}
    metrics["data"] |= {
        "fingerprint": "reviews",
        "pretrained": {
            "sha256": "a",
            "settings": rows.wanted()["vectors"][1][0],
            "seed": 0,
            "seconds": 1.0,
            "cpu_seconds": 1.0,
            "device": "cpu",
        },
    }
    Run(own).write_metrics(metrics)
    OmegaConf.save(cfg, own / ".hydra" / "config.yaml")
    first = rows.collect([tmp_path / "runs"])
    assert first.problems == []
    (kept,) = archive(first, tmp_path / "kept")
    assert archive(first, tmp_path / "kept") == [] and capsys.readouterr().err == ""
    Run(own).write_metrics(metrics | {"git": "another"})
    assert archive(first, tmp_path / "kept") == []
    assert f"{kept} contains another run than {own} and is kept" in capsys.readouterr().err
    second = rows.collect([tmp_path / "kept"])
    assert second.problems == []
    row, again = first.steps["vectors"], second.steps["vectors"]
    assert row.seeds == again.seeds and row.cpu_seconds == again.cpu_seconds
    for one, other in ((row.val[0], again.val[0]), (row.test[0], again.test[0])):
        np.testing.assert_array_equal(one.index, other.index)
        np.testing.assert_array_equal(one.correct, other.correct)
        np.testing.assert_allclose(one.logit, other.logit, rtol=1e-3)
    for file in (file for file in kept.rglob("*") if file.is_file()):
        assert str(tmp_path).encode() not in file.read_bytes()


@pytest.mark.slow
@pytest.mark.real
def test_the_page_in_docs_is_that_of_its_archive(real_data: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = command(
        root, "docs/recipes_runs", "--output", tmp_path, module="recipes", IMDB_DATA=real_data
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "recipes.md").read_text("utf-8") == (root / "docs" / "recipes.md").read_text(
        "utf-8"
    )
