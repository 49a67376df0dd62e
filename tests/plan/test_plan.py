"""Golden plans: integer nodes, tensors with integers, and the reasons of float nodes."""

import numpy as np
import pytest

from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import Plan, Selection, make_plan
from tests.conftest import CNN, TRANSFORMER, normal, parse, to_ir


def describe(plan: Plan) -> str:
    lines = [f"int8   {p.node.op_type:18} {p.name} -> {p.output.name}" for p in plan.nodes.values()]
    for tensor in plan.tensors.values():
        of = "" if tensor.source == tensor.name else f" as {tensor.source}"
        extra = "".join(
            f" {label} {value}"
            for label, value in (("within", tensor.bounds), ("known", tensor.known))
            if value
        )
        lines.append(f"tensor {tensor.name}{of}{extra}")
    lines += [f"float  {node.op_type:18} {name}: {why}" for name, (node, why) in plan.floats.items()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", [CNN, TRANSFORMER], ids=lambda path: path.stem)
def test_sample_plans(golden, path):
    golden(f"{path.stem}.plan", describe(make_plan(normalize(load(path)))))


def plan_of(text, constants, selection=None):
    return make_plan(normalize(to_ir(parse(text, constants))), selection)


HEAD = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) {"


@pytest.fixture
def weights(rng):
    return {"w": normal(rng, 4, 4, 1, 1), "v": normal(rng, 4, 4, 1, 1)}


def test_an_operator_between_integers_joins_and_one_before_floats_does_not(weights):
    text = (
        HEAD + "a = Conv(x, w) l = LeakyRelu(a) b = Conv(l, v) m = LeakyRelu(b) t = Tanh(m) y = Sigmoid(t) }"
    )
    plan = plan_of(text, weights)
    assert [p.node.op_type for p in plan.nodes.values()] == ["Conv", "LeakyRelu", "Conv"]
    assert {node.op_type for node, _ in plan.floats.values()} == {"LeakyRelu", "Tanh", "Sigmoid"}


def test_views_share_the_parameters_of_their_source(weights):
    text = (
        HEAD
        + "a = Conv(x, w) t = Transpose<perm=[0,1,3,2]>(a) r = Transpose<perm=[0,1,3,2]>(t) y = Conv(r, v) }"
    )
    plan = plan_of(text, weights)
    assert plan.tensors["r"].source == plan.tensors["t"].source == "a"
    assert "t" not in plan.sources()


def test_a_clamp_is_absorbed_only_if_it_is_the_only_consumer(weights):
    absorbed = plan_of(HEAD + "a = Conv(x, w) r = Relu(a) y = Conv(r, v) }", weights)
    assert absorbed.tensors["r"].bounds == (0.0, np.inf)
    shared = plan_of(HEAD + "a = Conv(x, w) r = Relu(a) b = Conv(r, v) y = Add(a, b) }", weights)
    assert "a" in shared.tensors
    assert any(node.op_type == "Relu" for node, _ in shared.floats.values())


@pytest.mark.parametrize(
    ("low", "high", "joins"), [(0, 6, True), (-1, 1, True), (1, 6, False), (-6, -1, False)]
)
def test_only_a_clip_that_holds_zero_is_absorbed(weights, low, high, joins):
    text = HEAD + "a = Conv(x, w) r = Clip(a, lo, hi) y = Conv(r, v) }"
    plan = plan_of(text, weights | {"lo": np.float32(low), "hi": np.float32(high)})
    assert ("a" not in plan.tensors) == joins


def test_known_ranges_are_not_calibrated(rng):
    text = "g (float[3,8] x) => (float[3,4] y) { s = Softmax(x) y = MatMul(s, w) }"
    plan = plan_of(text, {"w": normal(rng, 8, 4)})
    assert plan.tensors["s"].known == (0.0, 1.0)
    assert plan.sources() == []


@pytest.mark.parametrize(
    ("text", "constants", "reason"),
    [
        ("g (float[4] x) => (float[4] y) { y = MatMul(w, x) }", {"w": (4, 4)}, "first operand is a constant"),
        (
            "g (float[2,4] x, float[4,3] b) => (float[2,3] y) { y = MatMul(x, b) }",
            {},
            "both operands are activations",
        ),
        (
            "g (float[2,3,4] x) => (float[2,3,5] y) { y = MatMul(x, w) }",
            {"w": (2, 4, 5)},
            "weight has 3 axes",
        ),
        ("g (float[3,4] x) => (float[3] y) { y = MatMul(x, w) }", {"w": (4,)}, "weight has 1 axes"),
        (
            "g (float[1,4,8,8] x) => (float[1,2,16,16] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
            {"w": (4, 2, 2, 2)},
            "no integer kernel for ConvTranspose",
        ),
    ],
)
def test_reasons(rng, text, constants, reason):
    plan = plan_of(text, {name: normal(rng, *shape) for name, shape in constants.items()})
    assert not plan.nodes
    assert any(reason in why.text for _, why in plan.floats.values())


@pytest.mark.parametrize("behind", ["y = Add(a, b)", "y = Add(a, x)"])
def test_a_product_with_a_bias_keeps_its_name_and_type(rng, behind):
    text = f"g (float[3,4] x) => (float[3,4] y) {{ a = MatMul(x, w) {behind} }}"
    model = parse(
        text, {name: normal(rng, *shape) for name, shape in (("w", (4, 4)), ("b", (4,))) if name in text}
    )
    model.graph.node[0].name = "mine"
    normalized = normalize(to_ir(model))
    assert list(make_plan(normalized, Selection(op_types=("MatMul",))).anchors) == ["mine"]
    assert not make_plan(normalized, Selection(exclude=("mine",))).nodes


def test_selection(weights):
    text = HEAD + "a = Conv(x, w) y = Conv(a, v) }"
    names = list(plan_of(text, weights).nodes)
    excluded = plan_of(text, weights, Selection(exclude=(names[0],)))
    assert list(excluded.nodes) == names[1:]
    assert excluded.floats[names[0]][1].text == "excluded by --exclude"
    assert list(plan_of(text, weights, Selection(include=(f"*{names[0][1:]}",))).nodes) == names[:1]
    assert not plan_of(text, weights, Selection(op_types=("MatMul",))).nodes
