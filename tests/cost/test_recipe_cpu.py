"""The recipe for a CPU family: a table of kernel times, and its entry in CPU_TABLES."""

import numpy as np
import onnx

import onnxq
from onnxq.cost.target import CPU_TABLES
from onnxq.options import Target
from onnxq.plan.reasons import SLOWER
from tests.conftest import normal, parse

TEXT = """g (float[1,64,64,64] x) => (float[1,64,64,64] y) {
    a = Conv<pads=[3,3,3,3], group=64>(x, d) y = Conv<pads=[3,3,3,3], group=64>(a, d) }"""
"""Depthwise convolutions, which the tables on hand expect to be slower in int8."""


def test_a_registered_table_decides_the_placement(tmp_path, monkeypatch, rng):
    onnx.save(parse(TEXT, {"d": normal(rng, 64, 1, 7, 7)}), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(6):
        np.save(tmp_path / "calib" / f"{i}.npy", normal(rng, 1, 64, 64, 64))
    options = {"target": Target.ARM, "effort": onnxq.Effort.FAST, "force": True}
    monkeypatch.setitem(CPU_TABLES, Target.ARM, ())
    before = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "calib", **options)
    assert (before.planned, before.floats) == (2, [])
    monkeypatch.setitem(CPU_TABLES, Target.ARM, ("epyc_avx2",))
    after = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "calib", **options)
    assert after.planned == 0
    assert [(group.op_type, group.reason) for group in after.floats] == [("Conv", SLOWER.text)]
