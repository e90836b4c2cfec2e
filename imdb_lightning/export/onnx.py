"""Export to ONNX: the graph is written node by node.

ONNX's recurrent operators have both variants of the GRU, and read reviews within their lengths,
backwards too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..model.backbones import Backbone
from ..model.cells import Cell, GRUCell, LSTMCell, RNNCell
from ..model.network import Network


if TYPE_CHECKING:
    import onnx
from .runner import ExportError, Runner


def write_onnx(network: Network, file: Path) -> Runner:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise ExportError("ONNX needs pip install 'imdb-lightning[export]'") from None
    onnx.save(graph(network), file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        inputs = {"tokens": tokens_BT.numpy(), "lengths": lengths_B.numpy()}
        return torch.from_numpy(session.run(["logits"], inputs)[0])

    return run


class Graph:
    """Nodes and weights of an ONNX graph as they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, values: Tensor | list[int]) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        tensor = values if isinstance(values, Tensor) else torch.tensor(values)
        array = tensor.detach().contiguous().numpy()
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        from onnx import helper

        names = [f"n{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def add_node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.add(kind, *inputs, **attributes)[0]


def graph(network: Network) -> onnx.ModelProto:
    """tokens (B, T), lengths (B,) -> logits (B, 2)."""
    from onnx import TensorProto, checker, helper

    g = Graph()
    tokens, lengths = "tokens", "lengths"
    if network.pooling == "mean_padded":
        shape = g.add_node("Shape", tokens)
        T = g.add_node("Gather", shape, g.weight([1]))
        missing = g.add_node("Sub", g.weight([network.max_length]), T)
        pads = g.add_node("Concat", g.weight([0, 0, 0]), missing, axis=0)
        tokens = g.add_node("Pad", tokens, pads)
        B = g.add_node("Gather", shape, g.weight([0]))
        lengths = g.add_node("Expand", g.weight([network.max_length]), B)
    tokens_TB = g.add_node("Transpose", tokens, perm=[1, 0])
    x_TBE = g.add_node("Gather", g.weight(network.embedding.weight), tokens_TB)
    short = g.add_node("Cast", lengths, to=TensorProto.INT32)
    h_TBH = onnx_backbone(g, network.backbone, x_TBE, short)
    pooled_BF = onnx_pooling(g, network, h_TBH, lengths)
    hidden_BH = g.add_node("Relu", onnx_linear(g, network.head[0], pooled_BF))
    logits = onnx_linear(g, network.head[3], hidden_BH)
    g.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    model_proto = helper.make_model(
        helper.make_graph(
            g.nodes,
            "imdb_lightning",
            [
                helper.make_tensor_value_info("tokens", TensorProto.INT64, ["B", "T"]),
                helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"]),
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2])],
            g.weights,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
        producer_name="imdb_lightning",
    )
    checker.check_model(model_proto, full_check=True)
    return model_proto


def onnx_linear(g: Graph, linear: Any, x: str) -> str:
    return g.add_node("Gemm", x, g.weight(linear.weight), g.weight(linear.bias), transB=1)


def onnx_backbone(g: Graph, backbone: Backbone, x_TBE: str, lengths_B: str) -> str:
    for number, forwards in enumerate(backbone.forwards):
        layers = [forwards]
        if backbone.directions == 2:
            layers.append(backbone.backwards[number])
        kind, attributes = operator(layers[0])
        parts = [weights_of(layer, kind) for layer in layers]
        W, R, bias = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
        weights = [g.weight(tensor) for tensor in (W, R, bias)]
        direction = "bidirectional" if backbone.directions == 2 else "forward"
        h_TDBH = g.add_node(
            kind,
            *(x_TBE, *weights, lengths_B),
            hidden_size=int(R.shape[-1]),
            direction=direction,
            **attributes,
        )
        # (T, D, B, H) -> (T, B, D*H)
        h_TBDH = g.add_node("Transpose", h_TDBH, perm=[0, 2, 1, 3])
        x_TBE = g.add_node("Reshape", h_TBDH, g.weight([0, 0, -1]))
    return x_TBE


