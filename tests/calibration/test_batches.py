"""The passes over the samples: their digest, and models whose values do not fit into memory together."""

import numpy as np

from onnxq.calibration.batches import IN_FLIGHT_BYTES, observe
from onnxq.data.sample import Sample
from onnxq.normalize.passes import name_and_infer
from tests.conftest import normal, parse, run, to_ir

TEXT = "g (string[N] x) => (string[N] y) { y = Identity(x) }"


def digest_of(texts):
    model = to_ir(parse(TEXT))
    name_and_infer(model)
    feeds = [{"x": np.array(each, object)} for each in texts]
    samples = [Sample(str(i), lambda i=i: feeds[i]) for i in range(len(feeds))]
    return observe(model, {"y": ("y",)}, samples, lambda part, _i, _key: part.samples, lambda *_: None, "t")


def test_strings_count_by_their_content():
    one = digest_of([["".join(["a", "b"]), "c"], ["d"]])
    assert one == digest_of([["ab", "".join(["c"])], ["d"]])
    assert one != digest_of([["ab", "x"], ["d"]])
    assert one != digest_of([["a", "bc"], ["d"]])


def test_values_that_do_not_fit_together_come_in_segments(rng):
    """Each request comes once, with its values, and the values of the first segment are gone in the last."""
    text = """g (float[1,8,1024,512] x) => (float[1,8,1024,512] y) {
        a = Relu(x) b = Neg(a) c = Sigmoid(b) d = Add(c, a) e = Tanh(d) f = Abs(e) h = Sin(f) i = Cos(h)
        j = Neg(i) y = Relu(j) }"""
    names = list("abcdefhij")
    proto = parse(text)
    model = to_ir(proto)
    name_and_infer(model)
    pictures = [normal(rng, 1, 8, 1024, 512) for _ in range(2)]
    samples = [Sample(str(i), lambda i=i: {"x": pictures[i]}) for i in range(2)]
    assert pictures[0].nbytes * len(names) > IN_FLIGHT_BYTES
    requests = {**{name: (name,) for name in names}, "x": ("x",), "pair": ("a", "j")}
    held, found = [], []

    def measure(part, position, key):
        held.append(len(part.values))
        values = [part.values[name] for name in requests[key]]
        return position, [float(value.reshape(-1)[::1001].sum()) for value in values]

    digest = observe(model, requests, samples, measure, lambda *each: found.append(each), "t")
    assert len(digest) == 64
    assert sorted(key for key, _ in found) == sorted([*requests] * 2)
    assert [position for key, (position, _) in found if key == "e"] == [0, 1]
    proto.graph.output.extend(type(proto.graph.output[0])(name=name) for name in names)
    for i, picture in enumerate(pictures):
        values = dict(zip(["y", *names], run(proto, {"x": picture}), strict=True)) | {"x": picture}
        for key, (position, sums) in found:
            if position == i:
                expected = [float(values[name].reshape(-1)[::1001].sum()) for name in requests[key]]
                np.testing.assert_allclose(sums, expected, rtol=1e-4)
    assert max(held) <= len(names)  # the input is among them
    assert min(held) < len(names) - 2
