"""Export to safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..model.network import Network
from .runner import Runner


def write_safetensors(network: Network, file: Path) -> Runner:
    from safetensors.torch import load_file, save_file

    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    weights = load_file(file)

    def run(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.func.functional_call(network, weights, (tokens_BT, lengths_B))

    return run
