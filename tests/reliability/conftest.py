"""Shared by the tests of reliability: runs that are never killed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from .processes import SMALL, run


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run that is never killed, for these arguments."""

    @functools.cache
    def of(*arguments: str) -> Path:
        return run(tmp_path_factory.mktemp("uninterrupted"), *SMALL, *arguments)

    return of
