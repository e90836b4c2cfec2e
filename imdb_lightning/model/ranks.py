"""The processes of one run (DDP), and sums over them. All of them must call these functions."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """1 for a run of one process."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def total(count: int) -> int:
    """The sum over processes; exchanged on the CPU, whatever the device."""
    if world_size() == 1:
        return count
    sums = torch.tensor(count)
    distributed.all_reduce(sums)
    return int(sums)


def concatenated(columns: list[Tensor]) -> list[Tensor]:
    """The rows (N,) of all processes in each column, on the CPU; a process may have none."""
    if world_size() == 1:
        return columns
    found: list[list[Tensor]] = [[]] * world_size()
    distributed.all_gather_object(found, columns)
    filled = [own for own in found if own]
    return [torch.cat(parts) for parts in zip(*filled, strict=True)]
