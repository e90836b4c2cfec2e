"""An export: a folder with the model in one format, verified against the network."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch

from ..inference import Predictor
from ..model.network import Network
from ..model.padding import padding_mask
from ..runs import storage
from . import model_card
from .onnx import write_onnx
from .pt2 import write_pt2
from .runner import ExportError as ExportError
from .runner import Runner
from .safetensors import write_safetensors


TOKENS, REVIEWS = (1, 7, 200, 800), (1, 3)  # sizes at which an export is verified
TOLERANCE = 1e-5  # largest difference of a logit, relative to logits above 1
METRICS = "temperature dataset model seed parameters val/acc val/loss test/acc test/loss".split()
WRITERS = {"onnx": write_onnx, "pt2": write_pt2, "safetensors": write_safetensors}


def export(model: Predictor, kind: str, folder: Path) -> float:
    """Write `folder` completely or not at all; returns the largest difference of a logit.

    Raises ExportError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        inside = Path(temporary) / "export"
        inside.mkdir()
        run = WRITERS[kind](model.network32, inside / f"model.{kind}")
        difference = max_logit_difference(model.network32, run)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the export differs by {difference:.2g} in a logit; nothing is written"
            )
        shutil.copyfile(model.tokenizer_file, inside / "tokenizer.json")
        metrics = {key: model.metrics[key] for key in METRICS if key in model.metrics}
        config = {**model.config, "metrics": metrics}
        storage.atomic_write(inside / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        storage.atomic_write(inside / "MODEL_CARD.md", model_card.text(model).encode())
        inside.rename(folder)
    return difference


def max_logit_difference(network: Network, run: Runner) -> float:
    """Over lengths, batches and random tokens; relative if a logit is above 1."""
    random = torch.Generator().manual_seed(0)
    words = network.embedding.weight.shape[0]
    largest = 0.0
    for T in TOKENS:
        if network.pooling == "mean_padded" and T > network.max_length:
            T = network.max_length  # the tokenizer never returns more
        for B in REVIEWS:
            tokens_BT = torch.randint(1, words, (B, T), generator=random)
            lengths_B = torch.randint(1, T + 1, (B,), generator=random)
            lengths_B[0] = T
            tokens_BT[padding_mask(lengths_B, T).T] = 0
            with torch.inference_mode():
                expected = network(tokens_BT, lengths_B)
            difference = (run(tokens_BT, lengths_B) - expected).abs()
            largest = max(largest, float((difference / expected.abs().clamp(min=1)).max()))
    return largest
