"""Random models are compared with the float model on the same numbers, and give the same bytes each time."""

import numpy as np
import onnx
import onnx_ir as ir

import onnxq
from onnxq.graph.files import load
from onnxq.runtime.random_seeds import may_be_random, unseeded_nodes
from onnxq.runtime.sessions import open_session
from tests.conftest import normal, parse

NOISY = """g (float[1,8,16] x) => (float[1,8,16] y) {
    a = Conv<pads = [1, 1]>(x, w0) n = RandomNormalLike(a) s = Mul(n, k)
    b = Add(a, s) r = Tanh(b) y = Conv<pads = [1, 1]>(r, w1) }"""


def noisy(rng, folder):
    weights = {"w0": normal(rng, 8, 8, 3) / 5, "w1": normal(rng, 8, 8, 3) / 5, "k": np.float32(0.7)}
    onnx.save(parse(NOISY, weights), folder / "model.onnx")
    (folder / "calib").mkdir()
    for i in range(40):
        np.save(folder / "calib" / f"{i:02}.npy", normal(rng, 1, 8, 16))
    return folder / "model.onnx"


def test_outputs_are_held_against_the_same_draws(tmp_path, rng):
    path = noisy(rng, tmp_path)
    reports = [
        onnxq.quantize(path, tmp_path / "calib", tmp_path / name, skip_slow_nodes=False)
        for name in ("a.onnx", "b.onnx")
    ]
    assert reports[0].outputs.sqnr_db > 25
    assert reports[0].kernels.counts["QLinearConv"] == 2
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    scores = onnxq.evaluate(path, [tmp_path / "a.onnx"], tmp_path / "calib")
    assert scores.scores[1].sqnr_db > 25


def test_the_file_still_draws_as_it_likes(tmp_path, rng):
    path = noisy(rng, tmp_path)
    onnxq.quantize(
        path, tmp_path / "calib", tmp_path / "a.onnx", skip_slow_nodes=False, effort=onnxq.Effort.FAST
    )
    assert len(unseeded_nodes(load(tmp_path / "a.onnx"))) == 1
    x = {"x": normal(rng, 1, 8, 16)}
    ours = [open_session(model).run(None, x)[0] for model in (path, load(path), path)]
    assert np.array_equal(ours[0], ours[1])
    assert np.array_equal(ours[0], ours[2])


def test_a_seed_that_the_model_has_is_kept(tmp_path, rng):
    model = load(noisy(rng, tmp_path))
    model.graph[1].attributes["seed"] = ir.AttrFloat32("seed", 7.0)
    assert unseeded_nodes(model) == []
    open_session(model)
    assert model.graph[1].attributes["seed"].as_float() == 7.0
    assert may_be_random(tmp_path / "model.onnx")
    onnx.save(parse("g (float[1] x) => (float[1] y) { y = Tanh(x) }"), tmp_path / "plain.onnx")
    assert not may_be_random(tmp_path / "plain.onnx")
