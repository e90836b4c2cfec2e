"""The reference of the configuration, generated from the schema: --help and a page of docs/."""

from __future__ import annotations

import textwrap
from itertools import groupby

from .schema import GROUPS, SCHEMA, Key


USAGE = """\
python -m imdb_lightning KEY=VALUE ... trains a classifier, then tests it once.

  python -m imdb_lightning model=gru trainer.max_epochs=10
  python -m imdb_lightning -m model=rnn,lstm,gru seed=0,1,2     a grid of runs
  python -m imdb_lightning -m hydra/sweeper=optuna 'optim.lr=interval(1e-3,1e-2)'    a search
  python -m imdb_lightning resume=DIRECTORY                     resume a run
  python -m imdb_lightning --cfg job                            show the configuration

Options: -m/--multirun, --cfg job, --config-dir DIRECTORY (experiments of your own), --hydra-help.
Exit codes: 0 done; 1 the run failed; 2 the command line is wrong; 130, 143 interrupted, terminated.
"""
PAGE = """\
# Configuration

Every key of a run, generated from [the schema](../imdb_lightning/config/schema.py) by
`make docs`. A value is set on the command line, as in `optim.lr=3e-3`, or in a file of
[conf/](../conf); `python -m imdb_lightning --help` prints the same list, and
`python -m imdb_lightning --cfg job` what a command line composes.

| group | options |
|---|---|
"""


def shown(value: object) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def default(key: Key) -> str:
    return "" if key.added else shown(key.default)


def help_text() -> str:
    """What --help prints."""
    lines = [USAGE, "Groups (GROUP=OPTION):"]
    lines += [f"  {name:11} {options}" for name, options in GROUPS.items()]
    for group, keys in groupby(SCHEMA, key=lambda key: key.group):
        lines += ["", f"Keys of {group or 'the run'}:"]
        for key in keys:
            lines.append(f"  {key.name}={default(key)}".removesuffix("=" * key.added))
            only = f" ({key.only})" if key.only else ""
            text = f"{key.doc}{only}; {key.rule.description}"
            lines += textwrap.wrap(text, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def markdown() -> str:
    """The content of docs/configuration.md."""
    lines = [f"| `{name}` | {options} |" for name, options in GROUPS.items()]
    for group, keys in groupby(SCHEMA, key=lambda key: key.group):
        lines += ["", f"## {f'`{group}`' if group else 'The run'}", ""]
        lines += ["| key | default | allowed | meaning |", "|---|---|---|---|"]
        for key in keys:
            only = f" (`{key.only}`)" if key.only else ""
            value = f"`{default(key)}`" if default(key) else "not set"
            lines.append(f"| `{key.name}` | {value} | {key.rule.description} | {key.doc}{only} |")
    return PAGE + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
