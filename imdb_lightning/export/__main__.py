"""Export a model for other programs, and verify that the logits are the same.

python -m imdb_lightning.export RUN --format onnx
python -m imdb_lightning.export RUN --format safetensors --output FOLDER

The folder contains model.onnx, model.pt2 or model.safetensors, tokenizer.json, config.json and a
MODEL_CARD.md. The inputs of ONNX and pt2 are tokens (B, T) and lengths (B,), both int64; the output
is logits (B, 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import cli


FORMATS = ("onnx", "pt2", "safetensors")


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0 if the export has the model's logits, 1 if it has not, 2 on bad input."""
    arguments = (p := parser()).parse_args(argv)
    from ..inference import LoadError, load  # late: torch takes seconds to import
    from .export import ExportError, export

    try:
        model = load(arguments.run, arguments.trust)
    except LoadError as error:
        p.fail(str(error))
    run = model.path.parent.parent if model.path.is_file() else model.path
    folder = Path(arguments.output or run / "export" / arguments.format)
    if folder.exists():
        p.fail(f"{folder}: already exists; give another --output")
    try:
        difference = export(model, arguments.format, folder)
    except ExportError as error:
        p.fail(str(error), code=cli.FAILED)
    print(f"largest difference of a logit: {difference:.2g}")
    print(folder)


def parser() -> cli.Parser:
    p = cli.Parser("export", __doc__)
    p.add_model()
    p.add_argument("--format", choices=FORMATS, required=True)
    p.add_argument("--output", metavar="FOLDER", help="default: RUN/export/FORMAT")
    return p


if __name__ == "__main__":
    main()
