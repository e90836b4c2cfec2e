"""A cell's step and its gradient as one graph of groups: tensors of (B, H), one value a unit.

What a cell computes is (B, n*H) wide: its gates side by side. Chunks, slices and concatenations of
gates are lists of groups here, so all that remains is arithmetic between groups, products with
matrices, and sums over the units of a review. Equal values are one node, so what the gradient
recomputes of the step is the step's own.

Dimensions: B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .trace import CannotGenerateError, Trace, line_of


Node = tuple[Any, ...]
"""One of, each identified by its number in `Graph.nodes`:

("number", value)                      a constant
("state", k), ("grad", k)              tensor k of the state before the step; the gradient after it
("vector", c, g), ("scalar", c)        group g of constant c; a constant of one number
("input", products, vectors)           the sum of products (c, g) of x with constant c (None: x
                                       itself) and of vectors: known before the first step
("product", left, c, transposed, g)    group g of the product of the groups `left` with matrix c
("row_sum", groups), ("row_max", ...)  over the units of a review, one number for all units
(operation, *operands)                 unit by unit
"""

# Operations unit by unit, with the operands of ATen's of the same name.
UNARY = (
    "sigmoid tanh exp expm1 log log1p sqrt rsqrt sin cos erf abs neg reciprocal sign logical_not"
).split()
BINARY = "add sub mul div maximum minimum gt ge lt le eq ne logical_and logical_or".split()
COMPARISONS = {"gt": ">", "lt": "<", "ge": ">=", "le": "<=", "eq": "==", "ne": "!="}
MASKS = {*COMPARISONS, "logical_and", "logical_or", "logical_not"}
"""Operations whose result is true or false."""
OVER_UNITS = ("row_sum", "row_max")
COSTLY = {
    *"sigmoid tanh exp expm1 log log1p sqrt rsqrt sin cos erf reciprocal div".split(),
    *("product", "input", *OVER_UNITS),
}
"""What is kept from the step for its gradient rather than computed once more."""


def operands(node: Node) -> tuple[int, ...]:
    """The numbers of the nodes that a node is computed from."""
    kind, *rest = node
    if kind in ("number", "state", "grad", "vector", "scalar", "input"):
        return ()
    return tuple(rest[0]) if kind in ("product", *OVER_UNITS) else tuple(rest)


class Graph:
    """Nodes in the order in which they can be computed; equal ones are one."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.numbers: dict[Node, int] = {}

    def add(self, *node: Any) -> int:
        if node not in self.numbers:
            self.numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self.numbers[node]

    def number(self, value: float) -> int:
        return self.add("number", float(value))

    def value(self, node: int) -> float | None:
        """Of a constant."""
        kind, *rest = self.nodes[node]
        return rest[0] if kind == "number" else None

    def operands(self, node: int) -> tuple[int, ...]:
        return operands(self.nodes[node])

    def as_mask(self, node: int) -> int:
        """A number as whether it is not zero."""
        is_mask = self.nodes[node][0] in MASKS
        return node if is_mask else self.add("ne", node, self.number(0))

    def as_number(self, node: int) -> int:
        """A mask as 1 and 0."""
        if self.nodes[node][0] not in MASKS:
            return node
        return self.add("where", node, self.number(1), self.number(0))

    def operation(self, name: str, *operands: int) -> int:
        """The node of an operation unit by unit, in its simplest form."""
        if name.startswith("logical"):
            operands = tuple(map(self.as_mask, operands))
        elif name == "where":
            operands = self.as_mask(operands[0]), *map(self.as_number, operands[1:])
        else:
            operands = tuple(map(self.as_number, operands))
        values = [self.value(operand) for operand in operands]
        if name == "add":
            if values[0] == 0:
                return operands[1]
            if values[1] == 0:
                return operands[0]
            if all(map(self.is_known, operands)):
                return self.before_the_loop(*operands)
            # known + (product + known), as torch.nn.functional.linear brings it
            for known, total in (operands, operands[::-1]):
                if self.is_known(known) and self.nodes[total][0] == "add":
                    for term, other in (self.nodes[total][1:], self.nodes[total][:0:-1]):
                        if self.is_known(other):
                            return self.operation("add", self.before_the_loop(known, other), term)
        elif name == "sub":
            if values[1] == 0:
                return operands[0]
            if values[0] == 0:
                return self.operation("neg", operands[1])
        elif name == "mul":
            if 0 in values:
                return self.number(0)
            if values[0] == 1:
                return operands[1]
            if values[1] == 1:
                return operands[0]
        elif name == "div" and values[1]:
            return self.operation("mul", operands[0], self.number(1 / values[1]))
        elif name == "neg" and values[0] is not None:
            return self.number(-values[0])
        if name in ("add", "sub", "mul") and None not in values:
            return self.number(getattr(operator, name)(*values))
        return self.add(name, *operands)

    def is_known(self, node: int) -> bool:
        """Before the first step."""
        return self.nodes[node][0] in ("input", "vector")

    def of_gradient(self) -> set[int]:
        """What depends on the gradient of the state after the step."""
        found: set[int] = set()
        for node, (kind, *_) in enumerate(self.nodes):  # operands come before their results
            if kind == "grad" or any(operand in found for operand in self.operands(node)):
                found.add(node)
        return found

    def before_the_loop(self, *operands: int) -> int:
        """The sum of inputs and vectors, which is known for all steps at once."""
        products: tuple[Any, ...] = ()
        vectors: tuple[int, ...] = ()
        for operand in operands:
            node = self.nodes[operand]
            products += node[1] if node[0] == "input" else ()
            vectors += node[2] if node[0] == "input" else (operand,)
        return self.add("input", products, vectors)


