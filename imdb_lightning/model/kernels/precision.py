"""How products of float32 round on a GPU: as PyTorch lets cuDNN's recurrent layers round.

`torch.backends.cudnn.rnn.fp32_precision` is "tf32" unless it is set to "ieee": products of numbers
with 10 binary digits after the point, or of all that float32 has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


rnn: Any = torch.backends.cudnn.rnn
matmul: Any = torch.backends.cuda.matmul


def is_tf32() -> bool:
    """Whether products may round to TF32."""
    return rnn.fp32_precision == "tf32"


@contextmanager
def of_layers(like: Tensor) -> Iterator[None]:
    """The products of a layer around its loop round as those in the loop do."""
    before = matmul.fp32_precision
    if not like.is_cuda or before == "tf32" or not is_tf32():
        yield
        return
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before
