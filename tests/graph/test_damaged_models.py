"""Damaged copies of five models give a plan or one line: no traceback, no crash, no hang, bounded memory."""

import json
import resource
import subprocess
import sys

import pytest

MEMORY = 8 << 30
"""Address space of the process; the runtime's threads reserve most of it."""


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def check_copies(first, count, quantized, seconds):
    command = [sys.executable, "-m", "tests.graph.damaging", *map(str, (first, count, quantized))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, preexec_fn=limited, check=False
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    assert found.pop("wrong", 0) == 0, done.stderr
    assert sum(found.values()) == count
    assert found["refused"] > count // 4, "the copies were hardly damaged"
    assert found["planned"] > count // 10, "no copy was fit to be read on"


def test_a_hundred_damaged_models_are_planned_or_refused():
    check_copies(0, 100, 10, seconds=240)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 1100, 250))
def test_a_thousand_damaged_models_are_planned_or_refused(first):
    check_copies(first, 250, 15, seconds=600)
