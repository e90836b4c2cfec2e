"""Change a run directory, a review file or a command line at random: an answer, or one line.

python -m tests.reliability.fuzz --minutes 30
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from imdb_lightning import load
from imdb_lightning.config.schema import KEYS
from imdb_lightning.data.files import InputError, read_labelled, read_texts
from imdb_lightning.inference import LoadError
from imdb_lightning.plan import CommandLineError, NothingToDoError, make_plan
from imdb_lightning.report.runs import collect
from imdb_lightning.runs import checkpoint
from tests.conftest import TINY, run_of


LIMIT = 10  # seconds of one answer
STRANGE: list[Any] = [
    *(None, True, -1, 0, 1.5, 10**30, 1e308, "", "x", "\x1b[31m", "\u202e", "a" * 5_000),
    *([], {}, [[]], [1] * 1_000, {"a": {"b": 1}}, "${seed}", "${oc.env:HOME}", "../..", "\ud800"),
]
TEXTS = ["text", "label", "review", ",", '"', "'", "\n", "\r\n", "\0", "\ufeff", "a", "0", "1", "é"]
TEXTS += [
    "superb",
    "{",
    "}",
    '{"text": "a", "label": 1}',
    "null",
    "\\",
    "\ud800",
    "\u2028",
    " ",
    "\t",
]
VALUES = [
    "1",
    "0.5",
    "null",
    "true",
    "[1]",
    "a,b",
    "'x'",
    "é",
    "(",
    "{a:b}",
    "${seed}",
    "",
    " ",
    "=",
]
VALUES += [
    "gru",
    "synthetic",
    "1e400",
    "nan",
    "~",
    "a=b",
    "\\",
    "'",
    "choice(1,2)",
    "glob(*)",
    "x/y",
]


# Run directories


def mutate(run: Path, chance: random.Random) -> str:
    """Change one file of a run; says how."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    file = chance.choice(files)
    where = file.relative_to(run).as_posix()
    kinds: list[Callable[[Path, random.Random], None]] = [flip, cut, remove, link, repeat]
    if file.suffix == ".json":
        kinds += [change_json] * 6
    if file.suffix in (".yaml", ".json"):
        kinds += [change_text] * 4
    if file.suffix == ".ckpt":
        kinds += [change_tensor] * 6
    kind = chance.choice(kinds)
    kind(file, chance)
    return f"{kind.__name__} {where}"


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes() or b"x")
    for _ in range(chance.choice([1, 1, 10, 100])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file.write_bytes(content)


def cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content) + 1)])


def repeat(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes() * chance.choice([2, 50]))


def remove(file: Path, _: random.Random) -> None:
    file.unlink()


def link(file: Path, chance: random.Random) -> None:
    file.unlink()
    chance.choice(
        [
            lambda: file.symlink_to("/dev/zero"),
            lambda: file.symlink_to("/proc/self/environ"),
            lambda: file.symlink_to(file.parent),
            lambda: os.mkfifo(file),
            lambda: file.mkdir(),
        ]
    )()


def change_json(file: Path, chance: random.Random) -> None:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError:
        return  # changed before
    node = content
    while isinstance(node, dict | list) and node:
        keys = [*node] if isinstance(node, dict) else [*range(len(node))]
        key = chance.choice(keys)
        if not isinstance(node[key], dict | list) or not node[key] or chance.random() < 0.3:
            node[key] = chance.choice(STRANGE)
            break
        node = node[key]
    file.write_text(json.dumps(content))


def change_text(file: Path, chance: random.Random) -> None:
    lines = file.read_text("utf-8", "replace").splitlines() or [""]
    number = chance.randrange(len(lines))
    key = lines[number].partition(":")[0]
    lines[number] = f"{key}: {json.dumps(chance.choice(STRANGE))}"
    file.write_text("\n".join(lines))


def change_tensor(file: Path, chance: random.Random) -> None:
    try:
        content = torch.load(file, weights_only=True)
        state_dict = content["state_dict"]
        assert isinstance(state_dict, dict)
    except Exception:  # noqa: BLE001  changed before
        return
    name = chance.choice([*state_dict])
    tensor = state_dict[name]
    state_dict[name] = chance.choice(
        [
            lambda: tensor.fill_(float("nan")),
            lambda: tensor.double(),
            lambda: tensor.to(torch.complex64),
            lambda: tensor.to_sparse(),
            lambda: tensor.t() if tensor.dim() == 2 else tensor,
            lambda: tensor[:1],
            lambda: torch.zeros(()).expand(10**6),
            lambda: tensor.to("meta"),
            lambda: tensor.to(torch.int64),
            lambda: chance.choice(STRANGE),
        ]
    )()
    if chance.random() < 0.2:
        content[chance.choice([*content])] = chance.choice(STRANGE)
    torch.save(content, file)


