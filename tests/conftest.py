"""Models from ONNX text, runs in the runtime's kernels, and the flag that rewrites golden files."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings

from onnxq.calibration.collect import MomentOptions, collect, collect_moments
from onnxq.calibration.methods import MethodOptions
from onnxq.data.sample import Sample
from onnxq.formats.qdq import write_qdq
from onnxq.formats.qoperator import write_qoperator
from onnxq.modes.last_word import latency_of
from onnxq.normalize.passes import normalize
from onnxq.options import Method
from onnxq.plan.plan import Plan, Selection, make_plan
from onnxq.quantization.parameters import Parameters, activation_parameters, make_parameters
from onnxq.quantization.weights import WeightOptions, layer_inputs, quantize_weights
from onnxq.runtime.sessions import open_session
from onnxq.types import Array, Feeds

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "calib_data"
CNN = ROOT / "sample_models" / "digits_cnn.onnx"
TRANSFORMER = ROOT / "sample_models" / "digits_transformer.onnx"
# a busy machine is no failure
settings.register_profile("onnxq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("onnxq")

if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click before 8.2 mixes unless told not to
    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)
    Result.output = property(lambda result: result.stdout + result.stderr)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag --regen."""
    parser.addoption("--regen", action="store_true", help="rewrite the golden files")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/NAME, or write it with --regen."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--regen"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text

    return compare


def parse(
    text: str, constants: dict[str, Array] | None = None, *, opset: int = 17, ir_version: int = 8
) -> onnx.ModelProto:
    """Parse the ONNX text of a graph to a model; `constants` become initializers."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(header + text)
    for name, array in (constants or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return model


def to_ir(model: onnx.ModelProto) -> ir.Model:
    """Convert a model to onnx-ir."""
    return ir.serde.deserialize_model(model)


def run(model: ir.Model | onnx.ModelProto, feeds: Feeds, *, optimize: bool = True) -> list[Array]:
    """Run a model on one thread and return its outputs."""
    model = to_ir(model) if isinstance(model, onnx.ModelProto) else model
    return list(open_session(model, optimize=optimize, threads=1).run(None, feeds))


def runtime_outputs(path: Path, feeds: Feeds, *, optimize: bool = True) -> list[Array]:
    """Run a model file on one thread and return its outputs."""
    return list(open_session(path, optimize=optimize, threads=1).run(None, feeds))


def as_samples(feeds: list[Feeds]) -> list[Sample]:
    """Wrap feeds as samples."""
    return [Sample(f"sample{i}", lambda feed=feed: feed) for i, feed in enumerate(feeds)]  # type: ignore[misc]


class Quantized:
    """A model quantized in memory, with its plan and parameters."""

    def __init__(
        self, model: onnx.ModelProto, feeds: list[Feeds], *, method: Method = Method.MINMAX,
        selection: Selection | None = None, weights: WeightOptions | None = None, qoperator: bool = False,
    ) -> None:  # fmt: skip
        self.feeds = feeds
        self.float = normalize(to_ir(model))
        self.original = model
        self.plan: Plan = make_plan(self.float, selection)
        weights = weights or WeightOptions()
        moments = collect_moments(
            self.float,
            layer_inputs(self.plan).values(),
            as_samples(feeds),
            MomentOptions(weights.round is not None),
        )
        statistics = collect(self.float, self.plan.sources(), as_samples(feeds), "")
        activations = activation_parameters(self.plan, statistics, method, MethodOptions())
        scales = {name: float(params.scale) for name, params in activations.items()}
        quantized = quantize_weights(self.plan, scales, moments, weights)
        self.parameters: Parameters = make_parameters(self.plan, activations, quantized)
        self.model = (write_qoperator if qoperator else write_qdq)(self.float, self.plan, self.parameters)

    def errors(self) -> tuple[float, float]:
        """Return the largest error against float and the largest difference without optimizations.

        Both are relative to the largest float value.
        """
        sessions = [
            open_session(to_ir(self.original)),
            open_session(self.model),
            open_session(self.model, optimize=False),
        ]
        error = difference = size = 0.0
        for feed in self.feeds:
            float_out, optimized, written = (session.run(None, feed) for session in sessions)
            for a, b, c in zip(float_out, optimized, written, strict=True):
                size = max(size, float(np.abs(a).max()))
                error = max(error, float(np.abs(a - b).max()))
                difference = max(difference, float(np.abs(b - c).max()))
        return error / size, difference / size

    def kernels(self, tmp_path: Path) -> dict[str, int]:
        """Count the operators of the optimized graph that the runtime runs."""
        saved = tmp_path / "optimized.onnx"
        open_session(self.model, save_optimized=saved)
        counts: dict[str, int] = {}
        for node in onnx.load_model(saved, load_external_data=False).graph.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        return counts


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Draw standard normal float32 values."""
    return rng.normal(size=shape).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a random generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _int8_is_kept(request, monkeypatch):
    """Write int8 whatever its latency and size, so that no measured time decides a test.

    Tests of that decision have the mark `may_stay_float`.
    """
    if request.node.get_closest_marker("may_stay_float") is None:
        monkeypatch.setattr(
            "onnxq.pipeline.last_word", lambda inputs, path, _: (latency_of(inputs, path), None)
        )