def operator(layer: Any) -> tuple[str, dict[str, Any]]:
    """ONNX's operator for a layer, and the attributes of its variant."""
    cell = getattr(layer, "cell", layer)
    if type(cell) in (RNNCell, nn.RNN):
        return "RNN", {}
    if type(cell) in (LSTMCell, nn.LSTM):
        return "LSTM", {}
    if type(cell) is nn.GRU or (type(cell) is GRUCell and cell.reset == "after"):
        return "GRU", {"linear_before_reset": 1}
    if type(cell) is GRUCell:
        return "GRU", {"linear_before_reset": 0}
    raise ExportError(f"{type(cell).__name__} has no operator in ONNX")


ORDERS = {"RNN": [0], "LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}  # ONNX: i, o, f, c and z, r, h


def weights_of(layer: Any, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """W, R and both biases of one direction, gates in ONNX's order."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    if isinstance(getattr(layer, "cell", None), Cell):
        tensors = [getattr(layer.cell, name) for name in names]
    else:
        tensors = [getattr(layer, f"{name}_l0") for name in names]
    count = len(ORDERS[kind])
    W, R, bias_ih, bias_hh = (
        torch.cat([tensor.detach().chunk(count)[gate] for gate in ORDERS[kind]])
        for tensor in tensors
    )
    return W, R, torch.cat([bias_ih, bias_hh])


def onnx_pooling(g: Graph, network: Network, h_TBH: str, lengths_B: str) -> str:
    from onnx import TensorProto

    kind = network.pooling
    if kind == "mean_padded":
        return g.add_node("ReduceMean", h_TBH, g.weight([0]), keepdims=0)
    T = g.add_node("Gather", g.add_node("Shape", h_TBH), g.weight(torch.tensor(0)))
    t_T = g.add_node("Range", g.weight(torch.tensor(0)), T, g.weight(torch.tensor(1)))
    t_T1 = g.add_node("Unsqueeze", t_T, g.weight([1]))
    if kind == "last":
        at_TB = g.add_node("Equal", t_T1, g.add_node("Sub", lengths_B, g.weight([1])))
        at_TB1 = g.add_node("Unsqueeze", at_TB, g.weight([2]))
        chosen = g.add_node("Where", at_TB1, h_TBH, g.weight(torch.zeros(1)))
        last_BH = g.add_node("ReduceSum", chosen, g.weight([0]), keepdims=0)
        if network.backbone.directions == 1:
            return last_BH
        first_BH = g.add_node("Gather", h_TBH, g.weight(torch.tensor(0)), axis=0)
        half = network.backbone.output_size // 2
        forwards = g.add_node("Slice", last_BH, *(g.weight([n]) for n in (0, half, 1)))
        ends = (half, 2 * half, 1)
        backwards = g.add_node("Slice", first_BH, *(g.weight([n]) for n in ends))
        return g.add_node("Concat", forwards, backwards, axis=1)
    inside_TB1 = g.add_node("Unsqueeze", g.add_node("Less", t_T1, lengths_B), g.weight([2]))
    pooled = []
    if kind in ("mean", "mean_max"):
        chosen = g.add_node("Where", inside_TB1, h_TBH, g.weight(torch.zeros(1)))
        total_BH = g.add_node("ReduceSum", chosen, g.weight([0]), keepdims=0)
        count_B1 = g.add_node("Unsqueeze", lengths_B, g.weight([1]))
        pooled.append(
            g.add_node("Div", total_BH, g.add_node("Cast", count_B1, to=TensorProto.FLOAT))
        )
    if kind in ("max", "mean_max"):
        chosen = g.add_node("Where", inside_TB1, h_TBH, g.weight(torch.full((1,), -torch.inf)))
        pooled.append(g.add_node("ReduceMax", chosen, g.weight([0]), keepdims=0))
    return pooled[0] if len(pooled) == 1 else g.add_node("Concat", *pooled, axis=1)
