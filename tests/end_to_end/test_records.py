"""Comparison of two records of the corpus benchmark."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BASE = {
    "machine": {"cpu": "a"},
    "older_cpu": True,
    "options": "",
    "cases": [{"case": "one", "score": 0.9, "sqnr_db": 30.0, "speedup": 1.5, "R": 10.0, "peak_mb": 400}],
}


def compare(old, new):
    command = [sys.executable, ROOT / "benchmarks" / "compare.py", old, new]
    return subprocess.run(command, capture_output=True, text=True)


def compared(tmp_path, **changed):
    new = json.loads(json.dumps(BASE))
    new["cases"][0] |= changed
    for name, record in (("old", BASE), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return compare(tmp_path / "old.json", tmp_path / "new.json")


def test_noise_is_no_change(tmp_path):
    done = compared(tmp_path, speedup=1.45, sqnr_db=29.8, R=11.0)
    assert (done.returncode, done.stdout) == (0, "nothing got worse\n")


@pytest.mark.parametrize(
    "changed", [{"score": 0.88}, {"sqnr_db": 27.0}, {"speedup": 1.2}, {"R": 20.0}, {"peak_mb": 600}]
)
def test_a_worse_value_fails(tmp_path, changed):
    done = compared(tmp_path, **changed)
    assert done.returncode == 1
    assert f"one: {next(iter(changed))}" in done.stdout
    assert "WORSE" in done.stdout


def test_a_better_value_passes_and_a_case_without_a_file_does_not(tmp_path):
    done = compared(tmp_path, sqnr_db=35.0)
    assert done.returncode == 0
    assert "better" in done.stdout
    assert compared(tmp_path, error="no file").returncode == 1


def test_the_stored_record_can_be_compared():
    stored = ROOT / "benchmarks" / "records" / "avx2.json"
    done = compare(stored, stored)
    assert done.returncode == 0, done.stderr
