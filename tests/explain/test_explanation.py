"""An explanation is the model's own: trajectory, contributions and gates.

pytest tests/explain/test_explanation.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from imdb_lightning.explain import explanation, page
from imdb_lightning.inference import Predictor, load
from imdb_lightning.model.cells import Cell, GRUCell, LSTMCell, State
from tests.conftest import command, run_of
from tests.report.test_page import References


TEXT = "The plot was dull. The acting is superb and the ending felt wonderful <b>"
MODELS = [
    "model=custom_lstm",
    "model=custom_gru model.bidirectional=true model.num_layers=2",
    "model=custom_rnn model.pooling=mean_padded",
    "model=gru model.pooling=last model.bidirectional=true",
]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(run_of(tmp_path_factory.mktemp("runs") / "run", *request.param.split()))


def test_the_trajectory_is_the_prediction_for_each_prefix(model: Predictor) -> None:
    words = TEXT.split()
    seen = explanation.explain(model, " ".join(words))
    probabilities = []
    for count in range(len(seen.tokens)):
        beginning = " ".join(seen.tokens[1 : count + 1])
        p = model.predict([beginning])[0]
        probabilities.append(p.probability if p.label == "positive" else 1 - p.probability)
    assert seen.probability_T == pytest.approx(np.array(probabilities), abs=1e-5)


def test_contributions_add_up_to_the_logit(model: Predictor) -> None:
    seen = explanation.explain(model, TEXT)
    way = seen.logit - seen.baseline_logit
    assert abs(seen.gap) <= explanation.TOLERANCE * max(abs(way), 1)
    assert seen.contribution_T.shape == (len(seen.tokens),)
    assert seen.tokens[0] == "[START]" and seen.tokens[1] == "the"


def test_a_token_whose_embedding_is_zero_contributes_nothing(model: Predictor) -> None:
    ids = model.tokenizer.tokenizer.encode(TEXT).ids
    weight = model.network.embedding.weight
    kept = weight[ids[3]].clone()
    with torch.no_grad():
        weight[ids[3]] = 0
    seen = explanation.explain(model, TEXT)
    with torch.no_grad():
        weight[ids[3]] = kept
    assert seen.contribution_T[3] == 0


def test_every_layer_and_direction_of_a_hand_written_cell_is_shown(model: Predictor) -> None:
    seen = explanation.explain(model, TEXT)
    if "layer" in model.config["model"]:
        assert seen.gates == []
        return
    backbone = model.network.backbone
    assert len(seen.gates) == len(backbone.forwards) * backbone.directions
    for _, gates in seen.gates:
        for gate in gates:
            assert gate.values_TH.shape == (len(seen.tokens), 8)
            assert (gate.values_TH >= gate.low).all() and (gate.values_TH <= gate.high).all()


@pytest.mark.parametrize("length", [0, 1, 500])
def test_reviews_of_any_length_are_read(model: Predictor, length: int) -> None:
    seen = explanation.explain(model, "superb " * length)
    assert len(seen.tokens) == min(length + 1, 60)
    assert np.isfinite(seen.contribution_T).all()


# Gates are the equations'


def states(cell: Cell) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.float64)
    return x, tuple(torch.randn(3, 4, dtype=torch.float64) for _ in range(cell.states))


def test_the_gates_of_an_lstm_give_its_state() -> None:
    cell = LSTMCell(5, 4).double()
    x_BI, (h_BH, c_BH) = states(cell)
    g = cell.gates(cell.project(x_BI), (h_BH, c_BH))
    c = g["forget gate f"] * c_BH + g["input gate i"] * g["candidate g"]
    h_after, c_after = cell(x_BI, (h_BH, c_BH))
    assert torch.allclose(c, c_after, atol=1e-12)
    assert torch.allclose(g["output gate o"] * c.tanh(), h_after, atol=1e-12)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_the_gates_of_a_gru_give_its_state(reset: str) -> None:
    cell = GRUCell(5, 4, reset=reset).double()  # type: ignore[arg-type]
    x_BI, (h_BH,) = states(cell)
    g = cell.gates(cell.project(x_BI), (h_BH,))
    r, z = g["reset gate r"], g["update gate z"]
    x_n = cell.project(x_BI)[:, 8:]
    U, b = cell.weight_hh[8:], cell.bias_hh[8:]
    n = torch.tanh(x_n + ((r * h_BH) @ U.T + b if reset == "before" else r * (h_BH @ U.T + b)))
    assert torch.allclose(z * h_BH + (1 - z) * n, cell(x_BI, (h_BH,))[0], atol=1e-12)


class Undescribed(LSTMCell):
    """An LSTM that forgets less: none of its base's equations and gates are its own."""

    def step(self, projected_x: torch.Tensor, state: State) -> State:
        h_BH, c_BH = super().step(projected_x, state)
        return h_BH, (c_BH + state[1]) / 2


def test_a_cell_that_says_nothing_of_itself_is_shown_by_its_states_alone() -> None:
    with torch.inference_mode():
        gates = explanation.gates_of_cell(Undescribed(5, 4), torch.randn(6, 1, 5))
    assert [(gate.name, gate.equation) for gate in gates] == [("output h", ""), ("state 2", "")]


# The page and the figure


def test_the_page_is_one_file_and_escapes_the_review(model: Predictor) -> None:
    evil = "superb <script>alert(1)</script>"
    text = page.html(model, evil, explanation.explain(model, evil), form=True)
    references = References()
    references.feed(text)
    assert [found for found in references.found if "=data:" not in found and "=" in found] == []
    assert "<script" not in text
    if model.config["model"]["name"] == "custom_lstm":
        for number in range(2, 9):
            assert f"({number})" in text


@pytest.mark.parametrize("model", MODELS[:1], indirect=True)
def test_the_command_writes_a_page_and_never_over_one(model: Predictor, tmp_path: Path) -> None:
    shown = command(tmp_path, model.path, TEXT, module="explain")
    assert shown.returncode == 0, shown.stderr
    assert re.match(r"(positive|negative) 0\.\d{4}", shown.stdout)
    assert "contributions: " in shown.stdout
    target = tmp_path / "explanation.html"
    for code in (0, 2):
        done = command(tmp_path, model.path, TEXT, "--html", target, module="explain")
        assert done.returncode == code, done.stderr
    assert "already exists" in done.stderr


@pytest.mark.parametrize("model", MODELS[:1], indirect=True)
def test_the_command_writes_a_figure_and_never_over_one(model: Predictor, tmp_path: Path) -> None:
    target = tmp_path / "explanation.png"
    for code in (0, 2):
        done = command(tmp_path, model.path, TEXT, "--figure", target, module="explain")
        assert done.returncode == code, done.stderr
    assert "already exists" in done.stderr
    assert matplotlib.image.imread(target).std() > 0
    wrong = command(tmp_path, model.path, TEXT, "--figure", "explanation.jpg", module="explain")
    assert wrong.returncode == 2
    assert "explanation.jpg: must be one of .png, .svg, .pdf" in wrong.stderr
    assert list(tmp_path.glob("explanation*")) == [target]