class Row(NamedTuple):
    """(B, n*H) as n groups. `one`: a number for all units, (B, n) or a constant."""

    groups: tuple[int, ...]
    one: bool = False


class Input(NamedTuple):
    """The row x of the input, (B, I)."""


class Matrix(NamedTuple):
    """Constant number `constant`, a matrix."""

    constant: int
    transposed: bool = False


class Turned(NamedTuple):
    """The transpose of a row."""

    row: Row | Input


class RowGrad(NamedTuple):
    """Products of rows with matrices that may be of any width: the gradient of x, or a row."""

    products: tuple[tuple[tuple[int, ...], Matrix], ...]


class MatrixGrad(NamedTuple):
    """A sum over steps and reviews of outer products left^T right, or of their transposes."""

    products: tuple[tuple[Row | Input, Row | Input, bool], ...]


class VectorGrad(NamedTuple):
    """A sum over steps and reviews of rows; where `to_one` is set, over units too."""

    rows: tuple[Row, ...]
    to_one: bool = False


class Gradient(NamedTuple):
    """The gradient of a step as sums over all steps, for the time after the loop."""

    x: tuple[tuple[tuple[int, ...], Matrix | None], ...]  # groups times matrix; None: themselves
    state: tuple[int, ...]  # node of each tensor
    constants: tuple[MatrixGrad | VectorGrad | None, ...]


class Step(NamedTuple):
    """What `lower` makes of a trace."""

    graph: Graph
    state: tuple[int, ...]  # node of each tensor of the state after the step
    gradient: Gradient


def lower(trace: Trace, I: int, H: int, states: int) -> Step:
    """The step and its gradient as groups. Raises CannotGenerateError that names the operation."""
    lowering = Lowering(trace.shapes, I, H)
    graph = lowering.graph
    before = [Row((graph.add("state", k),)) for k in range(states)]
    constants = [lowering.constant(c) for c in range(len(trace.shapes))]
    places = [Input(), *before, *constants]
    after = [lowering.row(value).groups[0] for value in lowering.run(trace.step, places)]
    grads = [Row((graph.add("grad", k),)) for k in range(states)]
    x, *rest = lowering.run(trace.gradient, [*places, *grads])
    gradient = Gradient(
        lowering.input_grad(x),
        tuple(lowering.row(value).groups[0] for value in rest[:states]),
        tuple(lowering.constant_grad(value) for value in rest[states:]),
    )
    return Step(graph, tuple(after), gradient)


