"""What the pages hold, that nothing is averaged silently, and what is said of bad input.

pytest tests/report/test_page.py
"""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet
import pytest

from imdb_lightning.data import sources
from imdb_lightning.report import page
from imdb_lightning.report.runs import collect
from imdb_lightning.runs import sweep
from tests.conftest import command, write_parquet
from tests.report.conftest import Make, configuration


def written(*folders: Path) -> dict[str, str]:
    """report.md and report.html of these folders, as texts."""
    files = page.write(collect(folders), folders[0], "the command")
    return {file.suffix: file.read_text("utf-8") for file in files}


def rows(markdown: str, start: str) -> list[list[str]]:
    """The cells of the table rows that begin so."""
    lines = [line for line in markdown.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def report(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return command(Path.cwd(), *arguments, module="report")


class References(HTMLParser):
    """Everything that a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "img", "object", "embed"):
            self.found.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.found.append(f"{name}={value}")
            if name.startswith("on"):
                self.found.append(name)


# What the pages hold


def test_a_row_has_mean_spread_count_and_the_published_number(make: Make, tmp_path: Path) -> None:
    paths = [make(f"r{s}", "experiment=report/rnn", seed=s) for s in (0, 1, 2)]
    values = [json.loads((path / "metrics.json").read_text("utf-8")) for path in paths]
    mean = sum(v["val/acc"] for v in values) / 3
    sd = (sum((v["val/acc"] - mean) ** 2 for v in values) / 2) ** 0.5
    row, *_ = rows(written(tmp_path)[".md"], "report/rnn")
    name, paper, ours, seeds, points, within, _, best, parameters, seconds = row
    assert (name, paper, ours, seeds) == ("report/rnn", "0.8461", f"{mean:.4f} ± {sd:.4f}", "3")
    assert points == f"{100 * (mean - 0.8461):+.2f}"
    assert within.startswith(("yes (", "no ("))
    assert (best, parameters, seconds) == ("2.0", "1,234", "11")


def test_both_pages_say_the_same_numbers(make: Make, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make(f"r{seed}", "experiment=report/rnn", seed=seed)
        make(f"g{seed}", "experiment=report/gru", seed=seed, skill=1.6)
    pages = written(tmp_path)
    number = re.compile(r"[+-]?\d+\.\d+")
    plain = re.sub(
        r"<svg.*?</svg>|<style.*?</style>|<!--.*?-->", "", pages[".html"], flags=re.DOTALL
    )
    markdown = re.sub(r"<img.*?>", "", pages[".md"])
    assert sorted(number.findall(plain.replace("initial-scale=1", ""))) == sorted(
        number.findall(markdown)
    )


def test_a_missing_seed_shows_in_the_count(make: Make, tmp_path: Path) -> None:
    jobs = {}
    for seed in (0, 1, 2):
        cfg = configuration("experiment=report/rnn").copy()
        cfg.seed = seed
        jobs[f"seed={seed}"] = cfg
    for name in ("seed=0", "seed=1"):
        make(name, "experiment=report/rnn", seed=int(name[-1]))
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": sweep.plan(jobs)}))
    text = written(tmp_path)[".md"]
    assert rows(text, "report/rnn")[0][3] == "2 of 3"
    assert "`seed=2`: not started" in text


def test_runs_that_failed_are_listed_and_not_averaged(make: Make, tmp_path: Path) -> None:
    make("a", "experiment=report/rnn", seed=0)
    failed = {"status": "failed", "error": "ValueError: <the cell> gave up", "val/acc": 0.0}
    make("b", "experiment=report/rnn", seed=1, changes=failed)
    pages = written(tmp_path)
    assert rows(pages[".md"], "report/rnn")[0][3] == "1"
    assert "`b`: ValueError: &lt;the cell&gt; gave up" in pages[".md"]
    assert "ValueError: &lt;the cell&gt; gave up" in pages[".html"]


def test_synthetic_and_real_runs_are_never_averaged(make: Make, tmp_path: Path) -> None:
    for seed in (0, 1):
        make(f"r{seed}", "model=gru", "data.fallback=null", seed=seed)
        make(f"s{seed}", "model=gru", "data=synthetic", "data.max_length=200", seed=seed, skill=0.1)
    collection = collect([tmp_path])
    assert sorted((c.dataset, len(c.results)) for c in collection.configurations) == [
        ("imdb", 2),
        ("synthetic", 2),
    ]
    text = written(tmp_path)[".md"]
    assert "2 runs on IMDB's reviews, 2 on the synthetic corpus" in text
    assert "## Other configurations: imdb reviews" in text
    assert "## Other configurations: synthetic reviews" in text


def test_the_page_of_a_synthetic_grid_says_so(make: Make, tmp_path: Path) -> None:
    make("a", "data=synthetic")
    pages = written(tmp_path)
    assert "All of these runs are on the synthetic corpus." in pages[".md"]
    assert "All of these runs are on the <strong>synthetic</strong> corpus." in pages[".html"]


def test_configurations_are_labelled_by_their_differences(make: Make, tmp_path: Path) -> None:
    make("a", "model=gru", "optim.lr=0.01")
    make("b", "model=gru", "optim.lr=0.02")
    make("c", "model=custom_gru", "optim.lr=0.02")
    labels = {c.label for c in collect([tmp_path]).configurations}
    assert labels == {"gru lr=0.01", "gru lr=0.02", "custom_gru lr=0.02"}


def test_a_configuration_beside_the_reports_is_named_after_it(make: Make, tmp_path: Path) -> None:
    make("a", "experiment=report/custom_lstm")
    make("b", "experiment=report/custom_lstm", "model.loss=nll")
    assert rows(written(tmp_path)[".md"], "report/custom_lstm loss=nll")


def test_the_page_is_one_file_without_scripts_or_network(make: Make, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make(f"r{seed}", "experiment=report/rnn", seed=seed)
    text = written(tmp_path)[".html"]
    references = References()
    references.feed(text)
    assert references.found == []
    assert "@import" not in text and "url(" not in text.replace("url(#", "")
    assert text.count("<svg") == 3
    assert "currentColor" in text and "prefers-color-scheme: dark" in text


def test_the_plots_of_report_md_exist(make: Make, tmp_path: Path) -> None:
    make("r", "experiment=report/rnn")
    named = re.findall(r'src="(.*?)"', written(tmp_path)[".md"])
    assert len(named) == 3
    for name in named:
        text = (tmp_path / name).read_text("utf-8")
        assert text.startswith("<svg") and "currentColor" not in text


def test_the_same_runs_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make(f"r{seed}", "experiment=report/rnn", seed=seed)
    assert written(tmp_path) == written(tmp_path)


def test_names_and_reviews_are_escaped(make: Make, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    texts: dict[str, list] = {
        "text": [f"{evil} {n}" for n in range(1_000)],
        "label": [n % 2 for n in range(1_000)],
    }
    data = write_parquet(tmp_path / "d", train=texts, test=texts)
    changes = {"data": {"source": str(data), "fingerprint": sources.fingerprint(data)}}
    run = make("runs/a", "model=gru", changes=changes)
    config = run / ".hydra" / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("name: gru", "name: '<b>mine|yours'"))
    pages = written(tmp_path / "runs")
    assert "hardest for all" in pages[".html"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages[".html"]
    assert "<script" not in pages[".html"] and "<b>mine" not in pages[".html"]
    assert evil not in pages[".md"] and "&lt;b&gt;mine\\|yours" in pages[".md"]


# Bad input


def test_unreadable_runs_are_one_line_and_the_others_are_reported(
    make: Make, tmp_path: Path
) -> None:
    make("runs/good", "experiment=report/rnn", seed=0)
    make("runs/twin", "experiment=report/rnn", seed=0)
    (make("runs/no-metrics", "experiment=report/rnn", seed=1) / "metrics.json").unlink()
    (make("runs/bad-metrics", "experiment=report/rnn", seed=2) / "metrics.json").write_text('{"a')
    bad = make("runs/bad-predictions", "experiment=report/rnn", seed=3) / "predictions.parquet"
    bad.write_bytes(bad.read_bytes()[:100])
    (make("runs/no-config", "experiment=report/rnn", seed=4) / ".hydra/config.yaml").unlink()
    make("runs/few-metrics", "experiment=report/rnn", seed=5, changes={"epochs": []})
    (tmp_path / "empty").mkdir()
    done = report(tmp_path / "runs", tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    for path, what in {
        "no-metrics": "no metrics.json",
        "bad-metrics": "metrics.json is corrupt",
        "bad-predictions": "predictions.parquet is missing or corrupt",
        "no-config": ".hydra/config.yaml is missing or corrupt",
        "few-metrics": "metrics.json has no epochs",
        "twin": "the same configuration and seed; only the first is in the report",
    }.items():
        (line,) = (line for line in lines if f"{tmp_path / 'runs' / path}:" in line)
        assert what in line
    assert f"imdb_lightning.report: {tmp_path / 'empty'}: contains no runs" in lines
    assert len(lines) == 7
    text = (tmp_path / "runs" / "report.md").read_text("utf-8")
    assert rows(text, "report/rnn")[0][3] == "1"
    assert all(line.removeprefix("imdb_lightning.report: ") in text for line in lines)


WRONG = [
    {"seed": [1]},
    {"val/acc": None},
    {"seconds": "x"},
    {"device": ["cpu"]},
    {"data": "x"},
    {"versions": "x"},
    {"epochs": [{"epoch": 1}]},
]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_metrics_of_the_wrong_kind_are_one_line(
    make: Make, tmp_path: Path, changes: dict[str, object]
) -> None:
    make("good", "experiment=report/rnn", seed=0)
    make("bad", "experiment=report/rnn", seed=1, changes=changes)
    collection = collect([tmp_path])
    (line,) = collection.problems
    assert line.startswith(f"{tmp_path / 'bad'}: metrics.json ")
    assert re.search("has an epoch without its numbers|is corrupt: .*: must be ", line)
    assert len(collection.results) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", "[1]"),
        ("metrics.json", "null"),
        (".hydra/config.yaml", "[a]"),
        (".hydra/config.yaml", ""),
        (".hydra/config.yaml", "a: ${b}"),
        (".hydra/config.yaml", "a: [b"),
    ],
)
def test_files_of_the_wrong_kind_are_one_line(
    make: Make, tmp_path: Path, file: str, content: str
) -> None:
    make("good", "experiment=report/rnn", seed=0)
    (make("bad", "experiment=report/rnn", seed=1) / file).write_text(content)
    collection = collect([tmp_path])
    (line,) = collection.problems
    assert line.startswith(f"{tmp_path / 'bad'}: {file} is ") and "\n" not in line
    assert len(collection.results) == 1


def test_runs_on_other_reviews_are_never_averaged(make: Make, tmp_path: Path) -> None:
    make("a", "experiment=report/rnn", seed=0)
    make("b", "experiment=report/rnn", seed=1, changes={"data": {"fingerprint": "other"}})
    make("c", "experiment=report/gru", seed=1, skill=3)
    configurations = collect([tmp_path]).configurations
    assert [len(c.results) for c in configurations] == [1, 1, 1]
    assert len({c.label for c in configurations}) == 3


def test_runs_with_fewer_reviews_do_not_stop_the_report(make: Make, tmp_path: Path) -> None:
    make("a", "experiment=report/rnn", seed=0)
    short = make("b", "experiment=report/gru", seed=0) / "predictions.parquet"
    table = pyarrow.parquet.read_table(short)
    pyarrow.parquet.write_table(table.slice(0, 900), short)
    text = written(tmp_path)[".md"]
    assert "the runs did not see the same reviews" in text


def test_directories_that_overlap_are_read_once(make: Make, tmp_path: Path) -> None:
    make("a", "experiment=report/rnn", seed=0)
    collection = collect([tmp_path, tmp_path / "a"])
    assert collection.problems == [] and len(collection.results) == 1


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_to_report_is_one_line_and_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    done = report(tmp_path / name)
    assert done.returncode == 2
    assert done.stderr.count("\n") <= 2 and str(tmp_path / name) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.slow
def test_a_users_file_is_not_overwritten(make: Make, tmp_path: Path) -> None:
    make("runs/a", "experiment=report/rnn")
    mine = tmp_path / "runs" / "report.md"
    mine.write_text("my notes on python -m imdb_lightning.report")
    done = report(tmp_path / "runs")
    assert done.returncode == 2
    assert done.stderr == (
        f"imdb_lightning.report: {mine}: not written by this command; move it away or give "
        "--output\n"
    )
    assert mine.read_text("utf-8") == "my notes on python -m imdb_lightning.report"
    assert not (tmp_path / "runs" / "report.html").exists()
    assert report(tmp_path / "runs", "--output", tmp_path / "elsewhere").returncode == 0
    assert (tmp_path / "elsewhere" / "report.html").exists()
    mine.unlink()
    plot = tmp_path / "runs" / "report_plots" / "rnn-acc.svg"
    plot.parent.mkdir()
    plot.write_text("mine")
    assert report(tmp_path / "runs").returncode == 2
    assert plot.read_text("utf-8") == "mine"
