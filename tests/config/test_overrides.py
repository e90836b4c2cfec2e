"""Mistakes of a command line, grids, and that everything in conf/ composes.

pytest tests/config/test_overrides.py
"""

from __future__ import annotations

import inspect
import re
from itertools import product
from pathlib import Path

import lightning
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from imdb_lightning.config.identity import (
    canonical_config,
    config_hash,
    names_of_grid,
    run_name,
)
from imdb_lightning.config.overrides import REFUSED_ARGUMENTS, check_command_line
from imdb_lightning.config.paths import absolute_path, conf_dir
from imdb_lightning.config.schema import KEYS, REQUIRED, check_values, flatten
from imdb_lightning.config.text import quote
from imdb_lightning.runs.resume import quote_path_override
from tests.conftest import composed


def options(group: str) -> list[str]:
    """Every option of a group, sub-folders included."""
    folder = conf_dir() / group
    files = (file.relative_to(folder) for file in sorted(folder.rglob("*.yaml")))
    return [file.with_suffix("").as_posix() for file in files if not file.name.startswith("_")]


GROUPS = {
    group: options(group)
    for group in (
        *("data", "model", "optim", "schedule", "trainer", "callbacks", "logger"),
        "experiment",
    )
}


@pytest.mark.parametrize(
    "choice",
    [
        # Every experiment trains a step too, in tests/test_train.py.
        pytest.param(f"{g}={name}", marks=[pytest.mark.slow] if g == "experiment" else [])
        for g, names in GROUPS.items()
        for name in names
    ],
)
def test_every_option_composes_and_is_complete(choice: str) -> None:
    cfg = composed(choice, "hydra.mode=RUN")
    keys = set(flatten(OmegaConf.to_container(cfg, resolve=True)))
    keys = {re.sub(r"scheduling\.\d+", "scheduling", key) for key in keys}
    assert set(REQUIRED) <= keys <= set(KEYS)


def test_the_groups_are_those_of_the_design() -> None:
    assert GROUPS["data"] == ["imdb", "synthetic"]
    models = ["rnn", "lstm", "gru", "custom_rnn", "custom_lstm", "custom_gru"]
    assert sorted(GROUPS["model"]) == sorted(models)
    assert set(GROUPS["trainer"]) >= {"auto", "cpu", "gpu"}
    report = "rnn lstm gru custom_lstm hidden_128 nll_raw batch_128".split()
    assert {f"report/{name}" for name in report} | {"smoke"} <= set(GROUPS["experiment"])


