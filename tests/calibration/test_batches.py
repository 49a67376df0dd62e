"""The passes over the samples: their digest, and models whose values do not fit into memory together."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from onnxq.calibration import batches
from onnxq.calibration.batches import IN_FLIGHT_BYTES, Measure, Pass, observe
from onnxq.calibration.collect import Collecting, MomentOptions, collect, collect_moments
from onnxq.calibration.moments import Kernel, LayerInput
from onnxq.data.sample import Sample
from onnxq.errors import ModelError
from onnxq.normalize.passes import name_and_infer
from tests.conftest import normal, parse, run, to_ir

TEXT = "g (string[N] x) => (string[N] y) { y = Identity(x) }"


@dataclass(frozen=True)
class Sums(Measure[dict[str, float]]):
    """Sums of a few values of each request; `held` gets the number of values that are there."""

    requests: dict[str, tuple[str, ...]]
    held: list[int]

    def needs(self):
        return self.requests

    def only(self, keys):
        return replace(self, requests={key: self.requests[key] for key in keys})

    def joined(self, results):
        return {key: sums for each in results for key, sums in each.items()}

    def __call__(self, part, position):
        self.held.append(len(part.values))
        return {
            key: (position, [float(part.values[name].reshape(-1)[::1001].sum()) for name in names])
            for key, names in self.requests.items()
        }


class Nothing(Measure[int]):
    """Needs a text."""

    def needs(self):
        return {"y": ("y",)}

    def __call__(self, part, position):
        return part.samples


def digest_of(texts):
    model = to_ir(parse(TEXT))
    name_and_infer(model)
    feeds = [{"x": np.array(each, object)} for each in texts]
    samples = [Sample(str(i), lambda i=i: feeds[i]) for i in range(len(feeds))]
    return observe(model, Pass(samples, "t"), Nothing(), lambda _: None)


def test_strings_count_by_their_content():
    one = digest_of([["".join(["a", "b"]), "c"], ["d"]])
    assert one == digest_of([["ab", "".join(["c"])], ["d"]])
    assert one != digest_of([["ab", "x"], ["d"]])
    assert one != digest_of([["a", "bc"], ["d"]])


def test_values_that_do_not_fit_together_come_in_segments(rng):
    """Each request is measured once, with its values, and most values of the first segment are gone later."""
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
    digest = observe(model, Pass(samples, "t"), Sums(requests, held), found.append)
    assert (len(digest), len(found)) == (64, 2)
    proto.graph.output.extend(type(proto.graph.output[0])(name=name) for name in names)
    for number, (picture, sums) in enumerate(zip(pictures, found, strict=True)):
        assert set(sums) == set(requests)
        values = dict(zip(["y", *names], run(proto, {"x": picture}), strict=True)) | {"x": picture}
        for key, (position, few) in sums.items():
            expected = [float(values[name].reshape(-1)[::1001].sum()) for name in requests[key]]
            assert position == number
            np.testing.assert_allclose(few, expected, rtol=1e-4, atol=1e-3)
    assert len(held) == 4
    assert max(held) <= len(names)  # the input is among them
    assert min(held) < len(names) - 2


def test_sketches_and_rows_of_segments_are_those_of_the_whole_model(rng):
    """The same model with small and with large pictures, whose values repeat: the same ranges."""
    text = """g (float[1,8,H,512] x) => (float[1,8,H,512] y) {
        a = Relu(x) b = Neg(a) c = Sigmoid(b) d = Add(c, a) e = Tanh(d) f = Abs(e) h = Sin(f) i = Cos(h)
        j = Neg(i) y = Relu(j) }"""
    model = to_ir(parse(text))
    name_and_infer(model)
    small = normal(rng, 1, 8, 16, 512)
    layers = [LayerInput(name, 8, 1, Kernel((1, 1), (1, 1), (1, 1), None, "NOTSET")) for name in "aj"]
    found = []
    for picture in (small, np.tile(small, (1, 1, 64, 1))):
        samples = [Sample("one", lambda picture=picture: {"x": picture})]
        statistics = collect(model, list("abcdefhij"), samples, "", Collecting(probes=("y",)))
        assert statistics.samples == 1
        moments = collect_moments(model, layers, samples, MomentOptions(second=False))
        assert [moments[layer].rows > 0 for layer in layers] == [True, True]
        found.append({name: (each.minimum, each.maximum) for name, each in statistics.sketches.items()})
    assert found[0].keys() == found[1].keys()
    for name, limits in found[0].items():
        np.testing.assert_allclose(found[1][name], limits, rtol=1e-5, atol=1e-6)


def test_the_whole_model_runs_where_the_runtime_does_not_load_a_segment(rng, monkeypatch):
    def refused(*_):
        raise ModelError("a segment")

    monkeypatch.setattr(batches, "IN_FLIGHT_BYTES", 1000)
    monkeypatch.setattr(batches, "split", refused)
    model = to_ir(parse("g (float[1,512] x) => (float[1,512] y) { a = Relu(x) y = Neg(a) }"))
    name_and_infer(model)
    feeds = {"x": normal(rng, 1, 512)}
    found = []
    observe(model, Pass([Sample("one", lambda: feeds)], "t"), Sums({"a": ("a",)}, []), found.append)
    expected = np.maximum(feeds["x"], 0)[0, 0]
    assert found == [{"a": (0, [pytest.approx(float(expected))])}]
