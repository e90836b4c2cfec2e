"""The console script, and the completion of shells.

pytest tests/test_console.py
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from imdb_lightning import __version__
from imdb_lightning.config.overrides import check_command_line
from imdb_lightning.console import __main__ as console
from imdb_lightning.console import completion
from imdb_lightning.console.completion import candidates
from tests.conftest import not_tested


def script(folder: Path) -> Path:
    """imdb-lightning, as the installed package has it."""
    file = folder / "imdb-lightning"
    code = "from imdb_lightning.console.__main__ import main; main()"
    file.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{code}' \"$@\"\n")
    file.chmod(0o755)
    return file


def test_every_command_has_a_main_and_runs_as_a_module_too() -> None:
    for name, (module, _) in console.COMMANDS.items():
        loaded = import_module(f"imdb_lightning.{module}")
        assert callable(loaded.main), name
        source = Path(str(loaded.__file__)).read_text("utf-8")
        assert 'if __name__ == "__main__":' in source


@pytest.mark.parametrize("command", [n for n in console.COMMANDS if n not in ("train", "pretrain")])
def test_the_help_of_a_command_is_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        console.main([command, "--help"])
    assert end.value.code == 0
    module = console.COMMANDS[command][0].removesuffix(".__main__")
    assert f"imdb_lightning.{module}" in capsys.readouterr().out


def test_the_script_without_and_with_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    console.main(["--version"])
    assert capsys.readouterr().out == f"imdb_lightning {__version__}\n"
    with pytest.raises(SystemExit) as end:
        console.main([])
    assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        console.main(["prdict", "x"])
    assert end.value.code == 2
    assert "prdict: no such command; --help lists them; did you mean predict?" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit) as end:
        console.main(["model=grru"])  # as python -m imdb_lightning
    assert end.value.code == 2
    assert "did you mean gru?" in capsys.readouterr().err


def test_what_may_follow() -> None:
    assert candidates("imdb-lightning pre") == ["predict", "pretrain"]
    assert candidates("imdb-lightning train mod") == ["model.", "model="]
    assert "model=custom_gru" in candidates("imdb-lightning train seed=1 model=")
    assert candidates("imdb-lightning model=rnn,l") == ["model=rnn,lstm"]
    assert candidates("imdb-lightning train trainer.max_t") == ["trainer.max_time="]
    assert candidates("imdb-lightning train model.pooling=mean_") == [
        "model.pooling=mean_max",
        "model.pooling=mean_padded",
    ]
    assert candidates("imdb-lightning predict outp") == []  # a file
    assert candidates("imdb-lightning train pretrained=out") == []
    for key in ("model", "data", "optim", "schedule", "trainer", "callbacks", "logger"):
        for text in candidates(f"imdb-lightning train {key}="):
            assert check_command_line([text]).errors == [], text


def completed_by_bash(folder: Path, line: str) -> list[str]:
    """What bash itself would offer after `line`, and by Tab."""
    program = f"""
source <(imdb-lightning completion bash)
COMP_LINE={shlex.quote(line)}
COMP_POINT=${{#COMP_LINE}}
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
COMP_WORDS=(imdb-lightning x)
COMP_CWORD=1
compopt() {{ :; }}
_imdb_lightning
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        check=True,
    )
    return done.stdout.split()


def test_bash_completes(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        not_tested("there is no bash")
    script(tmp_path)
    assert completed_by_bash(tmp_path, "imdb-lightning ex") == ["explain", "export"]
    # bash replaces what stands after the "=".
    assert completed_by_bash(tmp_path, "imdb-lightning train model=custom_l") == ["custom_lstm"]
    assert completed_by_bash(tmp_path, "imdb-lightning train schedule") == [
        "schedule.",
        "schedule=",
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        not_tested(f"there is no {shell}")
    file = tmp_path / "completion"
    file.write_text(completion.SHELLS[shell])
    assert subprocess.run([shell, "-n", str(file)], check=False).returncode == 0