PUBLISHED = {  # the table of the report's seven runs: model, hidden, batch, loss, dropout, decay
    "rnn": ("rnn", 64, 64, "cross_entropy", 0.5, 1e-4),
    "lstm": ("lstm", 64, 64, "cross_entropy", 0.5, 1e-4),
    "gru": ("gru", 64, 64, "cross_entropy", 0.5, 1e-4),
    "custom_lstm": ("custom_lstm", 64, 64, "cross_entropy", 0, 0),
    "hidden_128": ("custom_lstm", 128, 64, "cross_entropy", 0, 0),
    "nll_raw": ("custom_lstm", 64, 64, "nll_on_raw_logits", 0, 0),
    "batch_128": ("custom_lstm", 64, 128, "cross_entropy", 0, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_reports_experiments_are_its_runs(name: str) -> None:
    cfg = composed(f"experiment=report/{name}")
    model, data = cfg.model, cfg.data
    run = (model.name, model.hidden_size, data.batch_size, model.loss, model.dropout)
    assert (*run, cfg.optim.weight_decay) == PUBLISHED[name]
    assert (model.embedding_size, model.pooling, cfg.optim.lr) == (64, "mean_padded", 1e-3)
    assert (data.max_length, data.vocab_size, data.val_size) == (200, 20_000, 5_000)
    assert (data.fallback, data.name, cfg.trainer.max_epochs) == (None, "imdb", 10)
    assert cfg.test_checkpoint == "last"


def errors(*overrides: str, multirun: bool = False) -> list[str]:
    return check_command_line(overrides, multirun).errors


WRONG = {
    # misspelt keys and groups, wrong choices
    "model.hiden_size=3": ["no key model.hiden_size", "did you mean model.hidden_size?"],
    "hidden_size=3": ["no key hidden_size", "did you mean model.hidden_size?"],
    "modle=gru": ["no key modle", "did you mean model?"],
    "model=grru": ["model must be one of", "did you mean gru?"],
    "model=_base": ["model must be one of"],
    "experiment=report/lstmm": ["did you mean report/lstm?"],
    "trainer.max_epoch=3": ["did you mean trainer.max_epochs?"],
    "seeds=1": ["did you mean seed?"],
    "data=null": ["data must be one of"],
    # additions and removals
    "+seed=3": ["seed already exists; drop the +"],
    "+model.hidden=3": ["no key model.hidden"],
    "+data.new=3": ["no key data.new"],
    "+model=gru": ["write model=gru, without the +"],
    "+trainer.max_epoch=3": ["did you mean trainer.max_epochs?"],
    "trainer.max_time=5": ["a time as days:hours:minutes:seconds"],
    "trainer.max_time={minutes:5}": ["a time as days:hours:minutes:seconds"],
    "trainer.profiler=x": ["one of simple, advanced, pytorch"],
    "trainer.max_steps=0": ["an integer >= 1"],
    "trainer.val_check_interval=2.5": ["an integer >= 1, of batches, or a fraction"],
    "trainer.benchmark=true": ["needs trainer.deterministic=false"],
    "trainer.strategy=fsdp": ["must be one of auto, ddp"],
    "trainer.barebones=true": ["barebones of lightning.Trainer: a run is recorded"],
    "+trainer.limit_val_batches=0": ["an integer >= 1, of batches, or a fraction"],
    "+trainer.limit_val_batches=1.5": ["an integer >= 1, of batches, or a fraction"],
    "+trainer.logger=true": ["logger of lightning.Trainer: choose loggers as in logger=csv"],
    # what other libraries call it, or lightning.Trainer has
    "epochs=3": ["did you mean trainer.max_epochs?"],
    "ckpt_path=x": ["did you mean resume?"],
    "lr=0.1": ["did you mean optim.lr?"],
    "fast_dev_run=true": ["did you mean trainer.fast_dev_run?"],
    "model=GRU": ["did you mean gru?"],
    "experiment=[1]": ["experiment must be one name"],
    "model={a:1}": ["model must be one name"],
    "hydra/launcher=[1]": ["hydra/launcher must be one name"],
    "hydra/launcher=null": ["hydra/launcher must be one name"],
    "~experiment": ["none is the default; omit it"],
    "model.cell.reset=after": ["it needs model=custom_gru"],
    "model.layer._target_=torch.nn.Transformer": ["one of torch.nn.GRU, torch.nn.LSTM"],
    "gru": ["must be KEY=VALUE; did you mean model=gru?"],
    "optim.lr=1e-3,": ["ends in a comma"],
    "model.name=a(b": ["quote it: \"model.name='a(b'\""],
    "~seed": ["no key can be removed"],
    "~model": ["a run needs model"],
    # types and ranges
    "seed=-1": ["seed=-1", "an integer >= 0 and <= 4294967295"],
    "seed=1.5": ["an integer"],
    "seed=true": ["an integer"],
    "optim.lr=-0.1": ["a number > 0"],
    "optim.lr=0": ["a number > 0"],
    "optim.lr=nan": ["a number > 0"],
    "optim.lr=fast": ["a number > 0"],
    "optim.weight_decay=-1": ["a number >= 0"],
    "model.dropout=1.5": ["a number >= 0 and < 1"],
    "model.dropout=null": ["model.dropout=null"],
    "data.batch_size=0": ["an integer >= 1"],
    "data.max_length=0": ["an integer >= 2"],
    "data.vocab_size=2": ["an integer >= 3"],
    "data.truncation=middle": ["one of head, tail, head_tail"],
    "data.fallback=synthetik": ["did you mean synthetic?"],
    "model.pooling=average": ["one of mean, max, last, mean_max, mean_padded"],
    "model.pooling=meanmax": ["did you mean mean_max?"],
    "model.loss=entropy": ["one of cross_entropy, nll, nll_on_raw_logits"],
    "model.implementation=loop": ["no key model.implementation here"],  # PyTorch's LSTM
    "model.bidirectional=1": ["one of true, false"],
    "trainer.accelerator=tpu": ["one of auto, cpu, gpu"],
    "trainer.devices=0": ["an integer >= 1 and <= 1024, or a list of different device numbers"],
    "trainer.precision=8": ["one of 32-true"],
    "trainer.gradient_clip_val=0": ["a number > 0, or null"],
    "test_checkpoint=first": ["one of last, best"],
    "data.path=no/such/place": ["no such file or folder", "aclImdb_v1.tar.gz"],
    # not an override at all, or a grid without -m
    "model": ["model: "],
    "optim.lr=[": ["optim.lr=["],
    "hydra/launcher=nowhere": ["Could not find 'hydra/launcher/nowhere'"],
    "model=rnn,lstm": ["add -m"],
    "experiment=glob(report/*)": ["add -m"],
}


@pytest.mark.parametrize("override", WRONG)
def test_a_mistake_is_one_line_with_a_remedy(override: str) -> None:
    (line,) = errors(override)
    assert "\n" not in line
    assert len(line) < 400
    assert [text for text in WRONG[override] if text not in line] == []


def test_a_hand_written_cell_needs_an_implementation() -> None:
    expected = "must be one of fused, loop; did you mean loop?"
    assert expected in errors("model=custom_rnn", "model.implementation=loops")[0]
    cfg = composed("model=custom_rnn")
    del cfg.model.implementation
    (line,) = check_values(cfg)
    assert line == "model.implementation is missing: it must be one of fused, loop"


def test_all_mistakes_are_reported_together() -> None:
    found = errors("model=grru", "model.dropout=2", "optim.learning=1", "+x=1", "seed=-1")
    assert len(found) == 5


@pytest.mark.parametrize("swept", ["model=rnn,grru", "experiment=glob(raport/*)"])
def test_a_grid_is_checked_job_by_job(swept: str) -> None:
    assert len(errors(swept, "seed=0,1", multirun=True)) == 1


def test_a_grid_is_the_product_of_its_axes() -> None:
    line = check_command_line(["model=rnn,custom_gru", "seed=range(0,3)", "optim.lr=0.1"], True)
    assert line.errors == []
    jobs = [(job.model.name, job.seed, job.optim.lr) for job in line.jobs]
    assert jobs == list(product(["rnn", "custom_gru"], [0, 1, 2], [0.1]))


def test_a_glob_reaches_experiments_in_sub_folders() -> None:
    line = check_command_line(["experiment=glob(report/*)"], multirun=True)
    (override,) = line.overrides
    names = override.removeprefix("experiment=").split(",")
    assert names == sorted(f"report/{name}" for name in PUBLISHED)
    assert [job.model.loss for job in line.jobs].count("nll_on_raw_logits") == 1


RIGHT = [
    "data.max_length=600",
    "model.bidirectional=true",
    "model.pooling=mean_max",
    "trainer.gradient_clip_val=1.0",
    "++callbacks.early_stopping.patience=3",
    "trainer.devices=[0]",
    "+trainer.limit_train_batches=3",
    "++trainer.detect_anomaly=true",
    "data.cache_dir=null",
    "optim.lr=1e-3",
    "hydra.job.chdir=false",
    "hydra/launcher=basic",
]


@pytest.mark.parametrize("override", RIGHT)
def test_correct_overrides_are_not_changed(override: str) -> None:
    line = check_command_line([override])
    assert (line.errors, line.overrides) == ([], [override])


def test_values_that_exclude_one_another_are_refused() -> None:
    words = ["pretrain=vectors", "data=synthetic"]
    for overrides, expected in (
        (
            ["data.train_on_val=true", "test_checkpoint=best"],
            "data.train_on_val=true trains on the validation split",
        ),
        (
            ["data.train_on_val=true", "callbacks.early_stopping.patience=2"],
            "data.train_on_val=true trains on the validation split",
        ),
        (["pretrain=vectors", "pretrained=x"], "pretrained cannot be combined"),
        ([*words, "teacher=x"], "teacher cannot be combined"),
        (["teacher=x"], "set data.use_unlabelled=true"),
        (["teacher=x", "model.loss=nll"], "only model.loss=cross_entropy supports"),
        (["optim.pretrained_lr_scale=0.1"], "optim.pretrained_lr_scale has no effect"),
        (
            ["optim.adversarial_epsilon=0.1", "trainer.precision=16-mixed"],
            "optim.adversarial_epsilon cannot be combined",
        ),
        (["pretrain=vector"], "did you mean vectors?"),
    ):
        assert any(expected in line for line in errors(*overrides)), overrides
    for group in ("pretrain", "experiment"):
        assert errors(f"{group}=null") == [f"{group}=null: none is the default; omit it"]


def test_synthetic_reviews_need_room_for_the_distance() -> None:
    (line,) = errors("data=synthetic", "data.distance=100", "data.max_length=120")
    assert line == "data.distance=100: needs data.max_length >= 141"
    assert errors("data=synthetic", "data.distance=100", "data.max_length=141") == []


def test_a_third_party_cell_has_options(tmp_path: Path) -> None:
    overrides = ["model=custom_rnn", "model.cell._target_=mine.Cell", "+model.cell.depth=3"]
    assert check_command_line(overrides).errors == []
    assert errors("model=rnn", "+model.cell.depth=3") != []


def test_a_users_configuration_folder_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / "my conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    (folder / "typo.yaml").write_text("# @package _global_\noptim: {lr: -1}\n")
    line = check_command_line(["experiment=mine"], config_dir=str(tmp_path / "my conf"))
    assert line.errors == []
    assert line.jobs[0].seed == 7
    wrong = check_command_line(["experiment=typo"], config_dir=str(tmp_path / "my conf"))
    assert wrong.errors == ["optim.lr=-1: must be a number > 0"]


def test_a_directory_with_a_run_is_refused(tmp_path: Path) -> None:
    override = f"hydra.run.dir={tmp_path / 'run'}"
    assert errors(override) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").touch()
    (line,) = errors(override)
    assert "already contains a run; name a new directory" in line


# Grids


GRIDS = {"cells": 18, "hidden_size": 12, "batch_size": 12, "loss": 9, "memory": 54}


@pytest.mark.parametrize("name", list(GRIDS))
def test_a_grid_has_a_directory_and_runs_with_names_of_their_own(name: str) -> None:
    line = check_command_line([f"experiment={name}"])
    assert line.errors == []
    assert line.multirun and line.sweep_named
    assert line.directory == absolute_path(f"outputs/sweeps/{name}")
    assert len(line.jobs) == len(set(line.names)) == GRIDS[name]
    assert len({config_hash(cfg) for cfg in line.jobs}) == GRIDS[name]


def test_the_cells_of_the_fair_grid_differ_in_nothing_else() -> None:
    jobs = check_command_line(["experiment=cells", "seed=0"]).jobs
    for cfg in jobs:
        values = canonical_config(cfg)
        for key in [key for key in values if key.startswith(("model.layer.", "model.cell."))]:
            del values[key]
        values.pop("model.implementation", None)
        del values["model.name"]
        assert values == {key: canonical_config(jobs[0])[key] for key in values}


def test_the_command_line_overrides_a_grid() -> None:
    line = check_command_line(
        ["experiment=memory", "data.distance=10,20", "seed=5", "optim.lr=0.1"]
    )
    assert line.errors == []
    assert {(cfg.data.distance, cfg.seed, cfg.optim.lr) for cfg in line.jobs} == {
        (10, 5, 0.1),
        (20, 5, 0.1),
    }
    assert "model=custom_rnn,data.distance=10,optim.lr=0.1,seed=5,synthetic" in line.names


def test_one_run_of_a_grid() -> None:
    line = check_command_line(["experiment=loss", "hydra.mode=RUN"])
    assert line.errors == []
    assert not line.multirun and len(line.jobs) == 1


def test_constants_are_in_run_names_only_in_a_named_directory() -> None:
    overrides = ["optim.lr=0.5", "model=gru,lstm"]
    assert check_command_line(overrides, multirun=True).names == ["model=gru", "model=lstm"]
    named = check_command_line([*overrides, "hydra.sweep.dir=x"], multirun=True)
    assert named.names == ["model=gru,optim.lr=0.5", "model=lstm,optim.lr=0.5"]


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["seed=0,0"], "seed=0: twice in the grid"),
        (
            ["seed=0,1", "hydra.sweep.subdir=x"],
            "a run of a grid is named after",
        ),
        (["seed=0,1", "hydra.launcher.n_jobs=-1"], "hydra.launcher.n_jobs=-1: must be an integer"),
        (["seed=0,1", "hydra.launcher.timeout=soon"], "hydra.launcher.timeout=soon: must be a"),
        (["experiment=memory", "data.distance=10,x"], "data.distance=x: must be an integer"),
    ],
)
def test_mistakes_of_a_grid(overrides: list[str], error: str) -> None:
    assert any(error in line for line in errors(*overrides, multirun=True))


