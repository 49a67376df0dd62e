"""Parts of an output: operands of a Concat, and values of different scale, are compared by themselves."""

import numpy as np
import pytest

from onnxq.comparison.errors import OutputErrors
from onnxq.comparison.observation import Observation, observe
from onnxq.comparison.parts import Part
from onnxq.normalize.passes import normalize
from onnxq.types import Array, Feeds
from tests.conftest import normal, parse, run, to_ir

SIZES = (4, 2, 1)
"""Height and width of a detector's three maps: 21 anchors in all."""
HEADS = """
    b0 = Conv(f0, wb0) b1 = Conv(f1, wb1) b2 = Conv(f2, wb2) s0 = Conv(f0, ws0) s1 = Conv(f1, ws1)
    s2 = Conv(f2, ws2)
    rb0 = Reshape(b0, four) rb1 = Reshape(b1, four) rb2 = Reshape(b2, four)
    rs0 = Reshape(s0, three) rs1 = Reshape(s1, three) rs2 = Reshape(s2, three)"""
INPUTS = "g (float[1,8,4,4] f0, float[1,8,2,2] f1, float[1,8,1,1] f2) => (float[1,P,Q] y)"


def observed(text: str, constants: dict[str, Array], feeds: list[Feeds]) -> Observation:
    return observe(normalize(to_ir(parse(text, constants))), feeds)


def names(text: str, constants: dict[str, Array], feeds: list[Feeds]) -> list[str]:
    return [part.name for part in observed(text, constants, feeds).outer]


def detector(rng: np.random.Generator) -> tuple[dict[str, Array], list[Feeds]]:
    """Weights of three heads with 4 coordinates and 3 scores, and samples."""
    weights = {f"wb{i}": normal(rng, 4, 8, 1, 1) / 3 for i in range(3)} | {
        f"ws{i}": normal(rng, 3, 8, 1, 1) / 3 for i in range(3)
    }
    shapes = {"four": np.array([1, 4, -1]), "three": np.array([1, 3, -1])}
    stride = np.repeat(np.float32([8, 16, 32]), [16, 4, 1]).reshape(1, 1, 21)
    feeds = [{f"f{i}": normal(rng, 1, 8, size, size) for i, size in enumerate(SIZES)} for _ in range(24)]
    return weights | shapes | {"stride": stride}, feeds


@pytest.fixture
def data(rng):
    return [{"x": normal(rng, 1, 16)} for _ in range(24)]


def test_heads_coordinates_and_scores_of_a_detector_are_parts(rng):
    """Heads along the anchors, then coordinates in pixels beside scores, then a Transpose."""
    constants, feeds = detector(rng)
    text = f"""{INPUTS} {{ {HEADS}
        b = Concat<axis=2>(rb0, rb1, rb2) s = Concat<axis=2>(rs0, rs1, rs2)
        pixels = Mul(b, stride) scores = Sigmoid(s) c = Concat<axis=1>(pixels, scores)
        y = Transpose<perm=[0,2,1]>(c) }}"""
    parts = observed(text, constants, feeds).outer
    assert [part.name for part in parts] == [
        "y[:, 0:16, 0:4]", "y[:, 16:20, 0:4]", "y[:, 20:21, 0:4]",
        "y[:, 0:16, 4:7]", "y[:, 16:20, 4:7]", "y[:, 20:21, 4:7]",
    ]  # fmt: skip
    y = run(parse(text, constants), feeds[0])[0]
    pixels, scores = y[:, :, :4], y[:, :, 4:]
    assert np.array_equal(parts[1].of(y), pixels[:, 16:20])
    assert np.array_equal(parts[3].of(y), scores[:, :16])
    assert sum(part.of(y).size for part in parts) == y.size
    assert [part.least for part in parts] == [0, 0, 0, 0.1, 0.1, 0.1]


