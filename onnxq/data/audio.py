"""Audio files: read with soundfile, resampled with soxr, preprocessed as `AudioForm` describes.

Without one, the settings beside the model hold, which may ask for a spectrogram.
"""

import io
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from onnxq.data.hugging_face import SoundForm, sound_form
from onnxq.data.preprocessing import AudioForm, Forms
from onnxq.data.reading import FLOAT_BYTES, check_bytes, check_count, library_errors
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

SUFFIXES = (".wav", ".flac", ".ogg")
MOST_TIMES = 256
"""Most times as many values as before, by resampling."""
LEAST_VARIANCE = 1e-7
"""Added to the variance of a sound that is normalized."""
NEEDED = "audio files need soundfile and soxr: pip install soundfile soxr"


def audio_samples(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per window of a file, or one per file without windows.

    Raises:
        DataError: The model has several inputs and [preprocess.audio] does not set one.
    """
    spec, form = audio_spec(path, specs, forms), forms.audio
    settings = sound_form(forms.beside) if forms.beside is not None and form == AudioForm() else None
    if settings is not None:
        form = replace(form, rate=settings.rate, resample=True)
        return [Sample(path.name, partial(_load_prepared, path, form, spec, settings))]
    if form.window is None:
        return [Sample(path.name, partial(_load, path, form, spec, None))]
    count = _windows(path, form)
    names = [path.name] if count == 1 else [f"{path.name}[{i}]" for i in range(count)]
    return [Sample(name, partial(_load, path, form, spec, i)) for i, name in enumerate(names)]


def audio_spec(where: Path, specs: list[InputSpec], forms: Forms) -> InputSpec:
    """Return the input for audio."""
    named = (
        [spec for spec in specs if spec.name == forms.audio.input] if forms.audio.input is not None else specs
    )
    if len(named) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{where}: the model has inputs [{names}]: set the one for audio with 'input' in "
            "[preprocess.audio]"
        )
    return named[0]


def _windows(path: Path, form: AudioForm) -> int:
    """Count the whole windows of a file; at least one, padded with zeros."""
    assert form.window is not None
    frames, rate = _length(path)
    if form.rate is not None:
        frames = round(frames * form.rate / rate)
    count = 1 + max(0, frames - form.window) // (form.hop or form.window)
    check_count(path, count)
    return count


def _length(path: Path) -> tuple[int, int]:
    """Read frames and sample rate (Hz) from the header."""
    try:
        import soundfile
    except ImportError as error:
        raise DataError(f"{path}: {NEEDED}") from error
    with library_errors(f"sample {path}: not an audio file, or truncated", "remove it"):
        info = soundfile.info(str(path))
        frames, rate = int(info.frames), int(info.samplerate)
    if rate < 1:
        raise DataError(f"sample {path}: sample rate is {rate} Hz: remove it")
    return frames, rate


def _load(path: Path, form: AudioForm, spec: InputSpec, window: int | None) -> Feeds:
    wave = waveform(path, form, str(path))
    if window is not None:
        assert form.window is not None
        start = window * (form.hop or form.window)
        wave = wave[:, start : start + form.window]
        wave = np.pad(wave, ((0, 0), (0, form.window - wave.shape[1])))
    return {spec.name: shape_as(wave, form, spec)}


def _load_prepared(path: Path, form: AudioForm, spec: InputSpec, settings: SoundForm) -> Feeds:
    """Load a sound as the settings beside the model say."""
    wave = waveform(path, form, str(path))
    if settings.normalize:
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + LEAST_VARIANCE)
    if settings.spectrum is None:
        return {spec.name: shape_as(wave, form, spec)}
    return {spec.name: settings.spectrum.of(wave[0])[None]}


@lru_cache(maxsize=2)
def waveform(source: Path | bytes, form: AudioForm, where: str) -> Array:
    """Read an audio file, or its bytes, as [channels, frames] at the configured rate; cache two files.

    Raises:
        DataError: The file is not audio, is truncated, or has another sample rate than configured.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DataError(f"{where}: {NEEDED}") from error
    with library_errors(f"sample {where}: not an audio file, or truncated", "remove it"):
        opened = soundfile.SoundFile(str(source) if isinstance(source, Path) else io.BytesIO(source))
        with opened as file:
            check_bytes(where, file.frames * file.channels * FLOAT_BYTES)
            wave, rate = file.read(dtype="float32", always_2d=True), int(file.samplerate)
    if not len(wave):
        raise DataError(f"sample {where}: an audio file without any frames: remove it")
    if form.mono:
        wave = wave.mean(axis=1, keepdims=True)
    if form.rate is not None and rate != form.rate:
        if not form.resample:
            raise DataError(
                f"sample {where}: sample rate is {rate} Hz, but [preprocess.audio] has rate = {form.rate}: "
                "convert the file, or set resample = true"
            )
        wave = _resampled(wave, rate, form.rate, where)
    return np.ascontiguousarray(wave.T)


def _resampled(wave: Array, rate: int, wanted: int, where: str) -> Array:
    if wanted > MOST_TIMES * rate:
        raise DataError(f"sample {where}: its sample rate of {rate} Hz cannot be right: convert the file")
    check_bytes(f"{where} (resampled from {rate} Hz)", wave.nbytes * wanted / max(rate, 1))
    try:
        import soxr
    except ImportError as error:
        raise DataError(f"{where}: {NEEDED}") from error
    with library_errors(f"sample {where}: cannot be resampled from {rate} Hz", "convert the file"):
        return np.asarray(soxr.resample(wave, rate, wanted))


def shape_as(wave: Array, form: AudioForm, spec: InputSpec) -> Array:
    """Shape [channels, frames] for the rank of the input: [T], [1, T], [1, C, T] or [1, T, C]."""
    wave = wave * np.float32(form.scale)
    if form.dtype not in ("float16", "float32", "float64"):
        wave = np.rint(wave).clip(np.iinfo(form.dtype).min, np.iinfo(form.dtype).max)
    wave = wave.astype(form.dtype)
    if len(spec.shape) == 3:
        return wave[None] if form.layout == "NCT" else wave.T[None]
    if len(wave) != 1:
        raise DataError(
            f"input '{spec.name}' {spec.describe()} has no axis for {len(wave)} channels: set mono = true "
            "in [preprocess.audio]"
        )
    return wave[0] if len(spec.shape) == 1 else wave
