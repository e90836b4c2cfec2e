"""One step of a cell and its gradient as graphs of ATen operations.

Dimensions: B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import logging
import sys
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.func import functional_call, functionalize, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta
from torch.utils._python_dispatch import TorchDispatchMode


ATEN = torch.ops.aten
PYTORCH = Path(torch.__file__).parent
MORE = [
    *(ATEN.native_layer_norm, ATEN.native_layer_norm_backward, ATEN.elu, ATEN.gelu),
    *(ATEN._softmax, ATEN._log_softmax),
]
"""What is taken apart beyond ATen's core operations."""
WHOLE = [ATEN.select_backward.default, ATEN.select_scatter.default]
"""What stays one operation."""


class CannotGenerateError(Exception):
    """A cell whose step is outside the language that kernels are generated from."""


class Trace(NamedTuple):
    """A cell's step, split into what depends on its parameters alone and the rest."""

    names: list[str]  # of the parameters and buffers, in the order that `constants` takes them
    constants: fx.GraphModule  # parameters and buffers -> the tensors that the step reads; what it
    # makes is on the CPU until `on` moves it
    shapes: list[tuple[int, ...]]  # of these tensors
    step: fx.GraphModule  # x_BI, *state, *constants -> new state
    gradient: fx.GraphModule
    """x_BI, *state, *constants, *gradients of the new state -> gradients of x, state, constants"""


def trace(cell: Any, states: int) -> Trace:
    """Trace `cell(x_BI, state) -> state`. Raises CannotGenerateError where that fails.

    Nothing is drawn from PyTorch's random numbers. `states` is the number of tensors in a state.
    """
    # It logs the traceback of what it cannot trace, which is one line here.
    tracer = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, tracer.disabled = tracer.disabled, True
    lines = Lines()
    try:
        return _trace(cell, states, lines)
    except CannotGenerateError:
        raise
    except Exception as error:  # a stranger's code under a tracer fails in many ways
        where = f" ({lines.found[-1][1]})" if lines.found else ""
        if "DataDependent" in type(error).__name__:
            raise CannotGenerateError(
                f"it asks for a number: if, while or .item(){where}"
            ) from error
        said = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {said[0]}"
        raise CannotGenerateError(f"it cannot be traced: {reason}{where}") from error
    finally:
        tracer.disabled = disabled


def _trace(cell: Any, states: int, lines: Lines) -> Trace:
    I, H = cell.input_size, cell.hidden_size
    named = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    kept = [torch.empty(t.shape, dtype=t.dtype) for t in named.values()]
    dtype = next((t.dtype for t in kept if t.is_floating_point()), torch.float32)
    # A number of reviews that is no other size of the cell, so that every shape is unambiguous.
    sizes = {size for t in kept for size in t.shape}
    B = next(size for size in count(3) if all(size * n not in sizes for n in (1, 2, 3, 4)))
    x_BI = torch.empty(B, I, dtype=dtype)
    state = [torch.empty(B, H, dtype=dtype) for _ in range(states)]

    def whole(x_BI: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(named, rest[states:], strict=True))
        with lines:
            return tuple(functional_call(cell, values, (x_BI, tuple(rest[:states]))))

    # Not taken apart yet: what PyTorch knows of an operation's gradient it knows of the whole.
    graph = _make_fx(functionalize(whole), {}, x_BI, *state, *kept)
    lines.note(graph)
    _refuse(graph)
    constants, step = _split(graph, 1 + states, B)
    (output,) = (node for node in constants.graph.nodes if node.op == "output")
    shapes = [tuple(node.meta["val"].shape) for node in output.args[0]]
    values = [torch.empty(shape, dtype=dtype) for shape in shapes]
    grads = [torch.empty_like(s) for s in state]

    def back(*tensors: Tensor) -> tuple[Tensor, ...]:
        primals, grads = tensors[:-states], tensors[-states:]
        return vjp(lambda *primals: tuple(step(*primals)), *primals)[1](tuple(grads))

    inputs = [x_BI, *state, *values]
    table = {**dict(core_aten_decompositions().items()), **get_decompositions(MORE)}
    for operation in WHOLE:
        table.pop(operation, None)
    gradient = _make_fx(back, table, *inputs, *grads)
    gradient = _make_fx(functionalize(gradient), {}, *inputs, *grads)  # what is taken apart writes
    with preserve_node_meta():  # the lines
        step = _make_fx(fx.Interpreter(step).run, table, *inputs)
    return Trace([*named], constants, shapes, step, gradient)


