"""Sound files, turned into a model's input as an `AudioForm` says; read by soundfile, resampled by soxr."""

import io
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from onnxq.data.preprocessing import AudioForm, Forms
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

SUFFIXES = (".wav", ".flac", ".ogg")
NEEDED = "sounds need soundfile and soxr: pip install 'onnxq[audio]'"


def audio_samples(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """One sample a window of a file, or the whole file where the form has no window.

    Raises:
        DataError: the form does not say which of several inputs it feeds.
    """
    spec, form = audio_spec(path, specs, forms), forms.audio
    if form.window is None:
        return [Sample(path.name, partial(_load, path, form, spec, None))]
    count = _windows(path, form)
    names = [path.name] if count == 1 else [f"{path.name}[{i}]" for i in range(count)]
    return [Sample(name, partial(_load, path, form, spec, i)) for i, name in enumerate(names)]


def audio_spec(where: Path, specs: list[InputSpec], forms: Forms) -> InputSpec:
    """The input that sounds feed."""
    named = (
        [spec for spec in specs if spec.name == forms.audio.input] if forms.audio.input is not None else specs
    )
    if len(named) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{where}: the model takes [{names}]: say which one sounds feed with 'input' in [preprocess.audio]"
        )
    return named[0]


def _windows(path: Path, form: AudioForm) -> int:
    """How many whole windows a file has; at least one, which is filled up."""
    assert form.window is not None
    frames, rate = _length(path)
    if form.rate is not None:
        frames = round(frames * form.rate / rate)
    return 1 + max(0, frames - form.window) // (form.hop or form.window)


def _length(path: Path) -> tuple[int, int]:
    """Samples a channel and samples a second, from the header."""
    try:
        import soundfile
    except ImportError as error:
        raise DataError(f"{path}: {NEEDED}") from error
    try:
        info = soundfile.info(str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(f"sample {path}: not a sound file, or truncated ({error}): remove it") from error
    return int(info.frames), int(info.samplerate)


def _load(path: Path, form: AudioForm, spec: InputSpec, window: int | None) -> Feeds:
    wave = waveform(path, form, str(path))
    if window is not None:
        assert form.window is not None
        start = window * (form.hop or form.window)
        wave = wave[:, start : start + form.window]
        wave = np.pad(wave, ((0, 0), (0, form.window - wave.shape[1])))
    return {spec.name: shape_as(wave, form, spec)}


@lru_cache(maxsize=2)
def waveform(source: Path | bytes, form: AudioForm, where: str) -> Array:
    """[channels, samples] of a sound file or of its bytes, at the form's rate; the last ones are kept for their windows.

    Raises:
        DataError: it is no sound file, is truncated, or has another rate than the form says.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DataError(f"{where}: {NEEDED}") from error
    try:
        wave, rate = soundfile.read(
            str(source) if isinstance(source, Path) else io.BytesIO(source), dtype="float32", always_2d=True
        )
    except (OSError, RuntimeError) as error:
        raise DataError(f"sample {where}: not a sound file, or truncated ({error}): remove it") from error
    if not len(wave):
        raise DataError(f"sample {where}: a sound file without a sound: remove it")
    if form.mono:
        wave = wave.mean(axis=1, keepdims=True)
    if form.rate is not None and rate != form.rate:
        if not form.resample:
            raise DataError(
                f"sample {where}: {rate} samples a second, [preprocess.audio] says {form.rate}: convert it, or set resample = true"
            )
        wave = _resampled(wave, rate, form.rate, where)
    return np.ascontiguousarray(wave.T)


def _resampled(wave: Array, rate: int, wanted: int, where: str) -> Array:
    try:
        import soxr
    except ImportError as error:
        raise DataError(f"{where}: {NEEDED}") from error
    return np.asarray(soxr.resample(wave, rate, wanted))


def shape_as(wave: Array, form: AudioForm, spec: InputSpec) -> Array:
    """[channels, samples] in the shape that the input's rank asks for: [T], [1, T], [1, C, T] or [1, T, C]."""
    wave = wave * np.float32(form.scale)
    if form.dtype not in ("float16", "float32", "float64"):
        wave = np.rint(wave).clip(np.iinfo(form.dtype).min, np.iinfo(form.dtype).max)
    wave = wave.astype(form.dtype)
    if len(spec.shape) == 3:
        return wave[None] if form.layout == "NCT" else wave.T[None]
    if len(wave) != 1:
        raise DataError(
            f"[preprocess.audio] mono = false: input '{spec.name}' {spec.describe()} has no axis for {len(wave)} channels"
        )
    return wave[0] if len(spec.shape) == 1 else wave