def test_the_hash_is_of_the_values_not_of_their_spelling() -> None:
    def hashed(*overrides: str) -> str:
        (cfg,) = check_command_line(list(overrides)).jobs
        return config_hash(cfg)

    assert hashed("optim.weight_decay=0") == hashed("optim.weight_decay=0.0") == hashed()
    assert hashed("optim.weight_decay=1e-3") != hashed()
    assert hashed("seed=1") != hashed("seed=0")
    assert hashed("data.num_workers=2", "data.cache_dir=null") == hashed()


@pytest.mark.parametrize("text", ["a b", "it's", "a,b=c", "back\\", "\\'", "${x}", "[1]", ""])
def test_a_quoted_text_is_that_text_to_hydra(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"k={quote(text)}"])
    assert override.value() == text


NAMES = {
    ("model=gru,seed=0", "imdb"): "model=gru,seed=0",
    ("experiment=report/lstm", "imdb"): "report-lstm",
    ("seed=0", "synthetic"): "seed=0,synthetic",
    ("data=synthetic,seed=0", "synthetic"): "data=synthetic,seed=0",
    ("", "imdb"): "default",
}


@pytest.mark.parametrize(("overrides", "dataset"), list(NAMES))
def test_a_run_of_a_sweep_has_a_readable_name(overrides: str, dataset: str) -> None:
    assert run_name(overrides, dataset) == NAMES[overrides, dataset]