def answers_of_run(run: Path) -> None:
    """Everything that reads a run directory. Raises what is not an answer."""
    one_line(LoadError, lambda: load(run).predict(["a superb film"]))
    found = collect([run])
    assert all(len(line.splitlines()) == 1 for line in found.problems)
    one_line((CommandLineError, NothingToDoError), lambda: make_plan([f"resume={run}"]))
    for name in ("last", "best"):
        file = run / "checkpoints" / f"{name}.ckpt"
        one_line(checkpoint.CorruptCheckpointError, partial(checkpoint.read, file))


def one_line(expected: Any, call: Callable[[], object]) -> None:
    started = time.monotonic()
    try:
        call()
    except expected as error:
        lines = [str(line).splitlines() for line in error.args]
        assert lines and all(len(line) == 1 for line in lines), error.args
    assert time.monotonic() - started < LIMIT


# Review files and command lines


def review_file(folder: Path, chance: random.Random) -> str:
    file = folder / f"r{chance.choice(['.txt', '.csv', '.jsonl', '.parquet', '.CSV', '.x'])}"
    if chance.random() < 0.2:
        content = chance.randbytes(chance.randrange(200))
    else:
        encoding = chance.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig", "cp1252", "utf-32"])
        text = "".join(chance.choices(TEXTS, k=chance.randrange(60)))
        text = chance.choice(["", "text\n", "text,label\n", "review, Sentiment\n"]) + text
        content = text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
    file.write_bytes(content)
    one_line(InputError, lambda: list(read_texts(file)))
    one_line(InputError, lambda: read_labelled(file))
    return f"{file.suffix} {content[:80]!r}"


def command_line(folder: Path, chance: random.Random) -> str:
    keys = [*KEYS, "model", "data", "optim", "trainer", "experiment", "hydra.run.dir", "x", "-m"]
    keys += ["hydra/launcher", "hydra/sweeper", "hydra.sweep.dir", "pretrain", "resume"]
    words = []
    for _ in range(chance.randrange(1, 4)):
        key = chance.choice(keys)
        if chance.random() < 0.15:
            key = key[: chance.randrange(len(key) + 1)] + chance.choice(["", "x", "+", ".", "é"])
        sign = chance.choice(["", "", "", "+", "~", "++", "--"])
        value = "".join(chance.choices(VALUES, k=chance.choice([1, 1, 1, 2])))
        words.append(key if key == "-m" else f"{sign}{key}={value}")
    one_line((CommandLineError, NothingToDoError), lambda: make_plan([*words, "data=synthetic"]))
    return str(words)


def cases(original: Path, folder: Path, seed: int) -> str:
    """One case. Raises if there is neither an answer nor one line."""
    chance = random.Random(seed)
    kind = chance.choice(["run", "run", "file", "line"])
    if kind == "file":
        return review_file(folder, chance)
    if kind == "line":
        return command_line(folder, chance)
    run = Path(shutil.copytree(original, folder / "run"))
    changes = [mutate(run, chance) for _ in range(chance.choice([1, 1, 2]))]
    answers_of_run(run)
    return ", ".join(changes)


def original_run(folder: Path) -> Path:
    path = run_of(folder / "original")
    (path / ".hydra" / "overrides.yaml").write_text(json.dumps([*TINY]))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found: collections.Counter[str] = collections.Counter()
    count = 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        original = original_run(Path(temporary))
        while time.monotonic() - started < 60 * arguments.minutes:
            seed = arguments.seed + count
            count += 1
            folder = Path(temporary, str(seed))
            folder.mkdir()
            try:
                cases(original, folder, seed)
            except (Exception, SystemExit) as error:  # noqa: BLE001  any is a finding
                where = traceback.extract_tb(error.__traceback__)[-1]
                key = f"{type(error).__name__} {Path(where.filename).name}:{where.lineno}"
                if not found[key]:
                    print(f"seed {seed}: {key}: {str(error)[:200]}", flush=True)
                found[key] += 1
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{count} cases, {sum(found.values())} without an answer: {dict(found)}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
