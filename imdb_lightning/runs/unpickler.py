"""A checkpoint's archive without `torch.load`: containers, numbers, strings and tensors.

`torch.save` writes a zip archive with a pickle, and with the bytes of each storage. Nothing that
the pickle names is called except `collections.OrderedDict` and the tensors' constructor here, and
nothing is larger in memory than in the file: members are not compressed, and every tensor is dense.
(`torch.load(weights_only=True)` believes the sizes in the pickle, and knows many more types.)
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


MAX_PICKLE = 2**20  # bytes, without tensors; that of a thousand epochs has a fifth of it
MAX_VALUES = 200_000  # in the containers, shared ones counted each time
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
ERRORS = (  # what reading a corrupt archive may raise
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError),
    *(MemoryError, RecursionError, NotImplementedError, RuntimeError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)


def loads(content: bytes) -> Any:
    """The object that `torch.save` wrote, its tensors on the CPU. Raises one of `ERRORS`."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if sum(member.file_size for member in members.values()) > len(content):
            raise ValueError("it would be larger in memory than it is as a file")
        (name,) = (name for name in members if name.count("/") == 1 and name.endswith("/data.pkl"))
        if members[name].file_size > MAX_PICKLE:
            raise ValueError("its values, without tensors, are larger than any run's")
        folder = name.removesuffix("data.pkl")
        if archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its byte order is not little")
        unpickler = Unpickler(archive, folder, members)
        found = unpickler.load()
    check_size(found)
    return found


def check_size(value: Any) -> None:
    """Raises ValueError if containers refer to one another so that copying them never ends."""
    pending, count = [value], 0
    while pending:
        count += 1
        if count > MAX_VALUES:
            raise ValueError("its values are more than any run's")
        part = pending.pop()
        if isinstance(part, dict):
            pending += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            pending += part


class Unpickler(pickle.Unpickler):
    """Reads the pickle of an archive of `torch.save`."""

    def __init__(
        self, archive: zipfile.ZipFile, folder: str, members: dict[str, zipfile.ZipInfo]
    ) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive = archive
        self.folder = folder
        self.members = members
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> str | Callable[..., Any]:
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise ValueError(f"it contains {module}.{name}, which no run writes")

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage as a tensor of one dimension."""
        _, kind, key, _, count = pid
        if key not in self.storages:
            dtype = DTYPES[kind]
            member = self.members[f"{self.folder}data/{key}"]
            if member.file_size != count * dtype.itemsize:
                raise ValueError(f"storage {key} is not of the size that it should have")
            found = torch.empty(count, dtype=dtype)  # PyTorch's memory is aligned for its kernels
            if count:
                found.copy_(torch.frombuffer(bytearray(self.archive.read(member)), dtype=dtype))
            self.storages[key] = found
        return self.storages[key]


def tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    """A dense tensor in a storage."""
    if not (isinstance(storage, Tensor) and offset >= 0 and all(n >= 0 for n in size)):
        raise ValueError("a tensor is corrupt")
    if offset + math.prod(size) > len(storage):
        raise ValueError("a tensor is larger than its storage")
    found = storage[offset : offset + math.prod(size)].view(size)
    if found.numel() > 1 and found.stride() != tuple(stride):
        raise ValueError("a tensor is not contiguous, which no run writes")
    return found