def test_names_are_safe_and_never_shared() -> None:
    awkward = [
        "data.path=/a b",
        "data.path=/a_b",
        "data.path=../x",
        "a=" + "x" * 300,
        "a=" + "x" * 301,
    ]
    names = [run_name(text, "imdb") for text in awkward]
    assert len(set(names)) == len(names)
    assert all(len(name) < 200 and "/" not in name and ".." not in name[:2] for name in names)


@pytest.mark.parametrize(
    "override", ["trainer=tpu", "optim=lion8", "callbacks=x", "trainer.logger=x"]
)
def test_a_suggestion_is_only_made_where_it_is_likely(override: str) -> None:
    (line,) = errors(override)
    assert "did you mean" not in line


def test_every_argument_of_the_trainer_is_a_key_or_refused_with_a_reason() -> None:
    theirs = inspect.signature(lightning.Trainer).parameters
    ours = {key.removeprefix("trainer.") for key in KEYS if key.startswith("trainer.")}
    assert ours | set(REFUSED_ARGUMENTS) == set(theirs) and not ours & set(REFUSED_ARGUMENTS)
    for name in ours:
        key = KEYS[f"trainer.{name}"]
        if key.added:
            assert theirs[name].default in (key.default, None), name
    for name, reason in REFUSED_ARGUMENTS.items():
        assert errors(f"trainer.{name}=1") == [
            f"trainer.{name}=1: {name} of lightning.Trainer: {reason}"
        ]


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_an_argument_of_the_trainer_needs_no_plus(plus: str) -> None:
    line = check_command_line([f"{plus}trainer.max_steps=3"])
    assert line.errors == [] and line.jobs[0].trainer.max_steps == 3
    grid = check_command_line([f"{plus}trainer.max_steps=3,4", "data=synthetic"], multirun=True)
    assert [job.trainer.max_steps for job in grid.jobs] == [3, 4]


