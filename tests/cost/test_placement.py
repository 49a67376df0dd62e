"""Nodes left in float for speed: the cut is a minimum, and the plan depends on the sizes alone."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxq
from onnxq.cost.minimum_cut import INFINITE, Network
from onnxq.cost.model import Costs, Line, Work, is_blocked, nanoseconds
from onnxq.cost.node_times import times_of
from onnxq.cost.placement import Savings, place
from onnxq.cost.target import find_target
from onnxq.cost.target_file import BLOCKED as BLOCKED_ROWS
from onnxq.graph.macs import concrete_shapes
from onnxq.normalize.passes import normalize
from onnxq.options import Target
from onnxq.pipeline import calibrate
from onnxq.plan.plan import make_plan
from onnxq.runtime.sessions import open_session
from tests.conftest import normal, parse, runtime_outputs, to_ir


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.data())
def test_a_cut_is_a_minimum(count, data):
    capacities = st.integers(0, 20)
    ends = [(data.draw(capacities), data.draw(capacities)) for _ in range(count)]
    pairs = [
        (i, j, data.draw(capacities))
        for i, j in itertools.permutations(range(count), 2)
        if data.draw(st.booleans())
    ]
    network = Network()
    numbers = [network.node() for _ in range(count)]
    for number, (from_source, to_sink) in zip(numbers, ends, strict=True):
        network.edge(0, number, from_source)
        network.edge(number, 1, to_sink)
    for i, j, capacity in pairs:
        network.edge(numbers[i], numbers[j], capacity)
    side = network.source_side()

    def cost(source):
        paid = sum(ends[i][1] if i in source else ends[i][0] for i in range(count))
        return paid + sum(capacity for i, j, capacity in pairs if i in source and j not in source)

    found = cost({i for i in range(count) if numbers[i] in side})
    assert found == min(
        cost(set(some)) for size in range(count + 1) for some in itertools.combinations(range(count), size)
    )


def test_an_infinite_edge_is_never_cut():
    network = Network()
    a, b = network.node(), network.node()
    network.edge(0, a, 10)
    network.edge(a, b, INFINITE)
    network.edge(b, 1, 3)
    network.edge(0, b, 1)
    assert network.source_side() == {0, a, b}


@pytest.mark.parametrize("costs", find_target(tuple(Target)).costs)
def test_tables_have_both_forms_and_costs_that_grow(costs):
    table = costs.table
    for kind in (
        "pointwise",
        "spatial",
        "depthwise",
        "plain pointwise",
        "plain spatial",
        "plain depthwise",
        "plain grouped",
        "product",
        "Add",
        "Mul",
        "Concat",
    ):
        for form in ("float", "integer"):
            if costs.block == 0 and f"{form} {kind}" in BLOCKED_ROWS:
                continue
            small = nanoseconds(table, form, kind, Work(1e6, 1e5, 1e5, 9e5, 1e4, 1000))
            assert 0 < small <= nanoseconds(table, form, kind, Work(1e7, 1e6, 1e6, 9e6, 1e5, 10000))


BLOCKED = [  # weight [out, in / groups, *kernel], groups
    ((16, 3, 3, 3), 1), ((9, 16, 1, 1), 1), ((16, 20, 3, 3), 1), ((16, 18, 3, 3), 1), ((8, 16, 3), 1),
    ((20, 1, 3, 3), 20), ((18, 1, 3, 3), 18), ((16, 1, 3), 16),
    ((64, 1, 3, 3), 32), ((64, 16, 3, 3), 4), ((48, 4, 3, 3), 4),
]  # fmt: skip


@pytest.mark.parametrize(("weight", "groups"), BLOCKED, ids=str)
def test_convolutions_of_the_blocked_layout(weight, groups, tmp_path):
    size = [8] * (len(weight) - 2)
    text = (
        f"g (float[1,{weight[1] * groups},{','.join(map(str, size))}] x) => (float y) {{ y = "
        f"Conv<group={groups}>(x, w) }}"
    )
    open_session(
        to_ir(parse(text, {"w": np.zeros(weight, np.float32)})), save_optimized=tmp_path / "runs.onnx"
    )
    domains = {node.domain for node in onnx.load(tmp_path / "runs.onnx", load_external_data=False).graph.node}
    for costs in find_target((Target.PORTABLE, Target.VNNI)).costs:
        assert is_blocked(weight, groups, costs.block) == ("com.microsoft.nchwc" in domains)


@pytest.mark.parametrize(("size", "floats"), [([4096], 0), ([64, 64], 4)])
def test_depthwise_over_one_axis_is_worth_integers_and_over_two_it_is_not(size, floats, rng):
    """Over one axis its float kernel is a plain one."""
    dims, pads, kernel = ",".join(map(str, size)), [3] * 2 * len(size), [7] * len(size)
    chain = " ".join(f"{y} = Conv<pads={pads}, group=64>({x}, d)" for x, y in itertools.pairwise("xabcy"))
    text = f"g (float[1,64,{dims}] x) => (float[1,64,{dims}] y) {{ {chain} }}"
    model = normalize(to_ir(parse(text, {"d": normal(rng, 64, 1, *kernel)})))
    assert (
        len(place(make_plan(model), concrete_shapes(model, None), find_target(Target.PORTABLE).costs).floats)
        == floats
    )


DEPTHWISE = """g (float[1,8,96,96] x) => (float[1,256,12,12] y) {
    a = Conv<pads=[1,1,1,1], group=8>(x, d0) b = Relu(a) c = Conv<pads=[1,1,1,1], group=8>(b, d1) e = Relu(c)
    f = Conv<strides=[8,8]>(e, p0) h = Relu(f) i = Conv(h, p1) j = Relu(i) y = Conv(j, p1) }"""


def depthwise_model(rng):
    return parse(
        DEPTHWISE,
        {
            "d0": normal(rng, 8, 1, 3, 3),
            "d1": normal(rng, 8, 1, 3, 3),
            "p0": normal(rng, 256, 8, 1, 1),
            "p1": normal(rng, 256, 256, 1, 1) / 16,
        },
    )


@pytest.mark.parametrize("calib", [True, False])
def test_statistics_serve_whatever_is_given_back(rng, tmp_path, calib):
    onnx.save_model(depthwise_model(rng), tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=normal(rng, 1, 8, 96, 96))
    options = onnxq.QuantizeOptions(tmp_path / "model.onnx", tmp_path / "x.npz")
    calibrate(options, tmp_path / "s.npz")
    samples = tmp_path / "x.npz" if calib else None
    report = onnxq.quantize(
        tmp_path / "model.onnx", samples, tmp_path / "out.onnx", stats=(tmp_path / "s.npz",)
    )
    assert report.kernels.counts["QLinearConv"] == (2 if calib else 5)


def test_depthwise_goes_back_to_float_and_wide_products_do_not(rng):
    model = normalize(to_ir(depthwise_model(rng)))
    plan = make_plan(model)
    placement = place(plan, concrete_shapes(model, None), find_target(Target.PORTABLE).costs)
    groups = {name: planned.node.attributes.get("group") for name, planned in plan.nodes.items()}
    back = {name for name in placement.floats if name in groups}
    assert {name for name, group in groups.items() if group is not None and group.as_int() == 8} <= back
    assert len(back) <= 3
    assert all(each.placed < 0.9 * each.integer for each in placement.expected)


@pytest.mark.parametrize(("time", "size", "integers"), [(0.02, 0.15, 0), (0.02, 0.25, 2), (0.1, 0.05, 2)])
def test_integers_beside_what_is_left_float_have_to_save_something(
    rng, tmp_path, monkeypatch, time, size, integers
):
    onnx.save_model(depthwise_model(rng), tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=normal(rng, 1, 8, 96, 96))
    monkeypatch.setattr("onnxq.search.placement.savings", lambda *_: Savings(time, size))
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "x.npz")
    assert report.kernels.counts.get("QLinearConv", 0) == integers
    assert any("no node is expected to be faster" in text for text in report.warnings) == (integers == 0)


@pytest.mark.parametrize("skip_slow_nodes", [True, False])
def test_given_back_weights_are_stored_in_half_precision(rng, tmp_path, skip_slow_nodes):
    model = depthwise_model(rng)
    onnx.save_model(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=normal(rng, 1, 8, 96, 96))
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "x.npz", skip_slow_nodes=skip_slow_nodes)
    written = onnx.load(tmp_path / "model.int8.onnx")
    halves = [tensor for tensor in written.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert bool(halves) == skip_slow_nodes
    assert report.kernels.counts.get("Cast", 0) == 0  # widened once, when the file is loaded
    assert any("for speed" in group.reason for group in report.floats) == skip_slow_nodes
    feeds = dict(np.load(tmp_path / "x.npz"))
    expected, found = (
        runtime_outputs(tmp_path / name, feeds)[0] for name in ("model.onnx", "model.int8.onnx")
    )
    assert np.square(expected - found).sum() < 0.01 * np.square(expected).sum()


@pytest.mark.parametrize(("groups", "outputs", "floats"), [(32, 64, 4), (16, 64, 4), (2, 64, 0)])
def test_many_groups_of_few_channels_are_not_worth_integers(groups, outputs, floats, rng):
    """Their integer kernel copies each group's channels for each element of its patches."""
    chain = " ".join(
        f"{y} = Conv<pads=[1,1,1,1], group={groups}>({x}, w{i}) "
        for i, (x, y) in enumerate(itertools.pairwise("xabcy"))
    )
    text = f"g (float[1,{outputs},40,40] x) => (float[1,{outputs},40,40] y) {{ {chain} }}"
    weights = {f"w{i}": normal(rng, outputs, outputs // groups, 3, 3) for i in range(4)}
    model = normalize(to_ir(parse(text, weights)))
    for target in (Target.PORTABLE, Target.VNNI):
        assert (
            len(place(make_plan(model), concrete_shapes(model, None), find_target(target).costs).floats)
            == floats
        )


CHAIN = "g (float[1,8,64,64] x) => (float[1,8,64,64] y) { a = Conv(x, w0) b = Conv(a, w1) y = Conv(b, w2) }"


@pytest.mark.parametrize(
    ("first", "second", "floats"),
    [
        ([(1, 3), (4, 3), (1, 3)], [(1, 3), (4, 3), (1, 3)], [1]),  # the same on both
        (
            [(1, 3), (1, 3), (1, 3)],
            [(1, 3), (4, 3), (1, 3)],
            [],
        ),  # the gain of one exceeds the loss of the other
        (
            [(1, 3), (1, 3), (1, 3)],
            [(2, 3), (6, 3), (3, 3)],
            [1],
        ),  # the mean would keep all, and be slower than float on the second
        ([(1, 3), (1, 3), (1, 3)], [(4, 3), (4, 3), (4, 3)], [0, 1, 2]),
    ],
)
def test_no_cpu_is_slower_than_in_float_and_then_the_mean_counts(first, second, floats, rng):
    model = normalize(to_ir(parse(CHAIN, {f"w{i}": normal(rng, 8, 8, 1, 1) for i in range(3)})))
    plan, free = make_plan(model), Line(0.0, 0.0)
    cpus = [
        Costs(
            {},
            8,
            {name: (a * unit, b * unit) for name, (a, b) in zip(plan.nodes, times, strict=True)},
            free,
            free,
        )
        for times, unit in ((first, 1e5), (second, 3e5))  # another CPU is three times as slow: shares count
    ]
    found = place(plan, concrete_shapes(model, None), cpus)
    assert [list(plan.nodes).index(name) for name in found.floats] == floats
    assert all(each.placed <= each.float for each in found.expected)


def test_several_cpus_of_opposite_strengths_are_none_slower_than_in_float(rng):
    """Each CPU alone would leave other nodes in float, and their mean is slower on one of them."""
    model = normalize(to_ir(parse(CHAIN, {f"w{i}": normal(rng, 8, 8, 1, 1) for i in range(3)})))
    plan, free = make_plan(model), Line(0.0, 0.0)
    times = [(1, 30), (1, 30), (1, 30)], [(9, 3), (1, 3), (9, 3)], [(1, 3), (9, 3), (9, 3)]
    cpus = [
        Costs({}, 8, {n: (a * 1e5, b * 1e5) for n, (a, b) in zip(plan.nodes, each, strict=True)}, free, free)
        for each in times
    ]
    found = place(plan, concrete_shapes(model, None), cpus)
    assert all(each.placed <= each.float for each in found.expected)
    assert any(each.integer > each.float for each in found.expected)


@pytest.mark.parametrize(("factor", "floats"), [(1, 0), (3, 3)])
def test_a_cpu_with_slow_integer_convolutions_gets_a_float_plan(factor, floats, rng):
    """A made-up CPU: the table of a CPU with AVX2, its integer convolutions three times as slow."""
    text = "g (float[1,64,28,28] x) => (float[1,64,28,28] y) { "
    text += "a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[1,1,1,1]>(a, w) y = Conv<pads=[1,1,1,1]>(b, w) }"
    model = normalize(to_ir(parse(text, {"w": normal(rng, 64, 64, 3, 3)})))
    costs = find_target(Target.PORTABLE).costs[0]
    kinds = ("spatial", "pointwise", "stem", "depthwise", "grouped")
    slow = {
        f"integer {kind}": tuple(factor * cost for cost in costs.table[f"integer {kind}"]) for kind in kinds
    }
    made_up = replace(costs, table=costs.table | slow)
    assert len(place(make_plan(model), concrete_shapes(model, None), [made_up]).floats) == floats


ACTIVATED = "g (float[1,32,56,56] x) => (float[1,32,56,56] y) { %s y = Conv(r, w) }"


@pytest.mark.parametrize(
    ("text", "free"),
    [
        (
            "t = Conv(x, w) s = HardSigmoid<alpha=0.16666667>(t) r = Mul(t, s)",
            True,
        ),  # a HardSwish, which the convolution computes
        ("t = Conv(x, w) s = HardSigmoid<alpha=0.16666667>(t) r = Mul(s, t)", True),
        ("t = Conv(x, w) s = HardSigmoid<alpha=0.2>(t) r = Mul(t, s)", False),
        (
            "t = Conv(x, w) u = Relu(t) q = Conv(u, w) s = HardSigmoid<alpha=0.16666667>(q) r = Mul(t, s)",
            False,
        ),  # of another value
        (
            "p = Conv(x, w) t = MaxPool<kernel_shape=[1,1]>(p) s = "
            "HardSigmoid<alpha=0.16666667>(t) r = Mul(t, s)",
            False,
        ),
    ],
)
def test_a_float_convolution_computes_a_hard_swish_behind_it(text, free, rng):
    model = normalize(to_ir(parse(ACTIVATED % text, {"w": normal(rng, 32, 32, 1, 1)})))
    plan, shapes = make_plan(model), concrete_shapes(model, None)
    (product,) = [planned for planned in plan.nodes.values() if planned.node.op_type == "Mul"]
    for costs in find_target((Target.PORTABLE, Target.VNNI)).costs:
        integer, as_float = times_of(product, shapes, costs)
        assert integer > 0
        assert (as_float == 0) == free


@pytest.mark.parametrize(
    "text", ["t = Conv(x, w) r = Sigmoid(t)", "t = Conv(x, w) s = Sigmoid(t) r = Mul(s, t)"]
)
def test_an_activation_has_a_cost_of_its_own_where_a_float_convolution_computes_it(text, rng):
    """A Sigmoid whose input has another consumer is not fused."""
    model = normalize(to_ir(parse(ACTIVATED.replace("56", "112") % text, {"w": normal(rng, 32, 32, 1, 1)})))
    plan, shapes = make_plan(model), concrete_shapes(model, None)
    (planned,) = [planned for planned in plan.nodes.values() if planned.node.op_type == "Sigmoid"]
    for costs in find_target((Target.PORTABLE, Target.VNNI)).costs:
        _, work = costs.work_of(planned.node, shapes)
        fused, alone = (costs.kernel_ns("float", kind, work) for kind in ("fused Sigmoid", "Sigmoid"))
        assert fused != alone
        assert times_of(planned, shapes, costs)[1] == (alone if "Mul" in text else fused)


@pytest.mark.parametrize("to_integers", [False, True])
def test_an_image_changes_its_layout_with_its_form(to_integers):
    """It costs more if all channels share cache lines; a matrix has only one layout."""
    costs = find_target(Target.PORTABLE).costs[0]
    usual, alike, matrix = (
        costs.conversion_ns(s, to_integers=to_integers)
        for s in ((1, 64, 56, 56), (1, 64, 64, 64), (64 * 64, 64))
    )
    assert usual > costs.conversion_ns((56 * 56, 64), to_integers=to_integers) + costs.transpose_ns(
        (1, 64, 56, 56)
    )
    assert alike > matrix + costs.transpose_ns((1, 64, 64, 64))
    assert costs.transpose_ns((1, 64, 64, 64)) > 3 * costs.transpose_ns((1, 64, 56, 56)) > 0
    assert costs.transpose_ns((64 * 64, 64)) == 0


@pytest.mark.parametrize(("blocks", "floats"), [(0, 1), (6, 0)])
def test_a_float_beginning_of_a_residual_chain_costs_transposes(blocks, floats, rng):
    """The first convolution is faster in float on this CPU, but each sum behind it would have two layouts."""
    text = "t0 = Conv<pads=[1,1,1,1]>(x, w) r0 = Relu(t0) "
    for i in range(1, blocks + 1):
        text += f"t{i} = Conv<pads=[1,1,1,1]>(r{i - 1}, v) a{i} = Add(t{i}, r{i - 1}) r{i} = Relu(a{i}) "
    text += f"u = Conv<pads=[1,1,1,1]>(r{blocks}, v) y = Conv<pads=[1,1,1,1]>(u, v) "
    weights = {"w": normal(rng, 16, 3, 3, 3), "v": normal(rng, 16, 16, 3, 3)}
    model = normalize(to_ir(parse(f"g (float[1,3,32,32] x) => (float[1,16,32,32] y) {{ {text} }}", weights)))
    assert (
        len(
            place(
                make_plan(model), concrete_shapes(model, None), find_target(Target.PORTABLE).costs[1:]
            ).floats
        )
        == floats
    )


MORE = {"a clamp at 6": ("r = Relu(q)", "r = Clip(q, low, high)")} | {
    f"{op} of a value for each channel": (
        f"u = Conv(s, w) r = {op}(q, u)",
        f"g = GlobalAveragePool(q) r = {op}(q, g)",
    )
    for op in ("Add", "Mul")
}


@pytest.mark.parametrize(
    ("name", "form"), [("a clamp at 6", 1), *[(name, form) for name in list(MORE)[1:] for form in (0, 1)]]
)
def test_what_costs_more_than_its_like(name, form, rng):
    """On integers (0) and in float (1)."""
    bodies = MORE[name]
    found = []
    for body in bodies:
        clamps = {"low": np.float32(0), "high": np.float32(6)} if "Clip" in body else {}
        text = ACTIVATED % f"t = Conv(x, w) s = Sigmoid(t) q = Conv(s, w) {body}"
        model = normalize(to_ir(parse(text, {"w": normal(rng, 32, 32, 1, 1)} | clamps)))
        plan, shapes = make_plan(model), concrete_shapes(model, None)
        nodes = [planned for planned in plan.nodes.values() if planned.output.name in ("q", "r")]
        found.append(
            [
                sum(times_of(planned, shapes, costs)[form] for planned in nodes)
                for costs in find_target(Target.PORTABLE).costs
            ]
        )
    assert all(more > less for less, more in zip(*found, strict=True))


def test_three_outputs_cost_an_integer_kernel_no_less_than_sixteen():
    for costs in (find_target(Target.PORTABLE).costs[1], find_target(Target.VNNI).costs[1]):
        few, many = (
            costs.kernel_ns("integer", "spatial", _conv_work(costs, channels)) for channels in (3, 16)
        )
        assert few > 0.85 * many


def _conv_work(costs, channels):
    text = f"g (float[1,64,40,40] x) => (float[1,{channels},40,40] y) {{ y = Conv<pads=[1,1,1,1]>(x, w) }}"
    model = to_ir(parse(text, {"w": np.zeros((channels, 64, 3, 3), np.float32)}))
    kind, work = costs.work_of(model.graph[0], concrete_shapes(model, None))
    assert kind == "spatial"
    return work


def test_size_does_not_count_where_tables_say_little():
    """A model of 0.08 ms with a few integer nodes, kept for size, took 1.09 of the float time."""
    assert Savings(0.05, 0.4, small=True).too_little
    assert not Savings(0.11, 0.0, small=True).too_little
    assert not Savings(0.0, 0.4).too_little


@pytest.mark.parametrize("exclude", [(), ("g",)])
def test_weights_of_recurrent_layers_are_stored_in_half_precision(exclude, rng, tmp_path):
    """A GRU has no integer form; an excluded one keeps its weights."""
    text = """m (float[N,5,16] x) => (float[N,5,16] y) {
        a = MatMul(x, w) b = Tanh(a) s, h = GRU<hidden_size=32, layout=0>(b, k, r)
        c = Squeeze(s, one) y = MatMul(c, v) }"""
    shapes = {"w": (16, 16), "k": (1, 96, 16), "r": (1, 96, 32), "v": (32, 16)}
    model = parse(
        text, {name: 0.3 * normal(rng, *shape) for name, shape in shapes.items()} | {"one": np.array([1])}
    )
    next(node for node in model.graph.node if node.op_type == "GRU").name = "g"
    onnx.save_model(model, tmp_path / "model.onnx")
    for i in range(12):
        np.savez(tmp_path / f"{i}.npz", x=normal(rng, 3, 5, 16))
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path, skip_slow_nodes=False, exclude=exclude)
    written = onnx.load(tmp_path / "model.int8.onnx")
    halves = {
        tensor.name for tensor in written.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16
    }
    assert halves == (set() if exclude else {"k_half", "r_half"})
    assert report.kernels.counts.get("Cast", 0) == 0
    assert report.outputs.sqnr_db > 30
