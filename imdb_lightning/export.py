"""Export a run for use elsewhere, and prove that the export computes the same.

python -m imdb_lightning.export RUN --format onnx
python -m imdb_lightning.export RUN --format safetensors --output FOLDER

The folder holds model.onnx, model.pt2 or model.safetensors, tokenizer.json, config.json and a
MODEL_CARD.md. ONNX and pt2 take tokens (B, T) and lengths (B,), both int64, and give logits (B, 2).
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from . import durable, model_card
from .model.backbones import Backbone
from .model.cells import Cell, GRUCell, LSTMCell, RNNCell
from .model.network import Network
from .trained import LoadError, Trained, load


if TYPE_CHECKING:
    import onnx

FORMATS = ("onnx", "pt2", "safetensors")
TOKENS, REVIEWS = (1, 7, 200, 800), (1, 3)  # at which an export is compared
CLOSE = 1e-5  # largest difference of a logit, relative to logits above 1


class ExportError(Exception):
    """Why there is no export, in one line."""


def main() -> None:
    """Exits with 0 where the export computes the same, 1 where it does not, 2 on bad input."""
    arguments = parser().parse_args()
    try:
        model = load(arguments.run)
    except LoadError as error:
        leave(2, str(error))
    run = model.path.parent.parent if model.path.is_file() else model.path
    folder = Path(arguments.output or run / "export" / arguments.format)
    if folder.exists():
        leave(2, f"{folder}: it is there already; give another --output")
    try:
        gap = export(model, arguments.format, folder)
    except ExportError as error:
        leave(1, str(error))
    print(f"largest difference of a logit: {gap:.2g}")
    print(folder)


def export(model: Trained, kind: str, folder: Path) -> float:
    """Write `folder` whole or not at all; returns the largest difference of a logit."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        inside = Path(temporary) / "export"
        inside.mkdir()
        file = inside / f"model.{kind}"
        run = WRITERS[kind](model.network, file)
        gap = largest_gap(model.network, run)
        if not gap <= CLOSE:
            raise ExportError(f"the export differs by {gap:.2g} in a logit; nothing is written")
        shutil.copyfile(model.tokenizer_file, inside / "tokenizer.json")
        metrics = {key: model.metrics[key] for key in KEPT if key in model.metrics}
        config = {**model.config, "metrics": metrics}
        durable.write(inside / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        durable.write(inside / "MODEL_CARD.md", model_card.text(model).encode())
        inside.rename(folder)
    return gap


KEPT = "temperature dataset model seed parameters val/acc val/loss test/acc test/loss".split()
Runner = Callable[[Tensor, Tensor], Tensor]


def largest_gap(network: Network, run: Runner) -> float:
    """Over lengths, batches and random tokens; relative where a logit is above 1."""
    random = torch.Generator().manual_seed(0)
    words = network.embedding.weight.shape[0]
    gap = 0.0
    for T in TOKENS:
        if network.pooling == "mean_padded" and T > network.max_length:
            T = network.max_length  # the tokenizer never gives more
        for B in REVIEWS:
            tokens_BT = torch.randint(1, words, (B, T), generator=random)
            lengths_B = torch.randint(1, T + 1, (B,), generator=random)
            lengths_B[0] = T
            tokens_BT[torch.arange(T) >= lengths_B[:, None]] = 0
            with torch.inference_mode():
                expected = network(tokens_BT, lengths_B)
            difference = (run(tokens_BT, lengths_B) - expected).abs()
            gap = max(gap, float((difference / expected.abs().clamp(min=1)).max()))
    return gap


# safetensors


def write_safetensors(network: Network, file: Path) -> Runner:
    from safetensors.torch import load_file, save_file

    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    weights = load_file(file)

    def run(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.func.functional_call(network, weights, (tokens_BT, lengths_B))

    return run


# pt2: every layer becomes a scan of its cell over time, since torch.export unrolls PyTorch's layers
# for the one length that it sees.


class Scanned(nn.Module):
    """A cell over time, with the calling convention of nn.RNN, nn.LSTM, nn.GRU."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_TBI: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        def step(
            state: tuple[Tensor, ...], projected_x: Tensor
        ) -> tuple[tuple[Tensor, ...], Tensor]:
            after = self.cell.step(projected_x, state)
            # Outputs of a scan may not be the same tensor.
            return tuple(s.clone() for s in after), after[0].clone()

        state = self.cell.initial_state(x_TBI.shape[1])
        last, h_TBH = scan(step, state, self.cell.project(x_TBI), dim=0)
        return h_TBH, last


def as_cell(layer: Any) -> Cell:
    """The cell of a layer; PyTorch's layers as the cells of the same mathematics."""
    cell = getattr(layer, "cell", None)
    if isinstance(cell, Cell):
        if type(cell).forward is not Cell.forward:
            raise ExportError(f"{type(cell).__name__} has no `step`, which pt2 needs")
        return cell
    sizes = (layer.input_size, layer.hidden_size)
    makers = {
        nn.RNN: lambda: RNNCell(*sizes),
        nn.LSTM: lambda: LSTMCell(*sizes),
        nn.GRU: lambda: GRUCell(*sizes, reset="after"),
    }
    made = makers[type(layer)]()
    made.load_state_dict({key[: -len("_l0")]: value for key, value in layer.state_dict().items()})
    return made


def write_pt2(network: Network, file: Path) -> Runner:
    scanned = copy.deepcopy(network)
    for layers in (scanned.backbone.forwards, scanned.backbone.backwards):
        for number, layer in enumerate(layers):
            layers[number] = Scanned(as_cell(layer))
    longest = network.max_length if network.pooling == "mean_padded" else None
    B, T = torch.export.Dim("B"), torch.export.Dim("T", max=longest)
    example = (torch.ones(3, 7, dtype=torch.int64), torch.tensor([7, 3, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own code (2026-11)
        torch._dynamo.reset()  # what it has learned from another export would fix the length
        program = torch.export.export(scanned, example, dynamic_shapes=({0: B, 1: T}, {0: B}))
        torch.export.save(program, file)
        loaded = torch.export.load(file).module()

    def run(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        with torch.inference_mode():
            return loaded(tokens_BT, lengths_B)

    return run


# ONNX: the graph is written node by node. Its recurrent operators have both kinds of GRU, and read
# reviews within their lengths, backwards too.


def write_onnx(network: Network, file: Path) -> Runner:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise ExportError("ONNX takes pip install 'imdb-lightning[export]'") from None
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

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.add(kind, *inputs, **attributes)[0]


def graph(network: Network) -> onnx.ModelProto:
    """tokens (B, T), lengths (B,) -> logits (B, 2)."""
    from onnx import TensorProto, checker, helper

    g = Graph()
    tokens, lengths = "tokens", "lengths"
    if network.pooling == "mean_padded":
        shape = g.one("Shape", tokens)
        T = g.one("Gather", shape, g.weight([1]))
        missing = g.one("Sub", g.weight([network.max_length]), T)
        pads = g.one("Concat", g.weight([0, 0, 0]), missing, axis=0)
        tokens = g.one("Pad", tokens, pads)
        B = g.one("Gather", shape, g.weight([0]))
        lengths = g.one("Expand", g.weight([network.max_length]), B)
    tokens_TB = g.one("Transpose", tokens, perm=[1, 0])
    x_TBE = g.one("Gather", g.weight(network.embedding.weight), tokens_TB)
    short = g.one("Cast", lengths, to=TensorProto.INT32)
    h_TBH = onnx_backbone(g, network.backbone, x_TBE, short)
    pooled_BF = onnx_pooling(g, network, h_TBH, lengths)
    hidden_BH = g.one("Relu", onnx_linear(g, network.head[0], pooled_BF))
    logits = onnx_linear(g, network.head[3], hidden_BH)
    g.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    made = helper.make_model(
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
    checker.check_model(made, full_check=True)
    return made


def onnx_linear(g: Graph, linear: Any, x: str) -> str:
    return g.one("Gemm", x, g.weight(linear.weight), g.weight(linear.bias), transB=1)


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
        h_TDBH = g.one(
            kind,
            *(x_TBE, *weights, lengths_B),
            hidden_size=int(R.shape[-1]),
            direction=direction,
            **attributes,
        )
        # (T, D, B, H) -> (T, B, D*H)
        h_TBDH = g.one("Transpose", h_TDBH, perm=[0, 2, 1, 3])
        x_TBE = g.one("Reshape", h_TBDH, g.weight([0, 0, -1]))
    return x_TBE


def operator(layer: Any) -> tuple[str, dict[str, Any]]:
    """ONNX's name of a layer, and what tells its variant."""
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
        return g.one("ReduceMean", h_TBH, g.weight([0]), keepdims=0)
    T = g.one("Gather", g.one("Shape", h_TBH), g.weight(torch.tensor(0)))
    t_T = g.one("Range", g.weight(torch.tensor(0)), T, g.weight(torch.tensor(1)))
    t_T1 = g.one("Unsqueeze", t_T, g.weight([1]))
    if kind == "last":
        at_TB = g.one("Equal", t_T1, g.one("Sub", lengths_B, g.weight([1])))
        at_TB1 = g.one("Unsqueeze", at_TB, g.weight([2]))
        chosen = g.one("Where", at_TB1, h_TBH, g.weight(torch.zeros(1)))
        last_BH = g.one("ReduceSum", chosen, g.weight([0]), keepdims=0)
        if network.backbone.directions == 1:
            return last_BH
        first_BH = g.one("Gather", h_TBH, g.weight(torch.tensor(0)), axis=0)
        half = network.backbone.output_size // 2
        forwards = g.one("Slice", last_BH, *(g.weight([n]) for n in (0, half, 1)))
        ends = (half, 2 * half, 1)
        backwards = g.one("Slice", first_BH, *(g.weight([n]) for n in ends))
        return g.one("Concat", forwards, backwards, axis=1)
    inside_TB1 = g.one("Unsqueeze", g.one("Less", t_T1, lengths_B), g.weight([2]))
    pooled = []
    if kind in ("mean", "mean_max"):
        chosen = g.one("Where", inside_TB1, h_TBH, g.weight(torch.zeros(1)))
        total_BH = g.one("ReduceSum", chosen, g.weight([0]), keepdims=0)
        count_B1 = g.one("Unsqueeze", lengths_B, g.weight([1]))
        pooled.append(g.one("Div", total_BH, g.one("Cast", count_B1, to=TensorProto.FLOAT)))
    if kind in ("max", "mean_max"):
        chosen = g.one("Where", inside_TB1, h_TBH, g.weight(torch.full((1,), -torch.inf)))
        pooled.append(g.one("ReduceMax", chosen, g.weight([0]), keepdims=0))
    return pooled[0] if len(pooled) == 1 else g.one("Concat", *pooled, axis=1)


WRITERS: dict[str, Callable[[Network, Path], Runner]] = {
    "onnx": write_onnx,
    "pt2": write_pt2,
    "safetensors": write_safetensors,
}


def leave(code: int, line: str) -> NoReturn:
    print(f"imdb_lightning.export: {line}", file=sys.stderr)
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdb_lightning.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run, or one of its checkpoints")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", metavar="FOLDER", help="default: RUN/export/FORMAT")
    return parser


if __name__ == "__main__":
    main()
