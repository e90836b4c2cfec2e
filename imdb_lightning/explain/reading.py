"""How a trained model reads one review: what it would say after each token, and why.

Dimensions: T tokens, E embedding size, H hidden size, S steps of a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..model.backbones import reverse_within, take_steps
from ..model.cells import Cell, GRUCell, LSTMCell
from ..model.network import Network
from ..trained import Trained


PREFIXES = 64  # prefixes of a review read at a time
STEPS = (32, 128, 512)  # of the path from nothing to the review, more where the sum does not match
CLOSE = 0.01  # of the logit's way from nothing to the review: largest gap that counts as complete


class Gate(NamedTuple):
    """One gate, or the state, of one layer over the review."""

    name: str
    equation: str  # the report's, with its number
    values_TH: np.ndarray
    low: float  # least value possible: 0 for gates, -1 for states
    high: float


@dataclass
class Reading:
    """A review as a model reads it. `tokens` begin with the start token."""

    tokens: list[str]
    known: list[bool]  # False: outside the vocabulary
    probability_T: np.ndarray  # of positive, after each token, with the model's temperature
    contribution_T: np.ndarray  # to the logit difference, positive - negative
    logit: float
    logit_of_nothing: float  # with all embeddings zero: where the contributions start
    steps: int
    gates: list[tuple[str, list[Gate]]]  # by layer and direction; none for PyTorch's layers

    @property
    def gap(self) -> float:
        """How far the contributions are from adding up to the logit; 0 is complete."""
        return float(self.contribution_T.sum()) - (self.logit - self.logit_of_nothing)


def read(model: Trained, text: str) -> Reading:
    """Everything at once. The review is cut to what the model reads."""
    reviews = model.encode([text])
    ids_T = torch.from_numpy(reviews.tokens.astype(np.int64))
    words = model.tokenizer.words
    unknown = words.token_to_id("[UNK]")
    network = model.network
    logits_T = prefix_logits(network, ids_T)
    contribution_T, nothing, steps = integrated_gradients(network, ids_T, float(logits_T[-1]))
    return Reading(
        tokens=[str(words.id_to_token(int(token))) for token in ids_T],
        known=[int(token) != unknown for token in ids_T],
        probability_T=1 / (1 + np.exp(-logits_T / model.temperature)),
        contribution_T=contribution_T,
        logit=float(logits_T[-1]),
        logit_of_nothing=nothing,
        steps=steps,
        gates=gates(network, ids_T),
    )


@torch.inference_mode()
def prefix_logits(network: Network, ids_T: Tensor) -> np.ndarray:
    """The logit difference (T,) after each token, as if the review ended there."""
    logits = []
    lengths_T = torch.arange(1, len(ids_T) + 1)
    for lengths_B in lengths_T.split(PREFIXES):
        longest = int(lengths_B.max())
        inside_BT = torch.arange(longest) < lengths_B[:, None]
        tokens_BT = torch.where(inside_BT, ids_T[:longest], 0)
        logits_B2 = network(tokens_BT, lengths_B)
        logits.append(logits_B2[:, 1] - logits_B2[:, 0])
    return torch.cat(logits).double().numpy()


def integrated_gradients(
    network: Network, ids_T: Tensor, logit: float
) -> tuple[np.ndarray, float, int]:
    """Contribution of each token, the logit of nothing, and the steps that it took.

    Sundararajan, Taly and Yan 2017: the gradient with respect to the embedding, along the straight
    path from zero embeddings to the review's. The contributions add up to the difference of the
    logits but for the error of the integral, for which the path is cut finer.
    """
    with torch.no_grad():
        x_TE = network.embedding(ids_T[:, None])[:, 0]
        nothing = float(margin(network, torch.zeros_like(x_TE)[:, None], len(ids_T))[0])
    for steps in STEPS:
        # Gauss-Legendre: exact for polynomials of degree 2 * steps - 1.
        at, weight = np.polynomial.legendre.leggauss(steps)
        total_TE = torch.zeros_like(x_TE, dtype=torch.float64)
        for start in range(0, steps, PREFIXES):
            part = slice(start, start + PREFIXES)
            share_S = torch.tensor((at[part] + 1) / 2, dtype=x_TE.dtype)
            path_TSE = (x_TE[:, None] * share_S[None, :, None]).requires_grad_()
            (gradient_TSE,) = torch.autograd.grad(
                margin(network, path_TSE, len(ids_T)).sum(), path_TSE
            )
            weight_S = torch.tensor(weight[part] / 2)
            total_TE += (gradient_TSE.double() * weight_S[None, :, None]).sum(1)
        contribution_T = (total_TE * x_TE).sum(1).numpy()
        way = logit - nothing
        if abs(contribution_T.sum() - way) <= CLOSE * max(abs(way), 1):
            break
    return contribution_T, nothing, steps


def margin(network: Network, x_TBE: Tensor, length: int) -> Tensor:
    """Logit differences (B,) of reviews that are given as embeddings, all of one length."""
    lengths_B = torch.full((x_TBE.shape[1],), length)
    logits_B2 = network.from_embeddings(x_TBE, lengths_B)
    return logits_B2[:, 1] - logits_B2[:, 0]


# Gates


LSTM = {
    "forget gate f": "f_t = sigmoid([h_{t-1}, x_t] W_f + b_f)   (2)",
    "input gate i": "i_t = sigmoid([h_{t-1}, x_t] W_i + b_i)   (4)",
    "candidate g": "g_t = tanh([h_{t-1}, x_t] W_C + b_C)   (5)",
    "output gate o": "o_t = sigmoid([h_{t-1}, x_t] W_o + b_o)   (7)",
    "cell state C": "C_t = f_t * C_{t-1} + i_t * g_t   (3), (6)",
    "output h": "h_t = o_t * tanh(C_t)   (8)",
}
GRU = {
    "update gate z": "z_t = sigmoid(W_z [h_{t-1}, x_t] + b_z)   (9)",
    "reset gate r": "r_t = sigmoid(W_r [h_{t-1}, x_t] + b_r)   (10)",
    "output h": "h_t = z_t * h_{t-1} + (1 - z_t) * n_t   (12)",
}
RNN = {"output h": "h_t = tanh(W_h x_t + U_h h_{t-1} + b_h)   (1)"}


@torch.inference_mode()
def gates(network: Network, ids_T: Tensor) -> list[tuple[str, list[Gate]]]:
    """The gates of every hand-written layer, step by step, by the cell's own equations."""
    backbone = network.backbone
    x_T1E = network.embedding(ids_T[:, None])
    reversed_T1 = reverse_within(torch.tensor([len(ids_T)]), len(ids_T))
    found = []
    for number, forwards in enumerate(backbone.forwards):
        layers = [("forwards", forwards, x_T1E)]
        if backbone.directions == 2:
            back_T1E = take_steps(x_T1E, reversed_T1)
            layers.append(("backwards", backbone.backwards[number], back_T1E))
        outputs = []
        for direction, layer, x in layers:
            h_T1H, _ = layer(x)
            cell = getattr(layer, "cell", None)
            if isinstance(cell, Cell):
                name = f"layer {number + 1}, {direction}"
                parts = of_cell(cell, x)
                if direction == "backwards":
                    parts = [part._replace(values_TH=part.values_TH[::-1]) for part in parts]
                found.append((name, parts))
            outputs.append(h_T1H if direction == "forwards" else take_steps(h_T1H, reversed_T1))
        x_T1E = torch.cat(outputs, dim=2)
    return found


def of_cell(cell: Cell, x_T1E: Tensor) -> list[Gate]:
    """The cell over one review, step by step, keeping what it computes on the way."""
    state = cell.initial_state(1)
    rows: dict[str, list[Tensor]] = {}
    for x_1E in x_T1E.unbind():
        seen = {}
        if isinstance(cell, LSTMCell | GRUCell):
            seen = cell.gates(cell.project(x_1E), state)
        state = cell(x_1E, state)
        seen["output h"] = state[0]
        if isinstance(cell, LSTMCell):
            seen["cell state C"] = state[1]
        for name, value in seen.items():
            rows.setdefault(name, []).append(value[0])
    equations = LSTM if isinstance(cell, LSTMCell) else GRU if isinstance(cell, GRUCell) else RNN
    made = []
    for name, equation in equations.items():
        values_TH = torch.stack(rows[name]).numpy()
        low, high = (0.0, 1.0) if "gate" in name else (-1.0, 1.0)
        if name == "cell state C":
            high = max(1.0, float(np.abs(values_TH).max()))
            low = -high
        made.append(Gate(name, equation, values_TH, low, high))
    return made
