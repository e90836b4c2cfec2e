"""Training steps as CUDA graphs: loss and gradients of a batch in one launch.

A step of these models is a hundred short kernels, and a processor takes longer to start them than
a GPU to run them. Dimensions: B reviews in the batch, T tokens of the longest review in it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .fused import Fused
from .kernels.captured import Captured


LENGTH_MULTIPLE = (
    16  # T is rounded up to a multiple, with padding, so that few graphs serve all batches
)
MAX_GRAPHS = 64

log = logging.getLogger(__name__)


class StepGraphs:
    """The graphs of one model. Their random numbers are those of the GPU's generator."""

    def __init__(self) -> None:
        self.graphs: OrderedDict[Any, Captured] = OrderedDict()
        self.pool: Any = None
        self.data_pointers: tuple[int, ...] = ()
        self.failed = False

    def is_supported(self, model: Any) -> bool:
        """True if the model's steps can be captured: no hooks, no autocast, one process."""
        return (
            not self.failed
            and model.device.type == "cuda"
            and model._trainer is not None
            and model.trainer.world_size == 1
            and model.dtype == torch.float32
            and not torch.is_autocast_enabled("cuda")
            and not torch.is_anomaly_enabled()
            and all(isinstance(layer, nn.RNNBase | Fused) for layer in model.backbone.layers())
            and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        )

    def __call__(self, model: Any, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Mean loss with its gradient, losses (B,), logit differences (B,); None on a failure."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        if data_pointers(parameters) != self.data_pointers:  # the weights have moved
            self.graphs.clear()
            self.pool = None
            self.data_pointers = data_pointers(parameters)
        steps = model.max_length
        tokens_BT, *columns = batch
        if model.pooling != "mean_padded":
            T = tokens_BT.shape[1]
            steps = max(T, min(-(-T // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, model.max_length))
        tokens_BT = tokens_BT[:, :steps]
        key = len(tokens_BT), steps
        if key not in self.graphs:
            padded_BT = nn.functional.pad(tokens_BT, (0, steps - tokens_BT.shape[1]))

            def run(tokens_BT: Tensor, *columns: Tensor) -> list[Tensor]:
                loss_B, logit_B = model.losses((tokens_BT, *columns))
                if any(is_unrolled(layer) for layer in model.backbone.layers()):
                    # What such a cell does in Python would be done once, when it is captured.
                    raise RuntimeError("a cell runs step by step")
                grads = torch.autograd.grad(loss_B.mean(), parameters, allow_unused=True)
                return [loss_B.mean().detach(), loss_B.detach(), logit_B, *grads]

            try:
                self.graphs[key] = Captured(run, [padded_BT, *columns], self.pool)
            except RuntimeError as error:
                lines = str(error).strip().splitlines() or [""]
                log.warning("training without CUDA graphs, which is slower: %s", lines[0])
                self.failed = True
                return None
            self.pool = self.graphs[key].pool
            if data_pointers(parameters) != self.data_pointers:
                # cuDNN's first use has put weights behind one another: older graphs read them
                # where they were.
                self.graphs = OrderedDict({key: self.graphs[key]})
                self.data_pointers = data_pointers(parameters)
            if len(self.graphs) > MAX_GRAPHS:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(key)
        captured = self.graphs[key]
        _, loss_B, logit_B, *_ = captured([tokens_BT, *columns])
        loss = StepFunction.apply(captured, *parameters)
        return loss, loss_B, logit_B


def data_pointers(parameters: Sequence[Tensor]) -> tuple[int, ...]:
    """The addresses of the parameters."""
    return tuple(parameter.data_ptr() for parameter in parameters)


def is_unrolled(layer: nn.Module) -> bool:
    """True if a layer's first use has found no kernel for its cell."""
    return isinstance(layer, Fused) and getattr(layer.on_gpu, "by", "") == "loop"


class StepFunction(torch.autograd.Function):
    """The mean loss of a captured step, whose gradients are already computed."""

    @staticmethod
    def forward(ctx: Any, captured: Captured, *parameters: Tensor) -> Tensor:
        ctx.captured = captured
        ctx.turn = captured.turn
        return captured.results[0].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if ctx.turn != ctx.captured.turn:
            raise RuntimeError("the gradients of this step are overwritten by a later one")
        grads = ctx.captured.results[3:]
        scaled = torch._foreach_mul([g for g in grads if g is not None], grad)
        remaining = iter(scaled)
        return None, *(None if g is None else next(remaining) for g in grads)
