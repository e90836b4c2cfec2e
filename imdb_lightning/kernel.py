"""The source that is generated from a cell's step: C for a CPU, Triton for a GPU.

python -m imdb_lightning.kernel imdb_lightning.LSTMCell
python -m imdb_lightning.kernel imdb_lightning.GRUCell reset=before --triton
"""

from __future__ import annotations

from collections.abc import Sequence

from . import cli


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or with 2 where there is no such cell or nothing can be generated from it."""
    command = parser()
    options = command.parse_args(argv)
    arguments = dict(text.partition("=")[::2] for text in options.arguments)

    from .model.kernels.emit_c import emit as emit_c
    from .model.kernels.emit_triton import HEAD, Backward, Forward
    from .model.kernels.plan import plan
    from .model.kernels.sequence import Generated
    from .model.kernels.trace import CannotGenerateError
    from .model.network import cell_factory

    try:
        cell = cell_factory({"_target_": options.cell, **arguments})(options.input, options.hidden)
        generated = Generated(cell, cell.states)
    except CannotGenerateError as error:
        command.fail(f"{options.cell} runs as a loop: {error}")
    except Exception as error:  # third-party code may raise anything
        lines = str(error).strip().splitlines() or [""]
        command.fail(f"{options.cell}: {type(error).__name__}: {lines[0]}")
    if options.triton:
        kernels = [way(generated.plan).text() for way in (Forward, Backward)]
        print("\n\n".join([HEAD, *kernels]))
    else:
        print(emit_c(plan(generated.step, after_at_hand=True)).text)


def parser() -> cli.Parser:
    found = cli.Parser("kernel", __doc__)
    found.add_argument("cell", metavar="CELL", help="its class: package.module.Class")
    found.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="of its constructor")
    found.add_argument("--input", type=cli.positive, default=64, help="input size; default: 64")
    found.add_argument("--hidden", type=cli.positive, default=64, help="hidden size; default: 64")
    found.add_argument("--triton", action="store_true", help="for a GPU")
    return found


if __name__ == "__main__":
    main()