@pytest.mark.parametrize(
    "path", ["/data/é", "/data/a=b,c", "/data/it's", "/data/a&b", "/data/(1)", "~/a b", "/a#b%"]
)
@pytest.mark.parametrize("key", ["data.path", "hydra.run.dir", "resume", "data.cache_dir"])
def test_any_path_needs_no_quotes(key: str, path: str, tmp_path: Path) -> None:
    path = path.replace("/data", str(tmp_path))
    if not path.startswith("~"):
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except UnicodeEncodeError:
            pytest.skip("no such path on this system")
    quoted = quote_path_override(f"{key}={path}")
    line = check_command_line(["data=synthetic"] if "hydra" in key else [])
    (override,) = OverridesParser.create().parse_overrides([quoted])
    assert override.value() == path and line.errors == []


def test_the_jobs_of_a_grid_are_composed_as_hydra_composes_them() -> None:
    given = ["model=rnn,custom_gru", "seed=3,4", "optim.lr=0.1", "model.name=a-b", "data=synthetic"]
    grid = check_command_line(given, multirun=True)
    folder = ["hydra.sweep.dir=outputs/sweeps/mine"]
    named = check_command_line([*given, *folder], multirun=True)
    assert grid.errors == named.errors == [] and len(grid.jobs) == 4
    for line in (grid, named):
        for cfg, name, (model, seed) in zip(
            line.jobs, line.names, product(("rnn", "custom_gru"), (3, 4)), strict=True
        ):
            job = [f"model={model}", f"seed={seed}", *given[2:], *line.naming]
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                expected = compose("config", overrides=job, return_hydra_config=True)
            with names_of_grid(line.swept_keys):
                assert name == expected.hydra.sweep.subdir
            assert name.startswith(f"model={model},seed={seed}")
            with open_dict(expected):
                del expected["hydra"]
            assert OmegaConf.to_yaml(cfg) == OmegaConf.to_yaml(expected)


def test_one_batch_and_all_batches_are_two_configurations() -> None:
    one, every = (composed(f"+trainer.limit_train_batches={value}") for value in ("1", "1.0"))
    assert config_hash(one) != config_hash(every)
