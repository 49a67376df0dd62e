"""A profile has every row of a target file, from the kernels that the rows are named after."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.cost.model import is_blocked
from onnxq.cost.target import find_target
from onnxq.cost.target_file import BLOCKED, ROWS, read_target_file
from onnxq.options import Target
from onnxq.profiling import device, profile
from onnxq.profiling.cases import AROUND
from onnxq.profiling.device import block_size, saturates
from onnxq.profiling.kernels import all_cases
from onnxq.profiling.measurement import Patience, measure

SEEN = {
    "float": ("Conv", "MatMul"),
    "integer": ("QLinearConv", "QLinearMatMul"),
}


def smallest(block):
    """Return the case with the least work for each row."""
    found = {}
    for case in all_cases(block):
        types = {name: 1.0 for names in SEEN.values() for name in names} | {"": 1.0}
        row = next(
            each for each in case.rows([types] * len(case.probes), 1.0) if each.name not in AROUND.values()
        )
        if row.name not in found or row.work.features() < found[row.name][0]:
            found[row.name] = row.work.features(), case
    return [case for _, case in found.values()]


@pytest.mark.parametrize("block", [0, 8, 16])
def test_the_cases_are_the_same_each_time_and_have_every_row(block):
    cases, again = all_cases(block), all_cases(block)
    assert [[probe.name for probe in case.probes] for case in cases] == [
        [probe.name for probe in case.probes] for case in again
    ]
    rows = [
        row
        for case in cases
        for types in (
            {"Conv": 1.0, "MatMul": 1.0, "": 1.0},
            {"QLinearConv": 1.0, "QLinearMatMul": 1.0, "": 1.0},
        )
        for row in case.rows([types] * len(case.probes), 1.0)
    ]
    expected = ROWS if block else ROWS - BLOCKED
    names = {row.name for row in rows} - ({"float stem"} - expected)
    assert expected - names == set(AROUND.values()) & expected
    assert min(row.work.macs for row in rows) >= 0


def test_the_operators_run_in_the_kernels_that_the_rows_are_named_after():
    cases = [case for case in smallest(16) if len(case.probes) == 1 and not case.probes[0].wall]
    found = measure([case.probes[0] for case in cases], 1, Patience(least=1, most=1, runs=5))
    for case in cases:
        types = found.times[case.probes[0].name]
        named = {row.name for row in case.rows([types], 1.0)} - set(AROUND.values())
        assert len(named) == 1, (case.probes[0].name, types)


def test_the_block_is_that_of_the_runtime(tmp_path):
    """Grouped convolutions are blocked if each group fills blocks, which is how the block was found."""
    block = block_size()
    assert block in (0, 8, 16)
    assert is_blocked((2 * block, block, 3, 3), 2, block) == bool(block)


def test_saturation_is_found(monkeypatch):
    class Session:
        def __init__(self, share):
            self.share = share

        def run(self, _outputs, feeds):
            exact = device.DEPTH * 255 * 127
            return [np.full((len(feeds["x"]), 64), int(exact * self.share))]

    assert saturates() in (False, True)
    for share, expected in ((1.0, False), (0.5, True)):
        monkeypatch.setattr(device, "open_session", lambda *_, share=share, **__: Session(share))
        assert saturates() is expected


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(profile, "all_cases", smallest)
    monkeypatch.setattr(profile, "Patience", lambda: Patience(least=1, most=1, runs=5))


def run(*arguments):
    return CliRunner().invoke(main, ["profile", *map(str, arguments)])


def test_the_command_writes_a_target_file(quick, tmp_path):
    path = tmp_path / "device.toml"
    result = run("-o", path, "--threads", 2, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    found = read_target_file(path)
    assert found.threads == facts["threads"] == 2
    assert found.block == block_size()
    assert found.saturates == saturates()
    assert facts["machine"]["onnxruntime"] == found.machine.onnxruntime
    assert {row["name"] for row in facts["rows"]} == found.table.keys()
    target = find_target((Target.PORTABLE, path))
    assert len(target.costs) == 3 and target.like_here and target.notes == ()


def test_a_file_is_not_overwritten(tmp_path, monkeypatch):
    path = tmp_path / "device.toml"
    path.write_text("mine")
    monkeypatch.setattr(profile, "measured", lambda *_: pytest.fail("measured first"))
    result = run("-o", path)
    assert result.exit_code == 2 and "exists already" in result.output
    with pytest.raises(onnxq.OnnxqError, match="exists already"):
        onnxq.profile(path)
    assert path.read_text() == "mine"


def test_a_runtime_without_a_kernel_is_named(quick, monkeypatch):
    monkeypatch.setattr(profile, "all_cases", lambda block: smallest(block)[:-1])
    with pytest.raises(onnxq.OnnxqError, match="has no kernel for the row 'integer Clip'"):
        profile.measured(1)
