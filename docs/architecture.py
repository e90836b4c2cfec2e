"""Draws docs/architecture.svg: the parts of the package and which imports which.

python docs/architecture.py

The arrows are those of the source: every import, without those that a longer way implies.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from html import escape
from pathlib import Path


ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "imdb_lightning"
COMMANDS = "commands"  # every module that can be run, and what only they use
OF_COMMANDS = {"__main__", "plan", "preflight", "cli", "predict", "evaluate", "demo", "baselines"}
WIDTH, HEIGHT, GAP, RISE = 124, 44, 26, 66  # pixels of a box, and between boxes and rows


def parts_of(file: Path) -> str:
    """The part that a file belongs to."""
    names = file.relative_to(PACKAGE).with_suffix("").parts
    is_command = names[0] in OF_COMMANDS or names[-1] == "__main__"
    return COMMANDS if is_command or names == ("__init__",) else names[0]


def modules_of(file: Path) -> Iterable[Path]:
    """The files of the package that a file imports, those of type checking excluded."""
    tree = ast.parse(file.read_text("utf-8"))
    skipped = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in skipped:
            folder = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                for found in (
                    folder / f"{alias.name}.py",
                    folder / alias.name / "__init__.py",
                    folder.with_suffix(".py"),
                    folder / "__init__.py",
                ):
                    if found.is_file():
                        yield found
                        break


def imports() -> dict[str, set[str]]:
    """{part: the other parts that it imports}."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file == PACKAGE / "__init__.py":
            continue
        part = parts_of(file)
        others = {parts_of(other) for other in modules_of(file) if other != PACKAGE / "__init__.py"}
        found.setdefault(part, set()).update(others - {part})
    return found


def reachable(graph: dict[str, set[str]], part: str) -> set[str]:
    return graph[part].union(*(reachable(graph, other) for other in graph[part]))


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that a longer way implies."""
    return {
        part: {
            other
            for other in others
            if not any(other in reachable(graph, third) for third in others - {other})
        }
        for part, others in graph.items()
    }


def rows_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Parts in rows, so that every arrow points down."""
    height: dict[str, int] = {}

    def measure(part: str) -> int:
        if part not in height:
            height[part] = 1 + max(map(measure, graph[part]), default=-1)
        return height[part]

    for part in graph:
        measure(part)
    rows = [
        [p for p in sorted(graph) if height[p] == level]
        for level in range(max(height.values()) + 1)
    ]
    rows.reverse()
    place = {part: i - len(row) / 2 for row in rows for i, part in enumerate(row)}
    for _ in range(8):  # each part near the middle of those that import it
        for row in rows[1:]:
            above = {p: [q for q in graph if p in graph[q]] for p in row}
            row.sort(key=lambda p: sum(place[q] for q in above[p]) / max(len(above[p]), 1))
            place |= {part: i - (len(row) - 1) / 2 for i, part in enumerate(row)}
    return rows


def svg() -> str:
    graph = reduced(imports())
    rows = rows_of(graph)
    width = max(map(len, rows)) * (WIDTH + GAP) + GAP
    height = len(rows) * (HEIGHT + RISE) - RISE + 2 * GAP
    at = {
        part: (width / 2 + (i - (len(row) - 1) / 2) * (WIDTH + GAP), GAP + level * (HEIGHT + RISE))
        for level, row in enumerate(rows)
        for i, part in enumerate(row)
    }
    lines = []
    for part, others in sorted(graph.items()):
        for other in sorted(others):
            (x, y), (u, v) = at[part], at[other]
            y, v = y + HEIGHT, v - 4
            bend = (v - y) / 2
            lines.append(
                f'<path d="M{x:.0f},{y:.0f} C{x:.0f},{y + bend:.0f} {u:.0f},{v - bend:.0f} '
                f'{u:.0f},{v:.0f}" marker-end="url(#arrow)"/>'
            )
    for part, (x, y) in sorted(at.items()):
        name = part if part == COMMANDS or not (PACKAGE / part).is_dir() else f"{part}/"
        name = name if name.endswith("/") or part == COMMANDS else f"{part}.py"
        lines.append(
            f'<rect x="{x - WIDTH / 2:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            f'<text x="{x:.0f}" y="{y + HEIGHT / 2 + 5:.0f}">{escape(name)}</text>'
        )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>The parts of imdb_lightning and their imports</title>
<style>
rect {{ fill: #f6f7f9; stroke: #5b6470; }}
text {{ font: 15px system-ui, sans-serif; text-anchor: middle; fill: #1d2125; }}
path {{ fill: none; stroke: #5b6470; stroke-width: 1.2; }}
@media (prefers-color-scheme: dark) {{
rect {{ fill: #1d2126; stroke: #9aa4b0; }} text {{ fill: #e4e7ea; }} path {{ stroke: #9aa4b0; }}
}}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
orient="auto"><path d="M0,0 L8,4 L0,8 z" style="fill: #5b6470; stroke: none"/></marker></defs>
{chr(10).join(lines)}
</svg>
"""


if __name__ == "__main__":
    (Path(__file__).parent / "architecture.svg").write_text(svg(), "utf-8")
