"""Damaged copies of small files of every kind: each works or is refused with one line; never a crash or a hang.

They are read in one process of its own, because a broken file may end the process.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.damaging import KINDS

COPIES = 32
"""Damaged copies of each kind, more than 500 in all."""
MOST_MIB = 1024
"""Most memory of the process that reads them."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes():
    command = [sys.executable, "-m", "tests.data.damaging", str(COPIES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended in {lines[-1]}: {done.stderr[-2000:]}"
    return lines


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_works_or_is_refused(outcomes, kind):
    found = {number: outcome for name, number, outcome in outcomes if name == kind}
    assert found.pop("whole") == "worked"
    assert int(found.pop("MiB")) < MOST_MIB
    assert len(found) == COPIES
    assert {
        number: outcome for number, outcome in found.items() if outcome not in ("worked", "refused")
    } == {}
    assert "refused" in found.values()
