"""The templates of the pages: one Jinja environment, one set of filters."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from ..config.text import markdown, printable


class ForeignFileError(Exception):
    """A file with a page's name that this command did not write."""


FILTERS: dict[str, Callable[..., str]] = {
    "acc": lambda x: "" if x is None else f"{x:.4f}",
    "percent": lambda x: "" if x is None else f"{100 * x:.2f}",
    "points": lambda x: "" if x is None else f"{100 * x:+.2f}",
    "p": lambda x: "" if x is None else ("< 0.0001" if x < 1e-4 else f"{x:.4f}"),
    "loss": lambda x: f"{x:,.4f}" if abs(x) < 100 else f"{x:,.0f}",
    "number": lambda x: "" if x is None else f"{x:,.0f}",
    "mib": lambda x: "" if x is None else f"{x / 2**20:,.0f}",
    "cell": lambda x: html.escape(str(x), quote=False).replace("|", "\\|"),
}


def render(package: str, name: str, variables: Mapping[str, Any]) -> str:
    """A template of `imdb_lightning.PACKAGE`. The values of variables are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(f"imdb_lightning.{package}"),
        autoescape=".html" in name,
        finalize=printable_value if ".html" in name else markdown_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=".md" in name,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(name).render(variables)


def printable_value(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def markdown_value(value: Any) -> Any:
    return markdown(value) if type(value) is str else value


def refuse_foreign(file: Path, *marks: str) -> None:
    """Raises ForeignFileError if the file or directory exists and has none of our marks."""
    if not file.exists():
        return
    text = file.read_text("utf-8", "replace") if marks else ""
    if not any(text.startswith(m) or (m.startswith("<meta") and m in text) for m in marks):
        raise ForeignFileError(
            f"{file}: not written by this command; move it away or give --output"
        )
