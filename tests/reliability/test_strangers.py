"""A run directory may come from anybody: it runs no code, takes no memory, and gives one line.

pytest tests/reliability/test_strangers.py
"""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imdb_lightning import load
from imdb_lightning.inference import LoadError
from imdb_lightning.plan import CommandLineError, make_plan
from imdb_lightning.report.runs import collect
from imdb_lightning.runs import checkpoint, unpickler
from imdb_lightning.runs.run import Run
from tests.conftest import TINY, command, run_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = run_of(tmp_path_factory.mktemp("runs") / "run")
    (path / ".hydra" / "overrides.yaml").write_text(json.dumps([*TINY]))
    return path


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def configured(before: str, after: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        file = run / ".hydra" / "config.yaml"
        text = file.read_text("utf-8")
        assert before in text
        file.write_text(text.replace(before, after))

    return change


def measured(name: str, value: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        file = run / "metrics.json"
        text = file.read_text("utf-8")
        assert f'"{name}": ' in text
        file.write_text(text.replace(f'"{name}": ', f'"{name}": {value}, "other": ', 1))

    return change


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        for file in (run / "checkpoints").iterdir():
            content = torch.load(file, weights_only=True)
            change(content["state_dict"])
            torch.save(content, file)

    return changed


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        content = json.loads((run / "tokenizer.json").read_text("utf-8"))
        change(content)
        (run / "tokenizer.json").write_text(json.dumps(content))

    return changed


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return changed


def zeros_that_share_one_number(state_dict: dict[str, Any]) -> None:
    state_dict.update({k: torch.zeros(()).expand(v.shape) for k, v in state_dict.items()})


def compressed(run: Path) -> None:
    """A checkpoint of less than a megabyte that would be 200 in memory."""
    for file in (run / "checkpoints").iterdir():
        made = zipfile.ZipFile(f"{file}.new", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        with zipfile.ZipFile(file) as old, made as new:
            for name in old.namelist():
                with new.open(name, "w") as member:
                    if name.endswith("data/0"):
                        for _ in range(200):
                            member.write(bytes(2**20))
                    else:
                        member.write(old.read(name))
        os.replace(f"{file}.new", file)


HEAD = "head.3.bias"
HOSTILE = {
    "a pipe": (replaced(".hydra/config.yaml", os.mkfifo), "not a regular file"),
    "metrics in a pipe": (replaced("metrics.json", os.mkfifo), "not a regular file"),
    "endless": (replaced("tokenizer.json", lambda f: f.symlink_to("/dev/zero")), "not a regular"),
    "deep": (replaced("metrics.json", lambda f: f.write_text("[" * 100_000)), "nested too deeply"),
    "large": (replaced("metrics.json", lambda f: f.write_bytes(b" " * 2**23)), "larger than 4 MiB"),
    "layers": (configured("num_layers: 1", "num_layers: 1000000000"), "model.num_layers"),
    "length": (configured("max_length: 60", f"max_length: 1{'0' * 30}"), "max_length"),
    "width": (configured("hidden_size: 8", "hidden_size: 30000"), "do not fit"),
    "sizes": (configured("test_size: 16", "test_size: 1000000000"), "data.test_size"),
    "aliases": (configured("seed: 0", "seed: 0\na: &a [1]\nb: [*a, *a]"), "aliases"),
    "another class": (configured("torch.nn.LSTM", "os.system"), "is not part of imdb_lightning"),
    "a word": (measured("temperature", '"abc"'), "temperature: must be"),
    "a list": (measured("temperature", "[1]"), "temperature: must be"),
    "digits": (measured("temperature", "1" + "0" * 400), "an integer of 401 digits"),
    "negative": (measured("temperature", "-1e-9"), "temperature: must be"),
    "not a number": (measured("temperature", "NaN"), "not a finite number"),
    "parameters": (measured("parameters", "1" + "0" * 400), "an integer of 401 digits"),
    "one number": (weights(zeros_that_share_one_number), "not contiguous|larger than its storage"),
    "NaN": (weights(lambda s: s[HEAD].fill_(float("nan"))), "NaN or infinity"),
    "double": (weights(lambda s: s.update({HEAD: s[HEAD].double()})), "one floating-point type"),
    "complex": (weights(lambda s: s.update({HEAD: s[HEAD] * 1j})), "ComplexFloatStorage"),
    "sparse": (weights(lambda s: s.update({HEAD: s[HEAD].to_sparse()})), "rebuild_sparse"),
    "nowhere": (weights(lambda s: s.update({HEAD: s[HEAD].to("meta")})), "rebuild_meta"),
    "compressed": (compressed, "larger in memory"),
    "rules": (tokenizer(lambda t: t.update(normalizer={"type": "NFC"})), "it has other rules"),
    "words": (
        tokenizer(lambda t: t["model"]["vocab"].update({f"w{i}": i + 2_000 for i in range(9)})),
        "its ids are not 0, 1, 2",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_run_writes_is_one_line(name: str, run: Path) -> None:
    change, expected = HOSTILE[name]
    change(run)
    tracemalloc.start()
    try:
        with pytest.raises(LoadError, match=expected) as caught:
            load(run)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).isprintable()
    assert peak < 100 * 2**20  # bytes; of Python's objects


@pytest.mark.parametrize("name", HOSTILE)
def test_a_report_and_a_resumed_run_survive_it(name: str, run: Path) -> None:
    Run(run).write_metrics({**Run(run).metrics, "status": "interrupted"})
    HOSTILE[name][0](run)
    found = collect([run])
    assert len(found.unfinished) + len(found.problems) == 1
    try:
        make_plan([f"resume={run}"])
    except CommandLineError as error:
        assert all(len(line.splitlines()) == 1 for line in error.args)
    except ValueError:
        pytest.fail("not one line")
    for file in (run / "checkpoints").iterdir():
        try:
            checkpoint.read(file)
        except checkpoint.CorruptCheckpointError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x={_target_:shutil.copy,src:metrics.json,dst:stolen}",
        "hydra.job.env_set={A:b}",
        "hydra/launcher=basic",
        "model.cell._target_=stranger.Cell",
        "data.path=${oc.env:HOME}",
    ],
)
def test_overrides_of_a_stranger_reach_nothing(override: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "stranger.py").write_text("open('imported', 'w')")
    own = ["model=custom_rnn"] if "model.cell" in override else []
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([*TINY, *own, override]))
    Run(run).write_metrics({**Run(run).metrics, "status": "interrupted"})
    done = command(tmp_path, f"resume={run}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "stolen").exists() and not (tmp_path / "imported").exists()


def test_a_resumed_run_caches_where_this_command_says(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    stranger = [*TINY, f"data.cache_dir={elsewhere}"]
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps(stranger))
    done = command(tmp_path, f"resume={run}", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not elsewhere.exists()


def test_control_characters_never_reach_the_terminal(run: Path, tmp_path: Path) -> None:
    configured("name: lstm", 'name: "\\e[31mred <script>x</script>"')(run)
    (tmp_path / "r.csv").write_text("text,label\n\x1b[31msuperb,0\n")
    for arguments in (
        ["evaluate", run, "--file", "r.csv"],
        ["explain", run, "\x1b[31msuperb"],
        ["report", run, "--output", "report"],
        ["export", run, "--format", "safetensors", "--output", "exported"],
    ):
        name, *rest = arguments
        done = command(tmp_path, *rest, module=str(name))
        assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr, name
    for file in (tmp_path / "report" / "report.md", tmp_path / "exported" / "MODEL_CARD.md"):
        text = file.read_text("utf-8")
        assert "\x1b" not in text and "<script" not in text


def test_a_checkpoint_is_read_as_pytorch_reads_it(run: Path) -> None:
    file = run / "checkpoints" / "last.ckpt"
    mine, theirs = unpickler.loads(file.read_bytes()), torch.load(file, weights_only=True)

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return type(a) is type(b) and a == b

    assert equal(mine, theirs)
