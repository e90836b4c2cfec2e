"""Draws docs/architecture.svg: the parts of the package and which imports which.

python docs/architecture.py

The arrows are those of the source: every import, without those that a longer way implies.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path


ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "imdb_lightning"
COMMANDS = "commands"  # every module that can be run, and what only they use
OF_COMMANDS = {"__main__", "plan", "preflight", "cli", "predict", "evaluate", "demo", "baselines"}
WIDTH, HEIGHT, LANE = 124, 40, 8  # pixels of a box, and of an arrow that passes a row
GAP, RISE = 24, 52  # pixels between boxes and between rows


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


def depths(graph: dict[str, set[str]]) -> dict[str, int]:
    """The row of each part: every arrow points down; parts without imports are in the last row."""
    depth: dict[str, int] = {}

    def measure(part: str) -> int:
        if part not in depth:
            above = [other for other in graph if part in graph[other]]
            depth[part] = 1 + max(map(measure, above), default=-1)
        return depth[part]

    last = max(map(measure, graph))
    return depth | {part: last for part in graph if not graph[part]}


def ways(graph: dict[str, set[str]], depth: dict[str, int]) -> list[list[str]]:
    """Each arrow as a list of places, one in each row that it passes."""
    return [
        [part, *(f"{part} {other} {row}" for row in range(depth[part] + 1, depth[other])), other]
        for part in sorted(graph)
        for other in sorted(graph[part])
    ]


def positions(graph: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """The middle of the top of each part and place, in pixels from the middle of the picture."""
    depth = depths(graph)
    steps = [pair for way in ways(graph, depth) for pair in pairwise(way)]
    rows: list[list[str]] = [[] for _ in range(1 + max(depth.values()))]
    for part in sorted(depth):
        rows[depth[part]].append(part)
    for _, place in steps:
        if place not in depth:
            rows[int(place.rsplit(" ", 1)[1])].append(place)
    x = {place: 0.0 for row in rows for place in row}

    def spread(row: list[str]) -> None:
        width = {place: WIDTH if place in depth else LANE for place in row}
        left = -(sum(width.values()) + GAP * (len(row) - 1)) / 2
        for place in row:
            x[place] = left + width[place] / 2
            left += width[place] + GAP

    for row in rows:
        spread(row)
    for turn in range(24):  # each place near the middle of those above and below it
        for row in rows if turn % 2 else reversed(rows):
            near = {p: [a if b == p else b for a, b in steps if p in (a, b)] for p in row}
            row.sort(key=lambda p: sum(x[q] for q in near[p]) / max(len(near[p]), 1))
            spread(row)
    return {p: (x[p], GAP + n * (HEIGHT + RISE)) for n, row in enumerate(rows) for p in row}


def svg() -> str:
    graph = reduced(imports())
    depth, at = depths(graph), positions(graph)
    width = 2 * (max(abs(x) for x, _ in at.values()) + WIDTH / 2 + GAP)
    height = max(y for _, y in at.values()) + HEIGHT + GAP
    lines = []
    for way in ways(graph, depth):
        points = [(at[place][0] + width / 2, at[place][1]) for place in way]
        x, y = points[0]
        path = f"M{x:.0f},{y + HEIGHT:.0f}"
        y += HEIGHT
        for place, (u, v) in zip(way[1:], points[1:], strict=True):
            v -= 4 if place in depth else 0
            bend = (v - y) / 2
            path += f" C{x:.0f},{y + bend:.0f} {u:.0f},{v - bend:.0f} {u:.0f},{v:.0f}"
            if place not in depth:
                path += f" L{u:.0f},{v + HEIGHT:.0f}"
            x, y = u, v + HEIGHT
        lines.append(f'<path d="{path}" marker-end="url(#arrow)"/>')
    for part in sorted(depth):
        x, y = at[part][0] + width / 2, at[part][1]
        ending = "" if part == COMMANDS else "/" if (PACKAGE / part).is_dir() else ".py"
        lines.append(
            f'<rect x="{x - WIDTH / 2:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            f'<text x="{x:.0f}" y="{y + HEIGHT / 2 + 5:.0f}">{part}{ending}</text>'
        )
    size = f"0 0 {width:.0f} {height:.0f}"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img">
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