def test_coordinates_beside_scores_in_each_head_are_parts_of_it(rng):
    """Concat in each head, Reshape and Transpose behind it, then the heads along the anchors."""
    constants, feeds = detector(rng)
    heads = " ".join(
        f"p{i} = Mul(rb{i}, eight) q{i} = Sigmoid(rs{i}) c{i} = Concat<axis=1>(p{i}, q{i})" for i in range(3)
    )
    turned = " ".join(
        f"u{i} = Unsqueeze(c{i}, last) t{i} = Transpose<perm=[0,3,2,1]>(u{i}) v{i} = Squeeze(t{i}, first)"
        for i in range(3)
    )
    text = f"{INPUTS} {{ {HEADS} {heads} {turned} y = Concat<axis=1>(v0, v1, v2) }}"
    constants |= {"eight": np.float32(8), "last": np.array([3]), "first": np.array([1])}
    assert names(text, constants, feeds) == [
        "y[:, 0:16, 0:4]", "y[:, 0:16, 4:7]", "y[:, 16:20, 0:4]",
        "y[:, 16:20, 4:7]", "y[:, 20:21, 0:4]", "y[:, 20:21, 4:7]",
    ]  # fmt: skip


def test_a_concat_whose_axis_is_merged_into_another_is_one_part(rng, data):
    text = """g (float[1,16] x) => (float[1,42] y) {
        a = MatMul(x, w0) b = MatMul(x, w1) p = Reshape(a, s0) q = Reshape(b, s1)
        c = Concat<axis=%d>(p, q) y = Reshape(c, flat) }"""
    constants = {"w0": normal(rng, 16, 24), "w1": normal(rng, 16, 18), "flat": np.array([1, 42])}
    merged = names(text % 2, constants | {"s0": np.array([1, 6, 4]), "s1": np.array([1, 6, 3])}, data)
    assert merged == ["y"]


def test_parts_of_a_concat_stay_apart_behind_elementwise_nodes_only(rng, data):
    text = """g (float[1,16] x) => (float[1,8] y, float[1,8] z) {
        a = MatMul(x, w0) b = MatMul(x, w1) c = Concat<axis=1>(a, b) r = Relu(c) y = Add(r, one)
        z = MatMul(c, w2) }"""
    constants = {
        "w0": normal(rng, 16, 5),
        "w1": normal(rng, 16, 3),
        "w2": normal(rng, 8, 8),
        "one": np.ones(8, np.float32),
    }
    assert names(text, constants, data) == ["y[:, 0:5]", "y[:, 5:8]", "z"]


def test_many_operands_are_many_of_one_kind(rng, data):
    steps = " ".join(f"a{i} = MatMul(x, w{i})" for i in range(17))
    text = f"""g (float[1,16] x) => (float[1,34] y) {{
        {steps} y = Concat<axis=1>({", ".join(f"a{i}" for i in range(17))}) }}"""
    assert names(text, {f"w{i}": normal(rng, 16, 2) / 4 for i in range(17)}, data) == ["y"]


PRODUCT = "g (float[N,16] x) => (float[N,6] y) { y = MatMul(x, w) }"


@pytest.mark.parametrize(
    ("large", "expected"),
    [
        ([0, 1, 2, 3], ["y[:, 0:4]", "y[:, 4:6]"]),
        ([0, 2], ["y[:, 0+2]", "y[:, 1+3:6]"]),
        ([5], ["y[:, 0:5]", "y[:, 5]"]),
    ],
)
def test_indices_that_differ_in_scale_are_parts_without_a_concat(rng, data, large, expected):
    weight = normal(rng, 16, 6)
    weight[:, large] *= 300
    parts = observed(PRODUCT, {"w": weight}, data).outer
    assert [part.name for part in parts] == expected
    y = np.arange(6.0).reshape(1, 6)
    assert sorted(value for part in parts for value in part.of(y).ravel()) == list(range(6))
    assert any(set(part.of(y).ravel()) == set(large) for part in parts)


@pytest.mark.parametrize("seed", range(6))
def test_logits_of_one_scale_are_not_split(seed):
    rng = np.random.default_rng(seed)
    feeds = [{"x": normal(rng, 2, 16)} for _ in range(16)]
    assert names(PRODUCT.replace("6", "40").replace("140", "16"), {"w": normal(rng, 16, 40)}, feeds) == ["y"]


def test_what_only_half_of_the_samples_show_is_no_scale(rng):
    """A column that is large in every other sample is large by chance, not by its kind."""
    weight = np.eye(16, 6, dtype=np.float32)
    feeds = [
        {
            "x": normal(rng, 1, 16)
            * np.where(np.arange(16) == 2, 300.0 if i % 2 else 1.0, 1.0).astype(np.float32)
        }
        for i in range(16)
    ]
    assert names(PRODUCT, {"w": weight}, feeds) == ["y"]
    always = [
        {"x": feed["x"] if i % 2 else feed["x"] * np.where(np.arange(16) == 2, 300, 1).astype(np.float32)}
        for i, feed in enumerate(feeds)
    ]
    assert names(PRODUCT, {"w": weight}, always) == ["y[:, 0:2+3:6]", "y[:, 2]"]


