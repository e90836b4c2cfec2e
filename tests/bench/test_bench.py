"""The benchmarks run, count correctly and write what they print; speed is asserted nowhere.

pytest tests/bench
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imdb_lightning.bench import __main__ as bench
from imdb_lightning.bench import contention
from imdb_lightning.bench.epoch import VARIANTS
from imdb_lightning.bench.gpu import gpu
from imdb_lightning.bench.gpu_layers import print_table
from imdb_lightning.bench.layers import CASES
from imdb_lightning.bench.step import PARTS, cell_flops
from imdb_lightning.bench.timing import interleaved, table
from tests.conftest import TINY, command, composed, run_of


def run(folder: Path, *arguments: str, seconds: int = 900) -> dict:
    """`python -m imdb_lightning.bench ARGUMENTS`; returns the figures."""
    done = command(folder, *arguments, "--json", "figures.json", module="bench", timeout=seconds)
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "figures.json").read_text("utf-8"))
    assert set(figures) >= {"bench", "machine"}
    assert set(figures["machine"]) >= {"processor", "threads", "torch", "compiler", "when"}
    return figures


def test_the_names_of_the_command_line_are_those_of_the_bench() -> None:
    assert set(bench.NAMES) == set(CASES)
    assert set(bench.VARIANTS) == set(VARIANTS)
    assert bench.NEIGHBOURS == [*contention.VARIANTS]


@pytest.mark.slow
def test_layers(tmp_path: Path) -> None:
    sizes = "--length 4 --batch 3 --input 5 --hidden 4 --rounds 2 --threads 1".split()
    figures = run(tmp_path, "layers", "--cells", "rnn", "gru_before", *sizes)
    assert set(figures["memory"]) == {"default", "kept"}
    for part in figures["memory"].values():
        found = {(row["cell"], row["implementation"]): row for row in part["layers"]}
        ours = ("fused C", "fused PyTorch", "loop")
        names = {("rnn", kind) for kind in ("torch", *ours)}
        assert set(found) == names | {("gru_before", kind) for kind in ours}
        row = found["rnn", "loop"]
        ratio = found["rnn", "torch"]["both_ms"]["median"] / row["both_ms"]["median"]
        assert row["times_as_fast_as"]["torch"] == pytest.approx(ratio)
        assert part["packed_both_ms"].keys() == {"rnn packed"}


@pytest.mark.slow
def test_the_gpus_layers_are_measured_on_a_cpu_too(tmp_path: Path) -> None:
    options = "--device cpu --rounds 1 --threads 1 --stages layers --output".split()
    figures = run(tmp_path, "gpu", *options, str(tmp_path / "gpu"))
    assert figures["stages"]["layers"]["status"] == "done"
    assert figures == {**figures, **json.loads((tmp_path / "gpu" / "gpu.json").read_text("utf-8"))}
    assert {row["H"] for row in figures["layers"]} == {8, 16}
    for row in figures["layers"]:
        assert max(row["errors"].values()) < 1e-5, row["layer"]


@pytest.mark.slow
def test_every_stage_for_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    stages = ["epochs", "repeats", "mixed", "grid"]
    options = ["--device", "cpu", "--minutes", "14", "--output", str(tmp_path / "gpu")]
    figures = run(tmp_path, "gpu", *options, "--stages", *stages, seconds=900)
    found = figures["stages"]
    assert {name: stage["status"] for name, stage in found.items()} == dict.fromkeys(stages, "done")
    assert all(found["repeats"]["figures"].values())
    assert found["grid"]["figures"]["runs"] == 7


def test_a_gpu_bench_stops_cleanly_at_its_limit(tmp_path: Path) -> None:
    figures = gpu("cpu", 0.01, tmp_path / "gpu", rounds=1, stages=["layers", "mixed"])
    assert [stage["status"] for stage in figures["stages"].values()] == ["out of time"] * 2


def test_the_gpus_figures_on_the_page_are_those_that_are_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    docs = Path(__file__).parents[2] / "docs"
    kept = json.loads((docs / "gpu" / "layers.json").read_text("utf-8"))
    print_table([row for row in kept["layers"] if row["precision"] == "TF32"])
    table = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert table in (docs / "performance.md").read_text("utf-8")


@pytest.mark.slow
def test_step(tmp_path: Path) -> None:
    figures = run(tmp_path, "step", *TINY, "model=custom_rnn")
    assert set(PARTS) <= set(figures["parts_ms"])
    assert sum(figures["parts_ms"].values()) == pytest.approx(figures["step_ms"])
    assert figures["parts_ms"]["recurrent layer"] > 0


@pytest.mark.slow
def test_checkpointing(tmp_path: Path) -> None:
    long_enough = ["data.train_size=2000", "trainer.max_epochs=9"]
    figures = run(tmp_path, "checkpointing", *TINY, *long_enough, "model=custom_rnn")
    assert figures["step_ms"] > figures["guard_ms"]["median"] > 0
    assert figures["save_ms"]["median"] > 0 and figures["checkpoint_bytes"] > 10_000
    assert {file.name for file in tmp_path.iterdir() if file.is_dir()} <= {"cache"}


@pytest.mark.slow
def test_epoch_and_scaling(tmp_path: Path) -> None:
    figures = run(tmp_path, "epoch", "--variants", "fused", "plain script", "--rounds", "1")
    assert figures["dataset"] == "synthetic reviews"
    assert all(len(taken) == 1 for taken in figures["seconds"].values())
    figures = run(tmp_path, "scaling", "--cells", "rnn", "--rounds", "1")
    assert len(figures["sizes"]) == 12
    assert all(row["ns_per_token"].keys() == row["MiB"].keys() for row in figures["sizes"])


def test_a_step_of_the_reports_lstm_is_two_and_a_half_gflop() -> None:
    # input and state products, 4 gates, forward and twice backward: 6 * 200 * 64 * 256 * 128
    assert cell_flops(composed("experiment=report/custom_lstm")) == 2_516_582_400


def test_functions_are_timed_in_shuffled_rounds() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    rounds = ["".join(order[i : i + 2]) for i in range(0, 12, 2)]
    assert {*rounds} == {"ab", "ba"}  # each once a round, in an order that changes
    assert set(times) == {"a", "b"}
    assert all(t.least <= t.median <= t.most for t in times.values())


def test_a_table_lines_up() -> None:
    lines = table(["name", "ms"], [["a", "1.5"], ["longer", "10.0"]]).splitlines()
    assert lines == ["name      ms", "------  ----", "a        1.5", "longer  10.0"]


@pytest.mark.parametrize(
    "wrong", [[], ["layer"], ["layers", "--rounds", "0"], ["step", "x=1"], ["step", "model=gru"]]
)
def test_a_wrong_command_line_exits_with_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        bench.main(wrong)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.slow
def test_predict(tmp_path: Path) -> None:
    path = run_of(tmp_path / "run", "model=custom_lstm")
    figures = run(tmp_path, "predict", str(path), "--rounds", "1", "--threads", "1")
    assert len(figures["reviews_per_second"]) == 2
    for name, rate in figures["reviews_per_second"].items():
        assert rate == pytest.approx(16_000 / figures["ms"][name]["median"])


@pytest.mark.slow
def test_contention(tmp_path: Path) -> None:
    figures = run(tmp_path, "contention", "--rounds", "1", "--variants", "custom_rnn fused")
    times = figures["seconds"]
    assert set(times) == {"train custom_rnn fused", "predict custom_rnn fused"}
    for name, conditions in times.items():
        grid = {contention.GRID} if name.startswith("train") else set()
        assert set(conditions) == grid | {
            *(f"{count} busy" for count in contention.BUSY),
            *(contention.ALONE, contention.SECOND, contention.SPINNING, contention.SPINNING_BUSY),
        }
        assert all(seconds > 0 for found in conditions.values() for seconds in found)
