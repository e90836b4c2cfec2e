"""A plan, run by PyTorch's operations: on any device, in any type, without a compiler.

What does not wait for the step before is computed for all steps at once: in the gradient, all
that does not depend on the gradient of the state after the step. The rest is a loop in Python that
is written once for a plan, so that nothing is decided between two operations.

Dimensions: T steps, B reviews, H hidden size, P inputs, R rows, S saved groups, D gradient columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..padding import padding_mask_like
from . import groups
from .groups import COMPARISONS, OVER_UNITS, UNARY, Node
from .loops import Loops
from .plan import Plan


SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
OF_TENSORS = ("maximum", "minimum", "where")  # operations that take no numbers
INTO = {*UNARY, *SIGNS, "maximum", "minimum"} - {"logical_not"}
"""Operations that can leave their result in a tensor that is there."""
TOGETHER = 16  # steps of which everything is computed ahead: what fits into a processor's cache
WIDE = ("product", "sum")
FUNCTIONS = {
    name: getattr(torch, name)
    for name in (
        *(*UNARY, *SIGNS, *OF_TENSORS, "logical_and", "logical_or"),
        *("cat", "addmm", "addcmul"),
    )
}
GIVEN = r"\b(?:[kp]\d+|matrix\d+|state\d+|grad\d+|inputs|padding|columns|above|like)\b"
"""What a text reads that is not made in it."""


class Interpreter(Loops):
    """The two loops over time of one plan."""

    name = "PyTorch"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.nodes = [*plan.graph.nodes]
        of_gradient = plan.graph.of_gradient()
        known = {*plan.inputs, *plan.rows}
        self.ahead, steps = _split(self.nodes, plan.forward, known.__contains__)
        self.steps = _with_inputs(self.nodes, steps, plan.inputs, {*plan.saved, *plan.after})
        roots = {*plan.columns, *plan.gradient.state}
        self.nodes_back = nodes = [*plan.graph.nodes]
        backward = _needed(nodes, _factored(nodes, plan.backward, of_gradient), roots)
        self.ahead_back, self.steps_back = _split(
            nodes, backward, lambda node: node not in of_gradient
        )
        self.loops: dict[Any, Callable[..., Any]] = {}

    def forward(
        self,
        inputs_TBPH: Tensor,
        rows_RH: Tensor,
        constants: Sequence[Tensor],
        states: Sequence[Tensor],
        lengths_B: Tensor | None,
        saved_TBSH: Tensor | None,
    ) -> None:
        """Fill `states`, (T+1, B, H) each, from their first row on, and `saved_TBSH`."""
        plan = self.plan
        padding_TB1 = padding_mask_like(inputs_TBPH, lengths_B)
        values = Values(self.nodes, constants, states[0][0])
        values.set(plan.rows, rows_RH.unbind())
        values.set(plan.inputs, inputs_TBPH.unbind(2))
        values.compute(self.ahead, self.loops)
        key = "forward", padding_TB1 is None, saved_TBSH is None
        if key not in self.loops:
            self.loops[key] = self._forward_loop(
                values, padding_TB1 is None, saved_TBSH is not None
            )
        given = values.given()
        given |= {f"state{k}": state.unbind() for k, state in enumerate(states)}
        given |= {"inputs": inputs_TBPH.flatten(2), "padding": padding_TB1}
        if saved_TBSH is not None:
            places = [group.unbind() for group in saved_TBSH.unbind(2)]
            given |= {f"p{node}": place for node, place in zip(plan.saved, places, strict=True)}
        self.loops[key](given)
        if saved_TBSH is not None:
            for s, node in enumerate(plan.saved):
                if node in values:  # known for all steps
                    saved_TBSH[:, :, s] = values.tensor(node)
                elif padding_TB1 is None and node in plan.after:
                    saved_TBSH[:, :, s] = states[plan.after.index(node)][1:]

    def _forward_loop(self, values: Values, whole: bool, keep: bool) -> Callable[..., Any]:
        plan = self.plan
        places = {node: f"p{node}[t]" for node in plan.saved} if keep else {}
        if whole:  # without padding the new state is where it belongs
            places |= {node: f"state{k}[t + 1]" for k, node in enumerate(plan.after)}
        text = Text(values, places)
        text.roots |= {*plan.after}
        for node, (kind, *rest) in enumerate(self.nodes):
            if kind == "state":
                text.line(f"v{node} = state{rest[0]}[t]")
        text.step(self.steps)
        for k, node in enumerate(plan.after):
            new = f"state{k}[t + 1]"
            if not whole:
                text.line(f"where(padding[t], state{k}[t], {text.tensor(node)}, out={new})")
            elif text.placed.get(node) != new:
                text.line(f"{new}.copy_({text.tensor(node)})")
        return text.loop("range(len(inputs))")

    def backward(
        self,
        rows_RH: Tensor,
        constants: Sequence[Tensor],
        states: Sequence[Tensor],
        lengths_B: Tensor | None,
        saved_TBSH: Tensor,
        grad_h_TBH: Tensor,
        grads: Sequence[Tensor],
        columns_TBDH: Tensor,
    ) -> list[Tensor]:
        """Fill `columns_TBDH`; the gradient of the first state. `grads`: of the last state."""
        plan = self.plan
        padding_TB1 = padding_mask_like(grad_h_TBH, lengths_B)
        T = len(grad_h_TBH)
        now = [grads[0] + grad_h_TBH[-1], *grads[1:]]
        above = [torch.zeros_like(grad_h_TBH[0]), *grad_h_TBH[:-1].unbind()]  # of the step before
        for end in range(T, 0, -TOGETHER):
            steps = slice(max(0, end - TOGETHER), end)
            values = Values(self.nodes_back, constants, states[0][0])
            values.set(plan.rows, rows_RH.unbind())
            values.set(plan.saved, saved_TBSH[steps].unbind(2))
            for k, state in enumerate(states):
                values.set([plan.graph.numbers.get(("state", k))], [state[steps]])
            values.compute(self.ahead_back, self.loops)
            key = "backward", padding_TB1 is None
            if key not in self.loops:
                self.loops[key] = self._backward_loop(values, padding_TB1 is None)
            columns = columns_TBDH[steps]
            given = values.given() | {"columns": columns.flatten(2), "above": above[steps]}
            given |= {f"grad{k}": grad for k, grad in enumerate(now)}
            given["padding"] = None if padding_TB1 is None else padding_TB1[steps]
            for node, column_TBH in zip(plan.columns, columns.unbind(2), strict=True):
                if node in values:
                    column_TBH.copy_(values.tensor(node))
                else:
                    given[f"p{node}"] = column_TBH.unbind()
            now = self.loops[key](given)
        if padding_TB1 is not None:
            columns_TBDH.masked_fill_(padding_TB1.unsqueeze(3), 0)
        return now

    def _backward_loop(self, values: Values, whole: bool) -> Callable[..., Any]:
        plan = self.plan
        places = {node: f"p{node}[t]" for node in plan.columns if node not in values}
        text = Text(values, places, plan.columns)
        text.roots |= {*plan.gradient.state}
        text.with_above = self._with_above()
        for node, (kind, *rest) in enumerate(self.nodes_back):
            if kind == "grad":
                text.line(f"v{node} = grad{rest[0]}")
        text.step(self.steps_back)
        for node in places:
            if node not in text.placed:  # the gradient of the state itself, or a number
                text.line(f"{places[node]}.copy_({text.tensor(node)})")
        for k, node in enumerate(plan.gradient.state):
            text.line(f"before{k} = {text.tensor(node)}")
        if text.with_above is None:
            text.line("before0 = before0 + above[t]")
        for k in range(plan.states):
            same = f"grad{k} + above[t]" if k == 0 else f"grad{k}"
            new = f"before{k}" if whole else f"where(padding[t], {same}, before{k})"
            text.line(f"grad{k} = {new}")
        first = ", ".join(f"grad{k}" for k in range(plan.states))
        return text.loop("reversed(range(len(above)))", f"return [{first}]")

    def _with_above(self) -> int | None:
        """A product, of one group, in the sum that is the gradient of the output before."""
        readers = [o for node in self.steps_back for o in operands(self.nodes_back[node])]
        readers += [*self.plan.columns, *self.plan.gradient.state]
        waiting = [self.plan.gradient.state[0]]
        while waiting:
            node = waiting.pop()
            kind, *rest = self.nodes_back[node]
            if readers.count(node) > 1 or node not in self.steps_back:
                continue
            if kind == "add":
                waiting += rest
            elif kind == "product":
                keys = [
                    self.nodes_back[n][1:4]
                    for n in self.steps_back
                    if self.nodes_back[n][0] == "product"
                ]
                if keys.count(self.nodes_back[node][1:4]) == 1 and rest[3] == 0:
                    return node
        return None


def operands(node: Node) -> tuple[int, ...]:
    """As groups.operands, with the nodes that `_with_inputs` makes."""
    return node[1] if node[0] == "sum" else groups.operands(node)


def _readers(nodes: list[Node], order: Iterable[int]) -> dict[int, list[int]]:
    """The nodes of a step that are computed from each node."""
    found: dict[int, list[int]] = {}
    for node in order:
        for operand in operands(nodes[node]):
            found.setdefault(operand, []).append(node)
    return found


def _split(
    nodes: list[Node], order: Iterable[int], is_known: Callable[[int], bool]
) -> tuple[list[int], list[int]]:
    """What can be computed for all steps at once, and the rest."""
    ahead: dict[int, None] = {}
    rest = []
    for node in order:
        below = operands(nodes[node])
        known = (o in ahead or is_known(o) or nodes[o][0] == "number" for o in below)
        if is_known(node) or all(known):
            ahead[node] = None
        else:
            rest.append(node)
    return [*ahead], rest


def _factored(nodes: list[Node], order: Iterable[int], of_gradient: set[int]) -> list[int]:
    """The order with sums of gradient * a * b as one gradient * factor, if that is one for all.

    The factors, which do not depend on the gradient, are appended to the nodes.
    """
    found: list[int] = []
    made: dict[Node, int] = {}
    factors: dict[int, tuple[int, int]] = {}  # what depends on the gradient, and its factor

    def factor(*node: Any) -> int:
        if node not in made:
            made[node] = len(nodes)
            nodes.append(node)
            found.append(made[node])
        return made[node]

    for node in order:
        kind, *rest = nodes[node]
        inside = [o for o in rest if o in of_gradient] if kind in (*SIGNS, "neg") else []
        parts = [factors.get(o) for o in inside]
        if kind == "mul" and len(inside) == 1:
            (other,) = [o for o in rest if o not in of_gradient]
            of, inner = parts[0] or (inside[0], None)
            factors[node] = of, other if inner is None else factor("mul", inner, other)
        elif kind == "neg" and parts[:1] != [None] and parts:
            factors[node] = parts[0][0], factor("neg", parts[0][1])  # type: ignore[index]
        elif kind in ("add", "sub") and len(parts) == 2 and None not in parts:
            (of, left), (other, right) = parts  # type: ignore[misc]
            if of == other:
                factors[node] = of, factor(kind, left, right)
        if node in factors:
            nodes[node] = ("mul", *factors[node])
        found.append(node)
    return found


def _with_inputs(
    nodes: list[Node], order: list[int], inputs: Sequence[int], roots: set[int]
) -> list[int]:
    """The order with products that are added to the inputs in one operation with them.

    ("sum", left, c, transposed, g, start, count): group g of the product's first `count` groups and
    of the inputs from `start` on.
    """
    readers = _readers(nodes, order)
    products: dict[Any, dict[int, int]] = {}
    for node in order:
        kind, *rest = nodes[node]
        if kind == "product":
            products.setdefault(tuple(rest[:3]), {})[rest[3]] = node
    gone = set()
    for key, by_group in products.items():
        sums = {}
        for g, node in by_group.items():
            reader, *others = readers.get(node, [node])
            kind, *rest = nodes[reader]
            parts = [o for o in rest if o in inputs] if kind == "add" and not others else []
            if len(parts) == 1 and node not in roots:
                sums[g] = reader, inputs.index(parts[0]) - g
        starts = {start for _, start in sums.values()}
        if (
            len(sums) == len(by_group) == max(by_group) + 1
            and len(starts) == 1
            and min(starts) >= 0
        ):
            for g, (reader, start) in sums.items():
                nodes[reader] = ("sum", *key, g, start, len(by_group))
                gone.add(by_group[g])
    return [node for node in order if node not in gone]


def _needed(nodes: list[Node], order: Sequence[int], roots: set[int]) -> list[int]:
    needed = {*roots}
    for node in reversed(order):
        if node in needed:
            needed.update(operands(nodes[node]))
    return [node for node in order if node in needed]


class Values(dict[int, Any]):
    """What is known for all steps: (T, B, H), or (H,) and numbers where it does not change."""

    def __init__(self, nodes: list[Node], constants: Sequence[Tensor], like_BH: Tensor) -> None:
        super().__init__()
        self.nodes = nodes
        self.constants = constants
        self.like_BH = like_BH

    def set(self, nodes: Iterable[int | None], values: Iterable[Any]) -> None:
        for node, value in zip(nodes, values, strict=True):
            if node is not None:
                self[node] = value

    def tensor(self, node: int) -> Tensor:
        """For all units, also what is one number."""
        value = self[node] if node in self else self.nodes[node][1]
        if isinstance(value, Tensor) and value.shape[-2:] == self.like_BH.shape:
            return value
        return torch.zeros_like(self.like_BH) + value

    def compute(self, order: Sequence[int], loops: dict[Any, Callable[..., Any]]) -> None:
        """By a loop of one turn, without times; it is kept in `loops`."""
        if not order:
            return
        key = tuple(order)
        if key not in loops:
            text = Text(self, {})
            text.times = ""
            text.step(order)
            names = ", ".join(f"v{node}" for node in order)
            loops[key] = text.loop("(0,)", f"return [{names}]")
        self.update(zip(order, loops[key](self.given(unbound=False)), strict=True))

    def given(self, unbound: bool = True) -> dict[str, Any]:
        """What a text reads."""
        found: dict[str, Any] = {"like": self.like_BH}
        found |= {f"matrix{c}": matrix for c, matrix in enumerate(self.constants)}
        for node, value in self.items():
            timed = unbound and isinstance(value, Tensor) and value.dim() == 3
            found[f"k{node}"] = value.unbind() if timed else value
        return found


class Text:
    """The loop over time as Python.

    v5 is node 5 in this step; k5 if it is known, k5[t] if it changes from step to step.
    """

    times = "[t]"
    with_above: int | None = None  # the product that the gradient of the output is added to

    def __init__(
        self, values: Values, places: dict[int, str], columns: tuple[int, ...] = ()
    ) -> None:
        """`places`: where the values of some nodes belong. `columns`: nodes side by side."""
        self.nodes = values.nodes
        self.H = values.like_BH.shape[1]
        self.timed = {n for n, v in values.items() if isinstance(v, Tensor) and v.dim() == 3}
        self.known = {*values}
        self.places = places
        self.columns = columns
        self.placed: dict[int, str] = {}
        self.wide = {
            *(n for n, v in values.items() if n in self.timed and v.shape[-1] == self.H),
            *(n for n, node in enumerate(self.nodes) if node[0] in ("state", "grad")),
        }
        self.lines: list[str] = []
        self.fixed: list[str] = []  # before the loop
        self.products: dict[Any, str] = {}
        self.part_of_a_sum: set[int] = set()
        self.roots = {*places}  # nodes that are read after the step

    def line(self, text: str) -> None:
        self.lines.append(text)

    def value(self, node: int) -> str:
        if node in self.known:
            return f"k{node}{self.times if node in self.timed else ''}"
        kind, *rest = self.nodes[node]
        if kind != "number":
            return f"v{node}"
        return f"({rest[0]!r})" if math.isfinite(rest[0]) else f'float("{rest[0]}")'

    def is_number(self, node: int) -> bool:
        return self.nodes[node][0] == "number"

    def tensor(self, node: int) -> str:
        """With a value for each review and unit."""
        return self.value(node) if node in self.wide else f"(zeros + {self.value(node)})"

    def filled(self, node: int) -> str:
        """A number as a tensor, made on the device: a copy to it could not be captured."""
        if not self.is_number(node):
            return self.value(node)
        self.fixed.append(f"number{node} = like.new_full((), {self.value(node)})")
        return f"number{node}"

    def _find_sums(self, order: Sequence[int]) -> set[int]:
        """The products unit by unit that one sum alone reads."""
        readers = _readers(self.nodes, order)
        found: set[int] = set()
        wide = {*self.wide}
        for node in order:
            kind = self.nodes[node][0]
            of_wide = wide.intersection(operands(self.nodes[node])) and kind not in OVER_UNITS
            if kind in WIDE or of_wide:
                wide.add(node)
        for node in order:
            kind, *rest = self.nodes[node]
            (reader, *others) = readers.get(node, [node, node])
            if kind != "mul" or others or node in self.roots or self.nodes[reader][0] != "add":
                continue
            other = [o for o in self.nodes[reader][1:] if o != node]
            if len(other) == 1 and other[0] not in found and {*rest, *other} <= wide:
                found.add(node)
        return found

    def step(self, order: Sequence[int]) -> None:
        self.part_of_a_sum = self._find_sums(order) if self.times else set()
        for node in order:
            kind, *rest = self.nodes[node]
            if kind in WIDE:
                self.wide.add(node)
                self.compute(node, self.product(rest, node == self.with_above))
            elif kind in OVER_UNITS:
                what = "sum(-1, keepdim=True)" if kind == "row_sum" else "amax(-1, keepdim=True)"
                parts = [f"{self.tensor(group)}.{what}" for group in rest[0]]
                if kind == "row_max" and len(parts) > 1:
                    parts = [f"cat([{', '.join(parts)}], -1).{what}"]
                if self.H == 1:
                    self.wide.add(node)
                self.compute(node, " + ".join(parts))
            else:
                self.operation(node, kind, rest)

    def operation(self, node: int, kind: str, given: list[int]) -> None:
        if node in self.part_of_a_sum:
            return
        for o in given if kind == "add" else ():
            if o in self.part_of_a_sum:
                (other,) = [p for p in given if p != o]
                factors = map(self.value, self.nodes[o][1:])
                self.wide.add(node)
                text = f"addcmul({self.value(other)}, {', '.join(factors)}"
                if node in self.places:
                    self.placed[node] = self.places[node]
                    text += f", out={self.places[node]}"
                self.line(f"v{node} = {text})")
                return
        if self.wide.intersection(given):
            self.wide.add(node)
        names = [self.filled(o) if kind in OF_TENSORS else self.value(o) for o in given]
        if all(map(self.is_number, given)):
            names[0] = self.filled(given[0])
        if node in self.wide and node in self.places and kind in INTO:
            first = self.is_number(given[0]) and kind not in OF_TENSORS
            if first and kind in ("add", "mul"):
                names, first = names[::-1], False
            if not first:
                self.placed[node] = self.places[node]
                self.line(f"v{node} = {kind}({', '.join(names)}, out={self.places[node]})")
                return
        sign = SIGNS.get(kind) or COMPARISONS.get(kind)
        self.compute(node, f" {sign} ".join(names) if sign else f"{kind}({', '.join(names)})")

    def compute(self, node: int, text: str) -> None:
        self.line(f"v{node} = {text}")
        if node in self.places:
            self.placed[node] = self.places[node]
            self.line(f"{self.places[node]}.copy_(v{node})")

    def product(self, rest: Sequence[Any], above: bool) -> str:
        """Of all groups of columns at once; with the inputs from number `start` on, or `above`."""
        left, c, transposed, g, *starts = rest
        key = left, c, transposed
        if key not in self.products:
            name = f"product{len(self.products)}"
            self.products[key] = name
            matrix = f"matrix{c}.mT" if transposed else f"matrix{c}"
            self.fixed.append(f"{name}_matrix = {matrix}")
            row = self.side_by_side(left)
            if above:
                text = f"addmm(above[t], {row}, {name}_matrix[:, :{self.H}])"
            elif starts:
                first, count = starts[0] * self.H, starts[1] * self.H
                self.fixed.append(f"{name}_in = inputs[..., {first} : {first + count}].unbind()")
                text = f"addmm({name}_in[t], {row}, {name}_matrix[:, :{count}])"
            else:
                text = f"{row} @ {name}_matrix"
            self.line(f"{name} = ({text}).split({self.H}, -1)")
        return f"{self.products[key]}[{g}]"

    def side_by_side(self, groups: tuple[int, ...]) -> str:
        if len(groups) == 1:
            return self.tensor(groups[0])
        places = [self.columns.index(o) if o in self.columns else -1 for o in groups]
        if self.times and places == [*range(places[0], places[0] + len(groups))] and places[0] >= 0:
            if all(o in self.placed or o in self.known for o in groups):
                start, end = (at * self.H for at in (places[0], places[-1] + 1))
                name = f"row{start}_{end}"
                self.fixed.append(f"{name} = columns[..., {start} : {end}].unbind()")
                return f"{name}[t]"
        return f"cat([{', '.join(map(self.tensor, groups))}], -1)"

    def loop(self, steps: str, end: str = "return None") -> Callable[..., Any]:
        """The function of what is given, by name."""
        before = ["zeros = like * 0", *dict.fromkeys(self.fixed)]
        text = "\n".join([*self.lines, *before, steps, end])
        given = [f'{name} = given["{name}"]' for name in sorted({*re.findall(GIVEN, text)})]
        source = [
            "def loop(given):",
            *(f"    {line}" for line in [*given, *before, f"for t in {steps}:"]),
            *(f"        {line}" for line in self.lines or ["pass"]),
            f"    {end}",
        ]
        found: dict[str, Any] = {}
        exec("\n".join(source), FUNCTIONS, found)
        return found["loop"]