def test_few_samples_say_nothing_of_scales(rng, data):
    weight = normal(rng, 16, 6) * np.float32([300, 300, 1, 1, 1, 1])
    assert len(names(PRODUCT, {"w": weight}, data[:4])) == 2
    assert names(PRODUCT, {"w": weight}, data[:3]) == ["y"]


@pytest.mark.parametrize(
    ("score", "least"), [("Sigmoid(a)", 0.1), ("Softmax(a)", 0.1), ("Clip(a, lo, hi)", 0.1), ("Relu(a)", 0.0)]
)
def test_values_of_at_most_one_have_a_unit_of_their_own(rng, data, score, least):
    text = f"""g (float[1,16] x) => (float[1,8] y) {{
        a = MatMul(x, w0) s = {score} b = MatMul(x, w1) y = Concat<axis=1>(b, s) }}"""
    constants = {
        "w0": normal(rng, 16, 4),
        "w1": normal(rng, 16, 4) * 9,
        "lo": np.float32(0),
        "hi": np.float32(1),
    }
    parts = observed(text, constants, data).outer
    assert [part.name for part in parts] == ["y[:, 0:4]", "y[:, 4:8]"]
    assert [part.least for part in parts] == [0.0, least]


@pytest.mark.parametrize("before", ["Add(m, bias)", "Mul(m, bias)", "Sub(m, bias)", "Div(m, bias)"])
def test_what_comes_in_front_of_a_sigmoid_takes_nothing_from_its_unit(rng, data, before):
    text = f"""g (float[1,16] x) => (float[1,8] y) {{
        m = MatMul(x, w0) a = {before} s = Sigmoid(a) b = MatMul(x, w1) y = Concat<axis=1>(b, s) }}"""
    constants = {"w0": normal(rng, 16, 4), "w1": normal(rng, 16, 4) * 9, "bias": np.full(4, 1.5, np.float32)}
    assert [part.least for part in observed(text, constants, data).outer] == [0.0, 0.1]


def test_what_is_scaled_behind_a_sigmoid_has_no_unit(rng, data):
    text = """g (float[1,16] x) => (float[1,8] y) {
        m = MatMul(x, w0) s = Sigmoid(m) a = Mul(s, stride) b = MatMul(x, w1)
        y = Concat<axis=1>(b, a) }"""
    constants = {"w0": normal(rng, 16, 4), "w1": normal(rng, 16, 4) * 9, "stride": np.full(4, 32, np.float32)}
    assert [part.least for part in observed(text, constants, data).outer] == [0.0, 0.0]


def test_scores_that_are_always_near_zero_do_not_rule(rng, data):
    text = """g (float[1,16] x) => (float[1,8] y) {
        far = Gemm(x, w0, twelve) s = Sigmoid(far) b = MatMul(x, w1) y = Concat<axis=1>(b, s) }"""
    constants = {
        "w0": normal(rng, 16, 4) / 9,
        "w1": normal(rng, 16, 4) * 9,
        "twelve": np.full(4, -12, np.float32),
    }
    observation = observed(text, constants, data)
    errors = OutputErrors(observation.outer)
    for feed in data:
        y = run(parse(text, constants), feed)[0]
        assert y[:, 4:].max() < 1e-4
        noise = np.where(np.arange(8) < 4, 0.03 * np.abs(y), 1e-4)  # twice the scores themselves
        errors.add([y], [(y + noise).astype(np.float32)])
    coordinates, scores = 10 * np.log10(1 / errors.ratios())
    assert coordinates == pytest.approx(30.5, abs=0.1)
    assert scores > 60
    assert errors.worst_db() == pytest.approx(coordinates)


def test_an_output_that_is_zero_is_left_out(rng, data):
    text = """g (float[1,16] x) => (float[1,4] y, float[1,4] z) {
        a = MatMul(x, w) y = Mul(a, nothing) z = Tanh(a) }"""
    constants = {"w": normal(rng, 16, 4), "nothing": np.zeros(4, np.float32)}
    observation = observed(text, constants, data)
    errors = OutputErrors(observation.outer)
    for feed in data:
        y, z = run(parse(text, constants), feed)
        errors.add([y, z], [y + np.float32(1e-3), z * np.float32(1.1)])
    assert [errors.parts[i].name for i in errors.measured] == ["z"]
    assert errors.worst_db() == pytest.approx(20, abs=1e-3)
    assert np.isfinite(errors.ratios()).all()


