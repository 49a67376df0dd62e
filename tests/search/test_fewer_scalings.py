"""Multiplications of SmoothQuant: those that the outputs do not need are removed, the others stay."""

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.calibration.moments import LayerInput
from onnxq.pipeline import calibrate
from onnxq.search.fewer_scalings import find_removable
from onnxq.search.settings import SearchSettings
from tests.conftest import normal, parse

WIDTH, LINKS = 64, 4
LAYERS = [LayerInput(f"x{i}", 1, 64) for i in range(8)]


def measurements(base, noises, interaction=1.0):
    """Return SQNR functions of a model in which each removed multiplication adds noise.

    The second function, for all samples, measures `interaction` times that noise.
    """

    def sqnr(factor):
        def db(links):
            return float(-10 * np.log10(base + factor * sum(noises[layer] for layer in links)))

        return db

    return sqnr(1.0), sqnr(interaction)


def idle(noises, costs=None, interaction=1.0):
    measure_few, measure_all = measurements(1e-3, noises, interaction)
    return find_removable(
        costs or {layer: layer.size for layer in noises}, measure_few, measure_all, measure_all(frozenset())
    )


def test_only_multiplications_that_the_outputs_do_not_need_are_removed():
    noises = dict.fromkeys(LAYERS, 1e-3) | {LAYERS[2]: 0.0, LAYERS[5]: 1e-6}
    assert idle(noises) == {LAYERS[2], LAYERS[5]}


def test_the_whole_loss_is_bounded_not_each_one():
    noises = dict.fromkeys(LAYERS, 2e-5)  # each alone is far below the bound, all together above it
    left_out = idle(noises)
    allowed = 1e-3 * (10 ** (SearchSettings().max_scaling_loss_db / 10) - 1)
    assert len(left_out) == int(allowed / 2e-5)


def test_the_more_expensive_of_two_equal_multiplications_is_removed_first():
    noises = dict.fromkeys(LAYERS[:2], 5e-5)
    assert idle(noises, {LAYERS[0]: 64, LAYERS[1]: 4096}) == {LAYERS[1]}


def test_fewer_are_removed_if_the_noise_exceeds_the_sum_of_its_parts():
    noises = dict.fromkeys(LAYERS, 1e-6)
    judge = measurements(1e-3, noises, 20.0)[1]
    assert idle(noises) == set(LAYERS)
    left_out = idle(noises, interaction=20.0)
    assert 0 < len(left_out) < len(LAYERS)
    assert judge(left_out) >= judge(frozenset()) - SearchSettings().max_scaling_loss_db


@pytest.fixture
def uneven(tmp_path, rng):
    """Residual products behind normalizations with outlier channels; only the first product matters at the output."""
    lines, constants, value = [], {}, "x"
    for i in range(LINKS):
        gain = np.ones(WIDTH, np.float32)
        gain[:3] = 40.0
        weight = normal(rng, WIDTH, WIDTH) / np.float32(WIDTH**0.5)
        weight[:3] /= 40
        constants |= {
            f"g{i}": gain,
            f"b{i}": np.zeros(WIDTH, np.float32),
            f"w{i}": weight * (1.0 if i == 0 else 0.001),
        }
        constants[f"c{i}"] = 0.01 * normal(rng, WIDTH)
        lines += [
            f"n{i} = LayerNormalization<axis=-1>({value}, g{i}, b{i})",
            f"m{i} = MatMul(n{i}, w{i})",
            f"p{i} = Add(m{i}, c{i})",
            f"s{i} = Add(p{i}, {value})",
        ]
        value = f"s{i}"
    text = f"g (float[N, 8, {WIDTH}] x) => (float[N, 8, {WIDTH}] y) {{\n"
    model = parse(text + "\n".join(lines) + f"\ny = Identity({value})\n}}", constants)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    (tmp_path / "calib").mkdir()
    for i in range(48):
        np.save(tmp_path / "calib" / f"{i:02}.npy", normal(rng, 1, 8, WIDTH))
    return path, tmp_path / "calib"


def test_a_file_keeps_the_multiplication_that_the_outputs_need(uneven, tmp_path):
    path, calib = uneven
    report = onnxq.quantize(path, calib, tmp_path / "q.onnx", skip_slow_nodes=False)
    assert "smoothing" in report.techniques
    written = onnx.load(tmp_path / "q.onnx")
    kept = [node.name for node in written.graph.node if node.name.endswith("_Smoothing")]
    assert kept == ["n0_Smoothing"]
    before = onnxq.quantize(
        path, calib, tmp_path / "plain.onnx", skip_slow_nodes=False, without=("smoothing", "fallback")
    )
    assert report.outputs.sqnr_db > before.outputs.sqnr_db + 10


def test_smoothing_takes_part_with_merged_statistics(uneven, tmp_path):
    path, calib = uneven
    for name, shard in (("all", (1, 1)), ("1", (1, 2)), ("2", (2, 2))):
        calibrate(onnxq.QuantizeOptions(path, calib), tmp_path / f"{name}.npz", shard)
    reports = [
        onnxq.quantize(
            path, calib, tmp_path / f"{'-'.join(names)}.onnx", stats=[tmp_path / f"{name}.npz" for name in names],
            skip_slow_nodes=False,
        )
        for names in (["all"], ["1", "2"])
    ]  # fmt: skip
    assert all("smoothing" in report.techniques for report in reports)
    assert (tmp_path / "all.onnx").read_bytes() == (tmp_path / "1-2.onnx").read_bytes()
    one_run = onnxq.quantize(path, calib, tmp_path / "q.onnx", skip_slow_nodes=False)
    assert reports[1].outputs.sqnr_db == pytest.approx(one_run.outputs.sqnr_db, abs=0.5)
