"""docs/reliability.md names tests that are there.

pytest tests/reliability/test_table.py
"""

from __future__ import annotations

import re
from pathlib import Path


TESTS = Path(__file__).parent.parent
TABLE = TESTS.parent / "docs" / "reliability.md"


def test_every_fault_has_its_test() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)` \|$", TABLE.read_text("utf-8"), re.MULTILINE)
    rows = TABLE.read_text("utf-8").split("| fault |")[1].strip().splitlines()[2:]
    assert len(named) == len(rows) == len(set(named)) >= 45
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"\ndef {test}(" not in (TESTS / file).read_text("utf-8")
    ]
    assert missing == []