class Lowering:
    """ATen's operations on values as above: one method an operation. Nothing else knows ATen."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], I: int, H: int) -> None:
        self.graph = Graph()
        self.shapes = shapes
        self.I = I
        self.H = H
        self.shape: tuple[int, ...] = ()
        self.shape_in: tuple[int, ...] = ()
        self.rules: dict[str, Callable[..., Any]] = {
            **{name: self._unary(name) for name in UNARY},
            **{name: self._binary(name) for name in BINARY},
            **{name[4:]: getattr(self, name) for name in dir(self) if name.startswith("aten")},
        }

    def run(self, module: fx.GraphModule, places: Iterable[Any]) -> list[Any]:
        """The outputs of a traced graph on these values."""
        found: dict[fx.Node, Any] = {}
        given = iter(places)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                found[node] = next(given)
            elif node.op == "get_attr":
                found[node] = self._attribute(getattr(module, node.target))
            elif node.op == "output":
                return [found.get(value, value) for value in node.args[0]]
            else:
                try:
                    found[node] = self._call(node, found)
                except CannotGenerateError as error:
                    raise CannotGenerateError(f"{error}{line_of(node)}") from error
        raise AssertionError("a graph without an output")

    def _attribute(self, tensor: Tensor) -> Row:
        if tensor.numel() != 1:
            raise CannotGenerateError(
                "it creates a tensor inside the step; register it as a buffer"
            )
        return Row((self.graph.number(tensor.item()),), one=True)

    def _call(self, node: fx.Node, found: dict[fx.Node, Any]) -> Any:
        def value(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                return found[argument]
            if isinstance(argument, list | tuple):
                return [value(part) for part in argument]
            return argument

        arguments = [value(argument) for argument in node.args]
        options = {name: value(argument) for name, argument in node.kwargs.items()}
        if node.target is operator.getitem:
            result = arguments[0][arguments[1]]
            self.shape = _shape(node)
            return self._checked(result, "split") if isinstance(result, Row) else result
        name = str(node.target).removeprefix("aten.").split(".")[0].removesuffix("_")
        rule = self.rules.get(name)
        if rule is None:
            raise CannotGenerateError(f"the operation {name} is not among those it is made from")
        first = node.args[0] if node.args else None
        self.shape = _shape(node)
        self.shape_in = _shape(first) if isinstance(first, fx.Node) else ()
        parts = first if isinstance(first, list | tuple) else ()
        self.parts = [_shape(part) for part in parts if isinstance(part, fx.Node)]
        try:
            result = rule(*arguments, **options)
            return self._checked(result, name) if isinstance(result, Row) else result
        except (IndexError, AttributeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CannotGenerateError(f"the operation {name} in this form: {reason}") from error

    def _groups_of(self, shape: tuple[int, ...]) -> int | None:
        """How many groups a tensor of this shape is; None where it is not whole gates."""
        if len(shape) == 3:  # (B, n, H) or (B, n, 1)
            return shape[1] if shape[2] in (1, self.H) else None
        if len(shape) == 2 and shape[1] != 1:
            return shape[1] // self.H if shape[1] % self.H == 0 else None
        return 1 if len(shape) <= 2 else None

    def _checked(self, row: Row, name: str) -> Row:
        """The row, if it is what the operation gives: a shape that is not of gates is refused."""
        shape = self.shape
        if len(shape) == 1 and math.prod(shape) > 1:  # a vector of parameters
            return row
        count = self._groups_of(shape)
        if count is None:
            raise CannotGenerateError(f"the operation {name} gives {shape}, not whole gates")
        if len(row.groups) == count:
            return row._replace(one=row.one or (shape[-1:] == (1,) and self.H > 1))
        if row.one and len(row.groups) == 1:
            return Row(row.groups * count, one=shape[-1] == 1 and self.H > 1)
        raise CannotGenerateError(f"the operation {name} gives {shape} in a way not known")

    # Values

    def constant(self, c: int) -> Row | Matrix:
        return Matrix(c) if len(self.shapes[c]) == 2 else self._vector(c)

    def _vector(self, c: int) -> Row:
        shape = self.shapes[c]
        count = math.prod(shape)
        if count == 1:
            return Row((self.graph.add("scalar", c),), one=True)
        if count != max(shape) or count % self.H:
            raise CannotGenerateError(
                f"a parameter of shape {shape} is neither a matrix nor a vector of whole gates"
            )
        return Row(tuple(self.graph.add("vector", c, g) for g in range(count // self.H)))

    def row(self, value: Any) -> Row:
        """A value as a row: numbers, and x where it is as wide as the state."""
        if isinstance(value, Row):
            return value
        if isinstance(value, bool | int | float):
            return Row((self.graph.number(value),), one=True)
        if value is None:
            return self.row(0)
        if isinstance(value, Matrix) and 1 in self.shapes[value.constant]:
            return self._vector(value.constant)
        if isinstance(value, Input) and self.I == self.H:
            return Row((self.graph.add("input", ((None, 0),), ()),))
        if isinstance(value, RowGrad):
            total = self.row(0)
            for groups, matrix in value.products:
                total = self.each("add", total, self.product(groups, matrix))
            return total
        if isinstance(value, Input):
            raise CannotGenerateError("the input enters outside a product, of another width")
        raise CannotGenerateError(f"a {type(value).__name__.lower()} where a row is needed")

    def product(self, left: tuple[int, ...], matrix: Matrix) -> Row:
        shape = self.shapes[matrix.constant]
        rows, columns = shape[::-1] if matrix.transposed else shape
        if rows != len(left) * self.H or columns % self.H:
            raise CannotGenerateError(f"a matrix of {rows} x {columns} is not of whole gates")
        return Row(
            tuple(
                self.graph.add("product", left, matrix.constant, matrix.transposed, g)
                for g in range(columns // self.H)
            )
        )

    def each(self, name: str, *values: Any) -> Row:
        """An operation unit by unit, group by group."""
        rows = [self.row(value) for value in values]
        count = max(len(row.groups) for row in rows)
        for row in rows:
            one = row.one or self.gates  # in (B, n, H), a vector is for each gate
            if len(row.groups) not in (1, count) or (len(row.groups) < count and not one):
                raise CannotGenerateError(f"{name} of rows of different widths")
        groups = [
            self.graph.operation(name, *(row.groups[g % len(row.groups)] for row in rows))
            for g in range(count)
        ]
        return Row(tuple(groups), all(row.one for row in rows))

    def input_grad(self, value: Any) -> tuple[tuple[tuple[int, ...], Matrix | None], ...]:
        """The gradient of x as products; without its gradient, none."""
        if isinstance(value, RowGrad):
            return value.products
        row = self.row(value)
        if row.one and self.graph.value(row.groups[0]) == 0:
            return ()
        return tuple(self._terms(row.groups[0], len(row.groups)))

    def _terms(self, node: int, width: int) -> Iterable[tuple[tuple[int, ...], Matrix | None]]:
        """A sum's terms: products with matrices, and the rest as it is."""
        kind, *rest = self.graph.nodes[node]
        if kind == "add":
            yield from (term for operand in rest for term in self._terms(operand, width))
        elif kind == "product" and rest[3] == 0:
            yield rest[0], Matrix(rest[1], rest[2])
        elif width == 1:
            yield (node,), None
        else:
            raise CannotGenerateError("the input enters outside a product, of another width")

    def constant_grad(self, value: Any) -> MatrixGrad | VectorGrad | None:
        if isinstance(value, VectorGrad):
            return value
        if isinstance(value, MatrixGrad):
            found = [self._oriented(*product) for product in value.products]
            return MatrixGrad(tuple(f for f in found if f is not None)) if any(found) else None
        row = self.row(value)  # of a constant that the step does not depend on
        if self.graph.value(row.groups[0]) == 0:
            return None
        raise CannotGenerateError("a parameter enters in a way that is not known")

    def _oriented(
        self, left: Row | Input, right: Row | Input, transposed: bool
    ) -> tuple[Row | Input, Row, bool] | None:
        """With what depends on the gradient on the right; None where nothing does: zero."""
        of_gradient = self.graph.of_gradient()
        if isinstance(right, Row) and of_gradient.intersection(right.groups):
            return left, right, transposed
        if isinstance(left, Row) and of_gradient.intersection(left.groups):
            return right, left, not transposed
        return None

    # Operations: `aten` and ATen's name. Reviews are dimension 0 and gates dimension 1.

    def _unary(self, name: str) -> Callable[..., Row]:
        return lambda value: self.each(name, value)

    def _binary(self, name: str) -> Callable[..., Row]:
        return lambda left, right: self.each(name, left, right)

    def aten_to_copy(self, value: Any, dtype: Any = None, **_: Any) -> Any:
        if dtype is not None and not dtype.is_floating_point and dtype != torch.bool:
            raise CannotGenerateError(f"it converts to {dtype}")
        if dtype in (torch.float16, torch.bfloat16):
            raise CannotGenerateError(f"it converts to {dtype}")
        if dtype == torch.bool:
            return self.each("ne", value, 0)
        return self.each("add", value, 0) if isinstance(value, Row) else value

    def atenadd(self, left: Any, right: Any, alpha: float = 1) -> Any:
        if alpha != 1:
            right = self.each("mul", right, alpha)
        if isinstance(left, RowGrad) and isinstance(right, RowGrad):
            return RowGrad(left.products + right.products)
        if isinstance(left, MatrixGrad) and isinstance(right, MatrixGrad):
            return MatrixGrad(left.products + right.products)
        if isinstance(left, VectorGrad) and isinstance(right, VectorGrad):
            return left._replace(rows=left.rows + right.rows)
        return self.each("add", left, right)

    def atensub(self, left: Any, right: Any, alpha: float = 1) -> Row:
        return self.each("sub", left, right if alpha == 1 else self.each("mul", right, alpha))

    def atenrsub(self, left: Any, right: Any, alpha: float = 1) -> Row:
        return self.atensub(right, left, alpha)

    def atenmm(self, left: Any, right: Any) -> Any:
        if isinstance(left, Turned) and isinstance(right, Row | Input | RowGrad):
            right = right if isinstance(right, Input) else self.row(right)
            return MatrixGrad(((left.row, right, False),))
        if not isinstance(right, Matrix):
            raise CannotGenerateError("a product of two tensors that both depend on the input")
        if isinstance(left, Input):
            rows, columns = self.shapes[right.constant]
            if right.transposed or columns % self.H:
                raise CannotGenerateError(f"a matrix of {rows} x {columns} is not of whole gates")
            parts = range(columns // self.H)
            return Row(tuple(self.graph.add("input", ((right.constant, g),), ()) for g in parts))
        if right.transposed:
            return RowGrad(((self.row(left).groups, right),))
        return self.product(self.row(left).groups, right)

    def atenaddmm(self, bias: Any, left: Any, right: Any) -> Any:
        return self.each("add", self.atenmm(left, right), bias)

    def atenpermute(self, value: Any, dims: Any) -> Any:
        if list(dims) != [1, 0]:
            raise CannotGenerateError(f"dimensions in the order {list(dims)}")
        if isinstance(value, Matrix):
            return value._replace(transposed=not value.transposed)
        if isinstance(value, MatrixGrad):
            return MatrixGrad(tuple((left, right, not t) for left, right, t in value.products))
        if isinstance(value, Turned):
            return value.row
        return Turned(value if isinstance(value, Input) else self.row(value))

    def aten_same(self, value: Any, *_: Any, **__: Any) -> Any:
        return value

    atenclone = atenalias = atendetach = atenlift_fresh_copy = aten_same
    atenunsqueeze = atensqueeze = aten_same

    def atenexpand(self, value: Any, *_: Any, **__: Any) -> Any:
        """One number for all units becomes as many groups as the shape has."""
        if isinstance(value, Row) and value.one and self.shape and self.shape[-1] != 1:
            count = self._groups_of(self.shape)
            if count is not None and count % len(value.groups) == 0:
                return Row(value.groups * (count // len(value.groups)))
        return value

    def atenview(self, value: Any, shape: Any) -> Any:
        """(B, n*H), (B, n, H), and sums over reviews without the dimension that is gone."""
        if isinstance(value, Row) and not value.one and self.shape[-1] % self.H:
            raise CannotGenerateError(f"a view that cuts a gate: {list(self.shape)}")
        return value

    atenreshape = aten_unsafe_view = atenview

    def _cut(self, start: int, end: int, width: int) -> slice:
        """Columns as groups; in (B, n, H), gates."""
        if len(self.shape_in) == 3:
            return slice(start, min(end, width))
        start, end = (min(at + width if at < 0 else at, width) for at in (start, end))
        if start % self.H or end % self.H:
            raise CannotGenerateError(f"columns {start} to {end} cut a gate of {self.H} units")
        return slice(start // self.H, end // self.H)

    def atenslice(self, value: Any, dim: int = 0, start: Any = 0, end: Any = None, *_: Any) -> Any:
        dim %= max(1, len(self.shape_in))
        if dim == 0 and self.shape == self.shape_in:
            return value
        if dim != 1:
            raise CannotGenerateError("a slice of reviews, or within gates")
        row = self.row(value)
        width = len(row.groups) * self.H
        part = self._cut(start or 0, width if end is None else end, width)
        return row._replace(groups=row.groups[part])

    def atenslice_scatter(
        self, value: Any, part: Any, dim: int = 0, start: Any = 0, end: Any = None, *_: Any
    ) -> Any:
        if dim == 0:
            return part
        width = self.shape[1]
        count = width if len(self.shape) == 3 else width // self.H
        groups = list(self._widened(value, count).groups)
        cut = self._cut(start or 0, width if end is None else end, width)
        groups[cut] = self._widened(part, len(groups[cut])).groups
        return Row(tuple(groups))

    def _widened(self, value: Any, count: int) -> Row:
        row = self.row(value)
        return Row(row.groups * count) if len(row.groups) < count else row

    def atensplit_with_sizes(self, value: Any, sizes: Any, dim: int = 0) -> list[Row]:
        ends = [*accumulate(sizes)]
        pairs = zip(sizes, ends, strict=True)
        return [self.atenslice(value, dim, end - size, end) for size, end in pairs]

    def atenselect(self, value: Any, dim: int, index: int) -> Row:
        if dim != 1 or len(self.shape_in) != 3:
            raise CannotGenerateError("a selection that is not of a gate")
        return Row((self.row(value).groups[index],))

    def atenselect_backward(self, part: Any, sizes: Any, dim: int, index: int) -> Row:
        if dim != 1 or len(sizes) != 3:
            raise CannotGenerateError("a selection that is not of a gate")
        zeros = [self.graph.number(0)] * sizes[1]
        zeros[index] = self.row(part).groups[0]
        return Row(tuple(zeros))

    def atencat(self, values: Any, dim: int = 0) -> Row:
        if dim % len(self.shape) != 1:
            raise CannotGenerateError("reviews or parts of gates are put together")
        rows = []
        for value, shape in zip(values, self.parts, strict=True):
            self.shape_in = shape
            row = self._widened(value, self._groups_of(shape) or 0)
            if len(row.groups) != self._groups_of(shape) or shape[-1] == 1 != self.H:
                raise CannotGenerateError(f"a part of {shape} is not whole gates")
            rows.append(row)
        return Row(tuple(group for row in rows for group in row.groups))

    def atenfull(self, *arguments: Any, **_: Any) -> Row:
        count = self._groups_of(self.shape) or 1
        one = len(self.shape) < 2 or self.shape[-1] == 1
        return Row((self.graph.number(arguments[1]),) * count, one)

    atenfull_like = atenfull

    def atenempty_permuted(self, *_: Any, **__: Any) -> Row:
        """Of no value yet: what reads it fills it first."""
        return self.atenfull(None, math.nan)

    def atenscalar_tensor(self, value: float, **_: Any) -> Row:
        return self.row(value)

    def atendiv(self, left: Any, right: Any, rounding_mode: Any = None) -> Row:
        if rounding_mode is not None:
            raise CannotGenerateError("a division that rounds")
        return self.each("div", left, right)

    def atenwhere(self, mask: Any, yes: Any, no: Any) -> Row:
        return self.each("where", mask, yes, no)

    def atenrelu(self, value: Any) -> Row:
        return self.each("maximum", value, 0)

    def atenclamp(self, value: Any, low: Any = None, high: Any = None) -> Row:
        row = self.row(value)
        if low is not None:
            row = self.each("maximum", row, low)
        return row if high is None else self.each("minimum", row, high)

    def atenclamp_min(self, value: Any, low: Any) -> Row:
        return self.atenclamp(value, low)

    def atenclamp_max(self, value: Any, high: Any) -> Row:
        return self.atenclamp(value, None, high)

    def atenhardtanh(self, value: Any, low: float = -1, high: float = 1) -> Row:
        return self.atenclamp(value, low, high)

    def atenleaky_relu(self, value: Any, slope: float = 0.01) -> Row:
        low = self.each("mul", value, slope)
        return self.each("where", self.each("gt", value, 0), value, low)

    def atensoftshrink_backward(self, grad: Any, value: Any, bound: float) -> Row:
        inside = self.each("le", self.each("abs", value), bound)
        return self.each("where", inside, 0, grad)

    atenhardshrink_backward = atensoftshrink_backward

    def atencopy(self, _: Any, value: Any, *__: Any) -> Any:
        return value

    def atenlinalg_vector_norm(
        self, value: Any, order: float = 2, dims: Any = None, keepdim: bool = False, **_: Any
    ) -> Row:
        if order != 2:
            raise CannotGenerateError("a norm that is not the Euclidean one")
        self._last(dims)
        return self.each("sqrt", self._over_units("row_sum", self.each("mul", value, value)))

    def atenpow(self, base: Any, exponent: Any) -> Row:
        if isinstance(base, int | float) and base > 0:
            return self.each("exp", self.each("mul", exponent, math.log(base)))
        if not isinstance(exponent, int | float):
            raise CannotGenerateError("a power whose exponent is not a number")
        if exponent == 0.5:
            return self.each("sqrt", base)
        if exponent == -0.5:
            return self.each("rsqrt", base)
        count = abs(exponent)
        if count != int(count) or count > 8:
            return self.each("exp", self.each("mul", self.each("log", base), exponent))
        result = self.row(1)
        for _ in range(int(count)):
            result = self.each("mul", result, base)
        return result if exponent >= 0 else self.each("reciprocal", result)

    def atenexp2(self, value: Any) -> Row:
        return self.atenpow(2.0, value)

    def atenlog2(self, value: Any) -> Row:
        return self.each("mul", self.each("log", value), 1 / math.log(2))

    def atentan(self, value: Any) -> Row:
        return self.each("div", self.each("sin", value), self.each("cos", value))

    def atensinh(self, value: Any) -> Row:
        """With u = e^x - 1, (u + u / (u + 1)) / 2: as exact where x is small."""
        u = self.each("expm1", value)
        return self.each(
            "mul", self.each("add", u, self.each("div", u, self.each("add", u, 1))), 0.5
        )

    def atencosh(self, value: Any) -> Row:
        high, low = self.each("exp", value), self.each("exp", self.each("neg", value))
        return self.each("mul", self.each("add", high, low), 0.5)

    def atenisnan(self, value: Any) -> Row:
        return self.each("ne", value, value)

    def atensgn(self, value: Any) -> Row:
        return self.each("sign", value)

    def atenbitwise_and(self, left: Any, right: Any) -> Row:
        return self.each("logical_and", left, right)

    def atenbitwise_or(self, left: Any, right: Any) -> Row:
        return self.each("logical_or", left, right)

    def atenbitwise_not(self, value: Any) -> Row:
        return self.each("logical_not", value)

    def _over_units(self, name: str, value: Any) -> Row:
        """Over all units; in (B, n, H), over the units of each gate."""
        row = self.row(value)
        if self.shape_in[-1] == 1 != self.H:
            raise CannotGenerateError(f"{name} of one number a review")
        gates = [(group,) for group in row.groups] if self.gates else [row.groups]
        return Row(tuple(self.graph.add(name, groups) for groups in gates), one=True)

    @property
    def gates(self) -> bool:
        """Whether the operation is on (B, n, H)."""
        return 3 in (len(self.shape), len(self.shape_in))

    def atensum(self, value: Any, dims: Any = None, keepdim: bool = False, **_: Any) -> Any:
        every = list(range(len(self.shape_in)))
        dims = list(dims) if dims else every
        if dims == [0]:
            return VectorGrad((self.row(value),))
        if dims == [0, 1] and len(every) == 3:  # of a vector that each gate has read
            return VectorGrad(tuple(Row((group,)) for group in self.row(value).groups))
        if dims == every:
            if isinstance(value, VectorGrad):
                return value._replace(to_one=True)
            return VectorGrad((self.row(value),), to_one=True)
        self._last(dims)
        return self._over_units("row_sum", value)

    def _last(self, dims: Any) -> None:
        """Raises CannotGenerateError unless it is the dimension of the units."""
        count = len(self.shape_in)
        if dims is None or [dim % count for dim in dims] != [count - 1] or count < 2:
            raise CannotGenerateError("a reduction that is not over the units")

    def atenamax(self, value: Any, dims: Any = (), keepdim: bool = False) -> Row:
        self._last(dims)
        return self._over_units("row_max", value)

    def atenmean(self, value: Any, dims: Any = None, keepdim: bool = False, **_: Any) -> Row:
        self._last(dims)
        width = self.H * (1 if self.gates else len(self.row(value).groups))
        return self.each("mul", self._over_units("row_sum", value), 1 / width)

    def atenvar_mean(
        self, value: Any, dims: Any = None, correction: Any = 1, keepdim: bool = False
    ) -> list[Row]:
        self._last(dims)
        mean = self.atenmean(value, dims)
        width = self.H * (1 if self.gates else len(self.row(value).groups))
        away = self.each("sub", value, mean)
        total = self._over_units("row_sum", self.each("mul", away, away))
        count = width - (1 if correction is None else correction)
        if count <= 0:
            raise CannotGenerateError("a variance of one unit")
        return [self.each("mul", total, 1 / count), mean]

    def atenvar(
        self, value: Any, dims: Any = None, correction: Any = 1, keepdim: bool = False
    ) -> Row:
        return self.atenvar_mean(value, dims, correction)[0]


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()
