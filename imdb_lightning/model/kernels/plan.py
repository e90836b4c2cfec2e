"""What is computed in each step of a sequence, what is kept of it, and what waits for the end.

A pure function of the graph of a step: no tensor, no device. Emitters and the interpreter read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .groups import COSTLY, Gradient, Graph, MatrixGrad, Row, Step, VectorGrad


BEFORE = ("vector", "scalar")  # nodes that are rows, one for all steps and reviews
LEAVES = (*BEFORE, "number", "state", "grad", "input")


class Plan(NamedTuple):
    """Numbers are those of nodes in `graph`, in the order in which they are computed."""

    graph: Graph
    states: int
    inputs: tuple[int, ...]  # products of x, for all steps at once before the loop
    rows: tuple[int, ...]  # sums of parameters, one row for all steps and reviews
    forward: tuple[int, ...]  # computed in a step
    after: tuple[int, ...]  # the state after the step
    saved: tuple[int, ...]  # of a step, kept for its gradient
    backward: tuple[int, ...]  # computed in a step of the gradient
    columns: tuple[int, ...]  # of a step's gradient, kept for the sums over all steps
    gradient: Gradient
    states_after: tuple[int, ...] = ()  # tensors of the state after a step that its gradient reads

    def level(self, order: tuple[int, ...]) -> dict[int, int]:
        """How many times whole rows of the units are needed before a node can be computed."""
        levels: dict[int, int] = {}
        for node in order:
            below = self.graph.operands(node)
            level = max((levels.get(operand, 0) for operand in below), default=0)
            computed = any(operand in levels for operand in below)
            whole = self.graph.nodes[node][0] in ("product", "row_sum", "row_max")
            levels[node] = level + (whole and computed)
        return levels

    def states_read(self) -> tuple[int, ...]:
        """The tensors of the state before a step that its gradient reads."""
        nodes = self.graph.nodes
        read = {o for node in self.backward for o in self.graph.operands(node)}
        read |= {*self.columns, *self.gradient.state}
        return tuple(nodes[o][1] for o in sorted(read) if nodes[o][0] == "state")


def plan(step: Step, after_at_hand: bool = False) -> Plan:
    """`after_at_hand`: the gradient has the state after a step without its being saved, and
    recomputes what is on the left of an outer product."""
    graph, gradient = step.graph, step.gradient
    nodes = graph.nodes
    at_hand = {n for n in step.state if nodes[n][0] not in LEAVES} if after_at_hand else set()
    lefts = [node for node in _lefts(gradient) if nodes[node][0] != "state"]
    columns = tuple(dict.fromkeys(_columns(gradient)))
    roots = (*columns, *gradient.state)
    of_gradient = graph.of_gradient()
    of_roots = of_gradient.intersection(_needed(graph, roots, ()))
    read = {operand for node in of_roots for operand in graph.operands(node)}
    if after_at_hand:
        read.update(lefts)
    saved = _kept(graph, {*read, *roots} - of_gradient, at_hand)
    after = {node for node in at_hand if node in saved}
    saved -= after
    if not after_at_hand:  # what an outer product has on its left is read after the loop
        saved.update(lefts)
    forward = _needed(graph, (*step.state, *saved), ())
    backward = _needed(graph, (*roots, *lefts), {*saved, *after})
    used = {
        *step.state, *saved, *roots,
        *(o for node in (*forward, *backward) for o in graph.operands(node)),
    }  # fmt: skip
    inputs = [n for n in sorted(used) if nodes[n][0] == "input"]
    sums = {n for n in inputs if not nodes[n][1]}  # of vectors alone
    return Plan(
        graph,
        len(step.state),
        tuple(n for n in inputs if n not in sums),
        tuple(n for n in sorted(used) if nodes[n][0] in BEFORE or n in sums),
        forward,
        step.state,
        tuple(sorted(saved)),
        backward,
        columns,
        gradient,
        tuple(k for k, node in enumerate(step.state) if node in after),
    )


def _columns(gradient: Gradient) -> Iterator[int]:
    for groups, _ in gradient.x:
        yield from groups
    for constant in gradient.constants:
        if isinstance(constant, MatrixGrad):
            for _, right, _ in constant.products:
                yield from right.groups if isinstance(right, Row) else ()
        elif isinstance(constant, VectorGrad):
            for row in constant.rows:
                yield from row.groups


def _lefts(gradient: Gradient) -> Iterator[int]:
    for constant in gradient.constants:
        if isinstance(constant, MatrixGrad):
            for left, _, _ in constant.products:
                yield from left.groups if isinstance(left, Row) else ()


def _needed(graph: Graph, roots: Iterable[int], given: Iterable[int]) -> tuple[int, ...]:
    """What must be computed for the roots, leaves and `given` left out."""
    found, waiting = set(given), list(roots)
    needed = set()
    while waiting:
        node = waiting.pop()
        if node in found or graph.nodes[node][0] in LEAVES:
            continue
        found.add(node)
        needed.add(node)
        waiting += graph.operands(node)
    return tuple(sorted(needed))


def _kept(graph: Graph, roots: Iterable[int], at_hand: set[int]) -> set[int]:
    """What is kept so that the gradient has these nodes of the step: the costly ones below them.

    A function of what is at hand alone is computed once more; what of `at_hand` is read is in the
    result.
    """
    kept: set[int] = set()
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        kind, *rest = graph.nodes[node]
        if node in seen or (kind in LEAVES and not (kind == "input" and rest[0])):
            continue
        seen.add(node)
        operands = graph.operands(node)
        again = bool(operands) and at_hand.issuperset(operands) and kind != "product"
        if node in at_hand or (kind in COSTLY and not again):
            kept.add(node)
        else:
            waiting += operands
    return kept
