"""`bench --target`: what a target expects of a float model and of its int8 files."""

from dataclasses import replace

import onnx
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.cost.target import find_target
from onnxq.cost.target_file import as_toml, shipped
from onnxq.evaluation.benchmark import BenchOptions, bench
from onnxq.evaluation.expectation import floats_of
from onnxq.evaluation.inspection import InspectOptions, inspect_model
from onnxq.normalize.passes import normalize
from onnxq.options import Target
from onnxq.plan.plan import make_plan
from onnxq.report.text import bench_text
from tests.conftest import CNN, SAMPLES, normal, parse, to_ir

FAST = {"effort": onnxq.Effort.FAST, "samples": 8, "keep_int8": True, "skip_slow_nodes": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("qdq", "qoperator"):
        onnxq.quantize(CNN, SAMPLES / "calib", folder / f"{name}.onnx", format=name, **FAST)
    (folder / "slow.toml").write_text(as_toml(slow("epyc_vnni")))
    return folder


def slow(name):
    """A made-up CPU: all integer kernels take three times as long as on the named one."""
    found = shipped(name)
    table = {
        row: tuple(3 * cost for cost in costs) if row.startswith("integer ") else costs
        for row, costs in found.table.items()
    }
    machine = replace(found.machine, cpu="made-up CPU", onnxruntime="0.0.1")
    return replace(found, machine=machine, threads=2, table=table)


def test_expected_and_measured_latencies_stand_side_by_side(files):
    paths = [CNN, files / "qdq.onnx", files / "qoperator.onnx"]
    target = (Target.VNNI, files / "slow.toml")
    report = bench(paths, BenchOptions(runs=5, seconds=0.1, target=target))
    assert [each.model for each in report.expected] == [str(path) for path in paths for _ in range(3)]
    by_file = [report.expected[i : i + 3] for i in (0, 3, 6)]
    as_float, qdq, qoperator = by_file
    planned = len(make_plan(normalize(to_ir(onnx.load(CNN)))).nodes)
    assert [each.float_nodes for each in as_float] == [planned] * 3
    assert [each.expected_ms for each in qdq] == [each.expected_ms for each in qoperator]
    assert all(each.float_nodes == 0 for each in qdq)
    # the made-up CPU has the float kernels of the first one, and integer kernels of three times the time
    assert as_float[0].expected_ms == as_float[2].expected_ms
    assert qdq[2].expected_ms > 2 * qdq[0].expected_ms
    # measured with one thread, but the made-up CPU's costs are those of two
    assert [each.measured_ms is None for each in qdq] == [False, False, True]
    assert report.warnings == list(find_target(target).notes) != []
    text = bench_text(report)
    assert "expected ms" in text and "made-up CPU" in text and "count as 0 ms" in text


def test_nothing_is_expected_of_another_model_s_file(files, rng, tmp_path):
    text = "g (float[1,1,8,8] image) => (float[1,4,8,8] y) { y = Conv(image, w) }"
    onnx.save(parse(text, {"w": normal(rng, 4, 1, 1, 1)}), tmp_path / "other.onnx")
    report = bench([tmp_path / "other.onnx", files / "qdq.onnx"], BenchOptions(runs=5, target="vnni"))
    assert [each.expected_ms is None for each in report.expected] == [False, False, True, True]
    assert bench([CNN], BenchOptions(runs=5)).expected == []


def test_views_are_integers_where_the_node_before_them_is(rng):
    text = """g (float[1,4,8,8] x) => (float[1,4,4,4] y) {
        a = Conv(x, w) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) y = Conv(m, w) }"""
    plan = make_plan(normalize(to_ir(parse(text, {"w": normal(rng, 4, 4, 1, 1)}))))
    first, pool, last = plan.nodes
    assert floats_of(plan, {first, last}) == ()
    assert floats_of(plan, {last}) == (first, pool)
    assert floats_of(plan, set()) == (first, pool, last)
    assert floats_of(plan, {"elsewhere"}) is None


def test_a_made_up_cpu_is_planned_for_by_its_file(files, tmp_path):
    shape = {"image": (1, 1, 8, 8)}
    usual, made_up = (
        inspect_model(CNN, InspectOptions(shapes=shape, target=target)).forecast
        for target in (Target.VNNI, files / "slow.toml")
    )
    assert usual.slower < made_up.slower
    report = onnxq.quantize(
        CNN,
        SAMPLES / "calib",
        tmp_path / "q.onnx",
        effort=onnxq.Effort.FAST,
        samples=8,
        target=(files / "slow.toml", "vnni"),
    )
    assert any("measured with onnxruntime 0.0.1" in line for line in report.warnings)
    options = {p.key: p.value for p in onnx.load(tmp_path / "q.onnx").metadata_props}["onnxq.options"]
    assert '"target": "slow.toml ' in options and ", vnni" in options and str(files) not in options


@pytest.mark.parametrize(
    "command", [("quantize", "--calib", str(SAMPLES / "calib")), ("inspect",), ("bench",)]
)
def test_a_damaged_file_is_one_line(command, tmp_path):
    path = tmp_path / "cpu.toml"
    path.write_text(as_toml(shipped("epyc_avx2"))[:900])
    name, *options = command
    result = CliRunner().invoke(main, [name, str(CNN), *options, "--target", str(path)])
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and f"--target {path}: " in lines[0] and "profile the device again" in lines[0]
    assert list(tmp_path.iterdir()) == [path]
