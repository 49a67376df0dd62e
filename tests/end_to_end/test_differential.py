"""Differential test: random models in all modes, float against the written file, on fresh inputs.

Calibration samples leave parts of some models out. Below 20 dB, a warning has to name the output.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.errors import NothingToQuantize, OnnxqError
from onnxq.options import Effort, Format, Mode, QuantizeOptions, Target, WeightType
from onnxq.pipeline import quantize
from onnxq.runtime.sessions import open_session
from onnxq.search.settings import SearchSettings
from onnxq.types import Feeds
from tests.end_to_end.random_models import RandomModel

SAMPLES, FRESH = 36, 8
LEAST_DB, REFUSED = 20.0, "refused:"
TAILS, WITH_TAILS_DB = 2, 8.0
"""Samples of most noise that may hold a value beyond all that calibrate, and the least SQNR with them."""
FORMS = (
    {},
    {},
    {"effort": Effort.BALANCED},
    {"skip_slow_nodes": True},
    {"format": Format.QOPERATOR},
    {"standard": True},
    {"per_channel": False},
    {"mode": Mode.DYNAMIC},
    {"mode": Mode.WEIGHTS, "weight_type": WeightType.INT8},
    {"mode": Mode.WEIGHTS, "weight_type": WeightType.INT4},
    {"mode": Mode.FP16},
)
"""Options beside those that are drawn for all; static quantization of all nodes by default."""


def sqnr_db(model: onnx.ModelProto, file: Path, fresh: list[Feeds], *, optimize: bool) -> dict[str, float]:
    """Return the SQNR of each output over fresh inputs, dB, without those of most noise unless they ruin it."""
    one, other = open_session(_saved(model, file)), open_session(file, optimize=optimize)
    assert [each.name for each in one.get_inputs()] == [each.name for each in other.get_inputs()]
    names = [each.name for each in one.get_outputs()]
    assert names == [each.name for each in other.get_outputs()]
    powers = np.zeros((2, len(fresh), len(names)))
    for k, feeds in enumerate(fresh):
        for i, (x, y) in enumerate(zip(one.run(None, feeds), other.run(None, feeds), strict=True)):
            assert x.shape == y.shape
            x64, y64 = x.astype(np.float64), y.astype(np.float64)
            powers[:, k, i] = np.square(x64).sum(), np.square(y64 - x64).sum()
    signal, noise = powers.sum(1)
    most = np.sort(powers[1], axis=0)[-TAILS:].sum(0)
    whole, rest = (
        -10 * np.log10(np.maximum(n, 1e-30) / np.maximum(signal, 1e-30)) for n in (noise, noise - most)
    )
    found = np.where(whole < WITH_TAILS_DB, whole, rest)
    silent = (signal < 1e-12) & (noise < 1e-6)  # zero in float, next to it in the file
    return {name: float(db) for name, db in zip(names, np.where(silent, 200.0, found), strict=True)}


def _saved(model: onnx.ModelProto, beside: Path) -> Path:
    path = beside.with_name("model.onnx")
    if not path.exists():
        onnx.save(model, path)
    return path


def differs(seed: int) -> str | None:
    """Quantize a seed's model; return what is wrong, '' for nothing, None where there is nothing to quantize."""
    grown = RandomModel(seed).grown()
    model = grown.model()
    form = dict(FORMS[seed % len(FORMS)])
    target = grown.one(*Target)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _saved(model, folder / "out.onnx")
        (folder / "data").mkdir()
        for i, feeds in enumerate(grown.samples(SAMPLES, fresh=False)):
            np.savez(folder / "data" / f"{i:03}.npz", **feeds)
        options = QuantizeOptions(
            folder / "model.onnx",
            folder / "data",
            folder / "out.onnx",
            target=target,
            **{"effort": Effort.FAST, "skip_slow_nodes": False, **form},
        )
        settings = replace(SearchSettings.of(options.effort), latency_samples=0)
        try:
            report = quantize(options, settings=settings)
        except NothingToQuantize:
            return None
        except OnnxqError as error:
            return f"{REFUSED} seed {seed} {form}: {error}"
        fresh, said = grown.samples(FRESH, fresh=True), " ".join(report.warnings)
        for optimize in (True, False):
            found = sqnr_db(model, folder / "out.onnx", fresh, optimize=optimize)
            for name, db in found.items():
                # an output is named as a whole, or by its parts
                if not db >= LEAST_DB and not any(f"'{name}{end}" in said for end in "'["):
                    return (
                        f"seed {seed} opset {grown.opset} {form}: '{name}' {db:.1f} dB, optimize={optimize}"
                    )
    return ""


def check(seeds: range) -> None:
    """See that no seed's file is silently far from float, that few are refused, and most quantized."""
    found = {seed: differs(seed) for seed in seeds}
    wrong = [text for text in found.values() if text and not text.startswith(REFUSED)]
    refused = [text for text in found.values() if text and text.startswith(REFUSED)]
    assert not wrong, "\n".join(wrong)
    assert len(refused) <= max(1, len(seeds) // 50), "\n".join(refused)
    assert sum(text == "" for text in found.values()) > 0.6 * len(seeds)


@pytest.mark.parametrize("block", range(3))
def test_random_models(block):
    check(range(20 * block, 20 * block + 20))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(30))
def test_many_random_models(block):
    check(range(1000 + 100 * block, 1000 + 100 * block + 100))