def test_a_group_of_zeros_beside_other_values_does_not_rule(rng, data):
    weight = normal(rng, 16, 6)
    weight[:, 4:] = 0
    parts = observed(PRODUCT, {"w": weight}, data).outer
    errors = OutputErrors(parts)
    for feed in data:
        y = feed["x"] @ weight
        errors.add([y], [y * np.float32(1.1) + np.float32(1e-7)])
    assert errors.worst_db() == pytest.approx(20, abs=0.1)


def test_values_of_any_number_are_judged_in_their_parts(rng):
    """Boxes beside scores, with as many rows as each sample has."""
    text = """g (float[K,16] x) => (float[K,6] y) {
        a = MatMul(x, w0) b = MatMul(x, w1) s = Sigmoid(b) y = Concat<axis=1>(a, s) }"""
    constants = {"w0": normal(rng, 16, 4), "w1": normal(rng, 16, 2)}
    parts = observed(text, constants, [{"x": normal(rng, 3 + i % 4, 16)} for i in range(12)]).outer
    assert [part.name for part in parts] == ["y[:, 0:4]", "y[:, 4:6]"]
    for rows in (1, 3, 50):
        assert parts[1].of(np.zeros((rows, 6))).shape == (rows, 2)


def test_a_shape_that_nobody_knows_beforehand_is_one_part(rng):
    text = """g (float[1,16] x) => (float[P] y, float[Q,5] z) {
        a = MatMul(x, w0) r = Relu(a) b = Greater(r, zero) y = Compress(a, flat) n = NonZero(b)
        t = Transpose(n) f = Cast<to=1>(t)
        m = Concat<axis=1>(f, f) z = MatMul(m, w1) }"""
    constants = {
        "w0": normal(rng, 16, 8),
        "w1": normal(rng, 4, 5),
        "zero": np.float32(0),
        "flat": np.array([True, False] * 4),
    }
    observation = observed(text, constants, [{"x": normal(rng, 1, 16)} for _ in range(8)])
    assert len(observation.outer) >= 1
    for part in observation.outer:
        assert part.of(np.zeros((3, 8))) is None or part.of(np.zeros((3, 8))).size


def test_a_part_of_another_shape_is_none():
    part = Part(0, "y", ((1, slice(0, 2)),), sizes=((1, 6),))
    assert part.of(np.zeros((2, 6))).shape == (2, 2)
    assert part.of(np.zeros((2, 5))) is None
    assert part.of(np.zeros(6)) is None
    assert Part(0, "y").of(np.zeros(3)).shape == (3,)


def test_a_cache_that_grows_is_judged_on_every_sample(rng):
    """Concat along an open axis: each sample has another length."""
    text = """g (float[1,P,4] past, float[1,1,4] x) => (float[1,Q,4] present) {
        k = MatMul(x, w) present = Concat<axis=1>(past, k) }"""
    feeds = [{"past": normal(rng, 1, 3 + i, 4), "x": normal(rng, 1, 1, 4)} for i in range(8)]
    constants = {"w": normal(rng, 4, 4)}
    errors = OutputErrors(observed(text, constants, feeds).outer)
    for feed in feeds:
        (present,) = run(parse(text, constants), feed)
        errors.add([present], [present + np.float32(0.1)])
    assert (errors.powers()[1].sum(1) > 0).all()


def test_a_concat_turned_around_has_its_parts_turned_around(rng, data):
    text = """g (float[1,16] x) => (float[1,6] y) {
        a = MatMul(x, w0) b = MatMul(x, w1) c = Concat<axis=1>(a, b) y = Slice(c, start, end, axes, step) }"""
    constants = {
        "w0": normal(rng, 16, 4),
        "w1": normal(rng, 16, 2),
        "start": np.array([-1]),
        "end": np.array([-99]),
    }
    constants |= {"axes": np.array([1]), "step": np.array([-1])}
    assert set(names(text, constants, data)) in ({"y[:, 0:2]", "y[:, 2:6]"}, {"y"})
