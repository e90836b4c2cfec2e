"""The explanation of one review: the prediction after each token, contributions, gates.

Dimensions: T tokens, E embedding size, H hidden size, S steps of a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from ..inference import Predictor
from ..model.backbones import gather_steps, reverse_padded
from ..model.cells import Cell
from ..model.network import Network, logit_difference
from ..model.padding import padding_mask


PREFIXES = 64  # prefixes of a review in a batch
STEPS = (32, 128, 512)  # of the path from the baseline to the review; more if the sum is wrong
TOLERANCE = 0.01  # of the logit's distance from the baseline: the largest error of the sum


class Gate(NamedTuple):
    """One gate or state of one layer over the review."""

    name: str
    equation: str  # in TeX; empty if the cell has none
    values_TH: np.ndarray
    low: float  # ends of the colour scale: 0 and 1 for gates
    high: float


@dataclass
class Explanation:
    """How a model reads a review. `tokens` include the start token."""

    tokens: list[str]
    in_vocab: list[bool]
    probability_T: np.ndarray  # of positive, after each token, with the model's temperature
    contribution_T: np.ndarray  # to the logit difference, positive - negative
    logit: float
    baseline_logit: float  # with all embeddings zero
    steps: int
    gates: list[tuple[str, list[Gate]]]  # by layer and direction; none for PyTorch's layers

    @property
    def gap(self) -> float:
        """The error of the sum of the contributions; 0 is exact."""
        return float(self.contribution_T.sum()) - (self.logit - self.baseline_logit)


def explain(model: Predictor, text: str) -> Explanation:
    """The review is truncated as the model truncates it."""
    reviews = model.encode([text])
    ids_T = torch.from_numpy(reviews.tokens.astype(np.int64))
    vocabulary = model.tokenizer.tokenizer
    unknown = vocabulary.token_to_id("[UNK]")
    network = model.network32
    logits_T = prefix_logits(network, ids_T)
    contribution_T, baseline, steps = integrated_gradients(network, ids_T, float(logits_T[-1]))
    return Explanation(
        tokens=[str(vocabulary.id_to_token(int(token))) for token in ids_T],
        in_vocab=[int(token) != unknown for token in ids_T],
        probability_T=expit(logits_T / model.temperature),
        contribution_T=contribution_T,
        logit=float(logits_T[-1]),
        baseline_logit=baseline,
        steps=steps,
        gates=gates(network, ids_T),
    )


@torch.inference_mode()
def prefix_logits(network: Network, ids_T: Tensor) -> np.ndarray:
    """The logit (T,) after each token, as if the review ended there."""
    logits = []
    lengths_T = torch.arange(1, len(ids_T) + 1)
    for lengths_B in lengths_T.split(PREFIXES):
        longest = int(lengths_B.max())
        tokens_BT = ids_T[:longest].masked_fill(padding_mask(lengths_B, longest).T, 0)
        logits.append(logit_difference(network(tokens_BT, lengths_B)))
    return torch.cat(logits).double().numpy()


def integrated_gradients(
    network: Network, ids_T: Tensor, logit: float
) -> tuple[np.ndarray, float, int]:
    """Contribution of each token, the logit of the baseline, and the steps of the integral.

    Sundararajan, Taly and Yan 2017: the gradient with respect to the embedding, along the straight
    path from zero embeddings, the baseline, to the review's. The contributions add up to the
    difference of the logits, up to the error of the integral, which more steps reduce.
    """
    with torch.no_grad():
        x_TE = network.embedding(ids_T[:, None])[:, 0]
        baseline = float(logit_of(network, torch.zeros_like(x_TE)[:, None], len(ids_T))[0])
    for steps in STEPS:
        # Gauss-Legendre: exact for polynomials of degree 2 * steps - 1.
        at, weight = np.polynomial.legendre.leggauss(steps)
        total_TE = torch.zeros_like(x_TE, dtype=torch.float64)
        for start in range(0, steps, PREFIXES):
            part = slice(start, start + PREFIXES)
            share_S = torch.tensor((at[part] + 1) / 2, dtype=x_TE.dtype)
            path_TSE = (x_TE[:, None] * share_S[None, :, None]).requires_grad_()
            (gradient_TSE,) = torch.autograd.grad(
                logit_of(network, path_TSE, len(ids_T)).sum(), path_TSE
            )
            weight_S = torch.tensor(weight[part] / 2)
            total_TE += (gradient_TSE.double() * weight_S[None, :, None]).sum(1)
        contribution_T = (total_TE * x_TE).sum(1).numpy()
        difference = logit - baseline
        if abs(contribution_T.sum() - difference) <= TOLERANCE * max(abs(difference), 1):
            break
    return contribution_T, baseline, steps


def logit_of(network: Network, x_TBE: Tensor, length: int) -> Tensor:
    """The logit (B,) of embedded reviews, all of one length."""
    lengths_B = torch.full((x_TBE.shape[1],), length)
    return logit_difference(network.from_embeddings(x_TBE, lengths_B))


# Gates


@torch.inference_mode()
def gates(network: Network, ids_T: Tensor) -> list[tuple[str, list[Gate]]]:
    """The gates of every layer that has a cell, step by step."""
    backbone = network.backbone
    x_T1E = network.embedding(ids_T[:, None])
    reversed_T1 = reverse_padded(torch.tensor([len(ids_T)]), len(ids_T))
    found = []
    for number, forwards in enumerate(backbone.forwards):
        layers = [("forwards", forwards, x_T1E)]
        if backbone.directions == 2:
            back_T1E = gather_steps(x_T1E, reversed_T1)
            layers.append(("backwards", backbone.backwards[number], back_T1E))
        outputs = []
        for direction, layer, x in layers:
            h_T1H, _ = layer(x)
            cell = getattr(layer, "cell", None)
            if isinstance(cell, Cell):
                name = f"layer {number + 1}, {direction}"
                parts = gates_of_cell(cell, x)
                if direction == "backwards":
                    parts = [part._replace(values_TH=part.values_TH[::-1]) for part in parts]
                found.append((name, parts))
            outputs.append(h_T1H if direction == "forwards" else gather_steps(h_T1H, reversed_T1))
        x_T1E = torch.cat(outputs, dim=2)
    return found


def gates_of_cell(cell: Cell, x_T1E: Tensor) -> list[Gate]:
    """Gates and states of the cell over one review, with the cell's own names and equations."""
    equations = cell.equations()
    has_gates = cell.describes_itself("gates")
    names = state_names(cell)
    state = cell.initial_state(1)
    rows: dict[str, list[Tensor]] = {name: [] for name in equations}  # they determine the order
    for x_1E in x_T1E.unbind():
        found = cell.gates(cell.project(x_1E), state) if has_gates else {}
        state = cell(x_1E, state)
        for name, value in {**found, **dict(zip(names, state, strict=True))}.items():
            rows.setdefault(name, []).append(value[0])
    gates = []
    for name, values in rows.items():
        if values:
            values_TH = torch.stack(values).numpy()
            high = max(1.0, float(np.abs(values_TH).max()))
            low = 0.0 if "gate" in name and values_TH.min() >= 0 else -high
            gates.append(Gate(name, equations.get(name, ""), values_TH, low, high))
    return gates


def state_names(cell: Cell) -> list[str]:
    """The cell's own, or output h and state 2, ..."""
    if cell.describes_itself("STATES") and len(cell.STATES) == cell.states:
        return list(cell.STATES)
    return ["output h", *(f"state {number}" for number in range(2, cell.states + 1))]
