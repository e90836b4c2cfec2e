"""Shell completion of imdb-lightning: commands, keys, and the values they may have.

eval "$(imdb-lightning completion bash)"                        in ~/.bashrc
eval "$(imdb-lightning completion zsh)"                         in ~/.zshrc, after compinit
imdb-lightning completion fish | source                         in config.fish
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from .. import cli
from ..config.paths import conf_dir


SHELLS = {
    "bash": """\
_imdb_lightning() {
    local line="${COMP_LINE:0:COMP_POINT}" word="${COMP_WORDS[COMP_CWORD]}" IFS=$'\\n' found
    found=($(imdb-lightning completion --line "$line" 2>/dev/null))
    # bash splits words at "=".
    local current="${line##* }"
    if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then
        found=("${found[@]#"${current%%=*}="}")
    fi
    COMPREPLY=("${found[@]}")
    if [[ ${#found[@]} == 0 ]]; then compopt -o default; fi
    if [[ ${#found[@]} == 1 && ${found[0]} == *= ]]; then compopt -o nospace; fi
}
complete -F _imdb_lightning imdb-lightning""",
    "zsh": """\
_imdb_lightning() {
    local -a found
    found=("${(@f)$(imdb-lightning completion --line "${BUFFER[1,CURSOR]}" 2>/dev/null)}")
    found=(${found:#})
    if (( ${#found} )); then
        compadd -Q -S '' -- ${(M)found:#*=}
        compadd -Q -- ${found:#*=}
    else
        _files
    fi
}
compdef _imdb_lightning imdb-lightning""",
    "fish": """\
complete -c imdb-lightning -a '(imdb-lightning completion --line (commandline -cp) 2>/dev/null)'""",
}
OF_TRAIN = ("train", "pretrain")


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or with 2 for a shell that is not known."""
    options = parser().parse_args(argv)
    if options.line is not None:
        print(*candidates(options.line), sep="\n")
    elif options.shell is None:
        parser().fail("name a shell: bash, zsh or fish")
    else:
        print(SHELLS[options.shell])


def parser() -> cli.Parser:
    p = cli.Parser("console.completion", __doc__)
    p.add_argument("shell", nargs="?", choices=SHELLS)
    p.add_argument("--line", metavar="TEXT", help="what may follow this command line")
    return p


def candidates(line: str) -> list[str]:
    """What the last word of a command line may be; empty where it is a file, or anything."""
    words = line.split(" ")
    given, current = [word for word in words[1:-1] if word], words[-1]
    from .__main__ import COMMANDS

    if not given and "=" not in current:
        found = [name for name in COMMANDS if name.startswith(current)]
        return sorted(found) or _keys(current)
    if given and given[0] in COMMANDS and given[0] not in OF_TRAIN:
        return []
    key, equals, value = current.partition("=")
    if not equals:
        return _keys(current)
    *before, last = value.split(",")
    start = ",".join([*before, ""]) if before else ""
    return [f"{key}={start}{text}" for text in _values(key.lstrip("+")) if text.startswith(last)]


def _keys(current: str) -> list[str]:
    """One level at a time: "trainer." before its thirty keys."""
    from ..config.schema import GROUPS, KEYS

    names = {*GROUPS, *KEYS}
    found = set()
    for name in names:
        if name.startswith(current):
            level = current + name[len(current) :].split(".")[0]
            found.add(f"{level}=" if level in names else f"{level}.")
            if level != name:
                found.add(f"{level}.")
    return sorted(found)


def _values(key: str) -> Iterator[str]:
    from ..config.reference import shown
    from ..config.schema import GROUPS, KEYS

    if key in GROUPS:
        folder = conf_dir() / key
        for path, _, files in os.walk(folder):
            inner = os.path.relpath(path, folder)
            for file in sorted(files):
                if file.endswith(".yaml") and not file.startswith("_"):
                    name = file.removesuffix(".yaml")
                    yield name if inner == "." else f"{inner}/{name}"
    elif key in KEYS:
        description = KEYS[key].rule.description
        if description.startswith("one of "):
            yield from description.removeprefix("one of ").removesuffix(", or null").split(", ")
        elif KEYS[key].default is not None and not KEYS[key].added:
            yield shown(KEYS[key].default)


if __name__ == "__main__":
    main()
