"""Each claim ends in the word that the runs allow.

pytest tests/report/test_claims.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from imdb_lightning.report import claims, published
from imdb_lightning.report.claims import Claim
from imdb_lightning.report.runs import Configuration, collect
from tests.report.conftest import Make


def found(folder: Path) -> list[Configuration]:
    collection = collect([folder])
    assert collection.problems == []
    return collection.configurations


def verdicts_of(folder: Path) -> dict[str, Claim]:
    return {claim.text: claim for claim in claims.report_claims(found(folder))}


def report(make: Make, seeds: int = 3, **skills: float) -> None:
    for name, skill in skills.items():
        for seed in range(seeds):
            make(f"{name}{seed}", f"experiment=report/{name}", seed=seed, skill=skill)


def test_every_published_run_is_an_experiment_of_ours() -> None:
    for name, run in published.runs().items():
        cfg = published._experiment(name, ())
        assert cfg["model.name"] == run["model"]
        assert cfg["model.hidden_size"] == run["hidden_size"]
        assert cfg["data.batch_size"] == run["batch_size"]
        assert cfg["model.dropout"] == run["dropout"]
        assert cfg["optim.weight_decay"] == run["weight_decay"]
        assert len(run["epochs"]) == cfg["trainer.max_epochs"] == 10


def test_a_clear_difference_is_supported_and_the_other_way_round_not(
    make: Make, tmp_path: Path
) -> None:
    report(make, rnn=1.0, gru=1.6, lstm=0.6)
    verdicts = verdicts_of(tmp_path)
    gru, lstm = (
        verdicts[f"{name} is slightly better than an RNN"] for name in ("A GRU", "An LSTM")
    )
    assert gru.verdict == "supported" and gru.difference and gru.difference > 0.05
    assert gru.interval and gru.interval[0] > 0 and gru.p_holm and gru.p_holm < 0.05
    assert lstm.verdict == "not supported" and lstm.difference and lstm.difference < -0.05


def test_two_seeds_are_too_few_for_a_verdict(make: Make, tmp_path: Path) -> None:
    report(make, seeds=2, rnn=1.0, gru=1.6)
    claim = verdicts_of(tmp_path)["A GRU is slightly better than an RNN"]
    assert claim.verdict == "undecided"
    assert claim.why == "2 matched seeds; a verdict needs 3"


def test_only_matched_seeds_count(make: Make, tmp_path: Path) -> None:
    report(make, seeds=4, rnn=1.0)
    for seed in (1, 2, 3, 9):
        make(f"gru{seed}", "experiment=report/gru", seed=seed, skill=1.6)
    claim = verdicts_of(tmp_path)["A GRU is slightly better than an RNN"]
    assert claim.seeds == [1, 2, 3]
    assert len(claim.pairs) == 3


def test_no_difference_is_supported_only_without_a_difference(make: Make, tmp_path: Path) -> None:
    report(make, custom_lstm=3.5, hidden_128=3.5, batch_128=2.0)
    verdicts = verdicts_of(tmp_path)
    assert verdicts["Hidden size 128 instead of 64 makes no significant difference"].verdict == (
        "supported"
    )
    assert verdicts["Batch size 128 instead of 64 makes no significant difference"].verdict == (
        "not supported"
    )


def test_one_answer_to_all_is_not_trained(make: Make, tmp_path: Path) -> None:
    report(make, nll_raw=1.0)
    assert (
        verdicts_of(tmp_path)["NLL on raw logits does not train at all"].verdict == "not supported"
    )


def test_claims_without_runs_say_so(make: Make, tmp_path: Path) -> None:
    report(make, rnn=1.0)
    verdicts = verdicts_of(tmp_path)
    assert {claim.verdict for claim in verdicts.values()} == {"undecided"}
    assert {claim.why for claim in verdicts.values()} == {"there are no such runs"}


@pytest.mark.parametrize(("skill", "verdict"), [(1.5, "supported"), (1.501, "not supported")])
def test_identical_is_identical_to_the_bit(
    make: Make, tmp_path: Path, skill: float, verdict: str
) -> None:
    for seed in (0, 1, 2):
        make(f"ce{seed}", "experiment=report/custom_lstm", seed=seed)
        nll = ("experiment=report/custom_lstm", "model.loss=nll")
        make(f"nll{seed}", *nll, seed=seed, skill=skill)
    assert (
        verdicts_of(tmp_path)["log_softmax before NLL is exactly cross entropy"].verdict == verdict
    )


def test_device_and_implementation_do_not_change_the_experiment(make: Make, tmp_path: Path) -> None:
    make("a", "experiment=report/custom_lstm", "trainer=cpu", "model.implementation=loop")
    make("b", "experiment=report/custom_lstm", "model.pooling=max")
    match = published.find("custom_lstm", found(tmp_path))
    assert match is not None
    assert [result.path.name for result in match.results.values()] == ["a"]


MEMORY = ("experiment=memory", "hydra.mode=RUN")


def memory(make: Make, **skills: tuple[float, float]) -> None:
    for model, (near, far) in skills.items():
        for distance, skill in ((10, near), (100, (near + far) / 2), (400, far)):
            for seed in (0, 1, 2):
                overrides = (*MEMORY, f"model={model}", f"data.distance={distance}")
                make(f"{model}{distance}{seed}", *overrides, seed=seed, skill=skill)


def test_who_forgets_and_who_does_not(make: Make, tmp_path: Path) -> None:
    memory(make, custom_rnn=(3.5, 0.0), custom_lstm=(4.5, 4.5), custom_gru=(3.5, 0.0))
    verdicts = {text: claim.verdict for text, claim in verdicts_of(tmp_path).items() if claim.p}
    farther = "reaches farther back than an RNN: all distances but the nearest"
    assert verdicts == {
        "An RNN forgets what is far back": "supported",
        "An LSTM does not forget it": "supported",
        "A GRU does not forget it": "not supported",
        f"An LSTM {farther}": "supported",
        f"A GRU {farther}": "not supported",
    }


def test_memory_needs_two_distances(make: Make, tmp_path: Path) -> None:
    for model in ("custom_rnn", "custom_lstm"):
        make(model, *MEMORY, f"model={model}", "data.distance=10")
    report(make, rnn=1.0)
    assert all(claim.why == "there are no such runs" for claim in verdicts_of(tmp_path).values())


def test_the_memory_grid_is_recognised_among_synthetic_runs(make: Make, tmp_path: Path) -> None:
    memory(make, custom_rnn=(2.0, 0.0))
    make("other", "data=synthetic")
    models = claims.memory(found(tmp_path))
    assert {name: sorted(distances) for name, distances in models.items()} == {
        "custom_rnn": [10, 100, 400]
    }


def test_the_best_on_val_is_compared_with_all_others(make: Make, tmp_path: Path) -> None:
    for name, skill in (("rnn", 1.0), ("lstm", 1.6), ("gru", 1.3)):
        for seed in (0, 1, 2):
            make(
                f"{name}{seed}",
                "experiment=cells",
                "hydra.mode=RUN",
                f"model={name}",
                seed=seed,
                skill=skill,
            )
    compared = claims.against_the_best(found(tmp_path))
    assert [(c.text, c.verdict) for c in compared] == [
        ("lstm is better than gru", "supported"),
        ("lstm is better than rnn", "supported"),
    ]
