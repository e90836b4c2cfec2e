"""The console script: imdb-lightning COMMAND ... is python -m imdb_lightning.COMMAND ...

imdb-lightning train model=gru trainer.max_epochs=10
eval "$(imdb-lightning completion bash)"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from .. import cli
from ..config.text import did_you_mean
from ..runtime.version import __version__


COMMANDS = {
    "train": ("__main__", "train a classifier, then test it once; with -m a grid"),
    "predict": ("predict", "predict the sentiment of reviews"),
    "evaluate": ("evaluate", "test a model on labelled reviews"),
    "explain": ("explain.__main__", "look into a prediction: tokens, trajectory, gates"),
    "export": ("export.__main__", "export a model to ONNX, pt2 or safetensors"),
    "demo": ("demo", "a web page that predicts and explains"),
    "report": ("report.__main__", "compare runs with statistics, as a page"),
    "search": ("search.__main__", "the page of a search for hyperparameters"),
    "tune": ("tune.__main__", "find a learning rate"),
    "bench": ("bench.__main__", "measure speed and memory"),
    "pretrain": ("pretrain.__main__", "word vectors from unlabelled reviews"),
    "baselines": ("baselines", "models without recurrence"),
    "recipes": ("recipes.__main__", "the page of the ablation ladder"),
    "kernel": ("kernel", "print the kernel that is generated from a cell"),
    "completion": ("console.completion", "print the completion for bash, zsh or fish"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Exits as the command does; with 2 if there is no such command."""
    name, *arguments = [*(sys.argv[1:] if argv is None else argv), ""]
    arguments = arguments[:-1] if arguments else []
    if name == "--version":
        print(f"imdb_lightning {__version__}")
    elif name in ("", "-h", "--help", "help"):
        print(usage())
        sys.exit(0 if name else cli.USAGE)
    elif name in COMMANDS:
        import_module(f"imdb_lightning.{COMMANDS[name][0]}").main(arguments)
    elif name.startswith("-") or "=" in name:  # as python -m imdb_lightning takes it
        import_module("imdb_lightning.__main__").main([name, *arguments])
    else:
        cli.fail(f"{name}: no such command; --help lists them{did_you_mean(name, COMMANDS)}")


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    head = "imdb-lightning COMMAND ...     imdb-lightning COMMAND --help"
    return "\n".join([head, "", *lines, "", "Without a command it trains: KEY=VALUE ..."])


if __name__ == "__main__":
    main()