class Lines(TorchDispatchMode):
    """The line of the cell that each operation of a trace comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, str]] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        frame: Any = sys._getframe(1)
        while frame is not None and Path(frame.f_code.co_filename).is_relative_to(PYTORCH):
            frame = frame.f_back
        if frame is not None:
            file = Path(frame.f_code.co_filename).name
            self.found.append((operation, f"line {frame.f_lineno} of {file}"))
        return operation(*args, **(kwargs or {}))

    def note(self, graph: fx.GraphModule) -> None:
        """Leave the lines with the nodes, which are in the same order."""
        waiting = iter(self.found)
        for node in graph.graph.nodes:
            if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                line = next((line for target, line in waiting if target == node.target), None)
                if line is not None:
                    node.meta["stack_trace"] = line


def line_of(node: fx.Node) -> str:
    """For the end of a sentence; nothing where it is not known."""
    line = node.meta.get("stack_trace")
    return f" ({line})" if line else ""


def _refuse(graph: fx.GraphModule) -> None:
    """Raises CannotGenerateError where one step is not a function of its inputs alone."""
    given: set[fx.Node] = set()  # what depends on an input
    for node in graph.graph.nodes:
        if node.op == "placeholder" or not given.isdisjoint(node.all_input_nodes):
            given.add(node)
        name = str(node.target).removeprefix("aten.").split(".")[0]
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise CannotGenerateError(f"it draws random numbers ({name}){line_of(node)}")
        if name == "copy_":
            raise CannotGenerateError("it changes a buffer or its input in place")
        if name in ("detach", "alias") and node in given:
            raise CannotGenerateError(f"it detaches a value from its gradient{line_of(node)}")


def on(constants: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """The graph of constants, with what it makes on this device."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(constants.graph, {}))
    for node in graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
    return fx.GraphModule(constants, graph)


def _make_fx(function: Any, table: dict[Any, Any], *tensors: Tensor) -> fx.GraphModule:
    graph = make_fx(function, table, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    graph.graph.eliminate_dead_code()
    return graph


def _is_constant(node: fx.Node, B: int) -> bool:
    """A tensor that the cell makes, such as torch.eye, and that is not for each review."""
    value = node.meta.get("val")
    if node.op != "call_function" or node.all_input_nodes or not isinstance(value, Tensor):
        return False
    return value.numel() > 1 and B not in value.shape


def _split(graph: fx.GraphModule, inputs: int, B: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """(parameters -> constants, (the first `inputs` inputs, constants) -> outputs)."""
    nodes = list(graph.graph.nodes)
    places = [node for node in nodes if node.op == "placeholder"]
    fixed = set(places[inputs:])  # what depends on parameters alone
    for node in nodes:
        above = node.all_input_nodes
        below = node.op == "call_function" and above and all(other in fixed for other in above)
        if below or _is_constant(node, B):
            fixed.add(node)
    frontier: dict[fx.Node, None] = {}
    for node in nodes:
        if node not in fixed:
            frontier.update(dict.fromkeys(n for n in node.all_input_nodes if n in fixed))

    before, after = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in fixed:
            copies[node] = before.node_copy(node, copies.__getitem__)
    before.output([copies[node] for node in frontier])
    copies = {}
    for node in places[:inputs]:
        copies[node] = after.node_copy(node)
    for number, node in enumerate(frontier):
        copies[node] = after.placeholder(f"constant_{number}")
        copies[node].meta = dict(node.meta)
    for node in nodes:
        if node not in fixed and node not in copies and node.op != "output":
            copies[node] = after.node_copy(node, copies.__getitem__)
    (output,) = (node for node in nodes if node.op == "output")
    after.output([copies[node] for node in output.args[0]])
    return fx.GraphModule(graph, before), fx.GraphModule(graph, after)
