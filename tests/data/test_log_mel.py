"""Log-mel spectrograms, against their definition written out, and as settings beside a model ask for them."""

import json

import numpy as np
import pytest
import soundfile

from onnxq.data.log_mel import LogMel, mel_filters
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec

SPEC = InputSpec("input_features", np.dtype(np.float32), (None, 80, 3000))
WHISPER = {
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000,
    "hop_length": 160, "chunk_length": 30, "n_fft": 400, "n_samples": 480000,
}  # fmt: skip


def sound(seconds=1.0, rate=16000):
    times = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * times) + 0.1 * np.sin(2 * np.pi * 3000 * times)
    return wave + np.random.default_rng(0).normal(0, 0.01, len(times))


def test_a_frame_is_the_definition_written_out():
    form, wave = LogMel(length=3200), sound(0.2)
    found = form.of(wave)
    assert found.shape == (80, 20) and found.dtype == np.float32
    edged = np.concatenate([wave[200:0:-1], wave, wave[-2:-202:-1]])
    places = np.arange(400)
    bands = []
    for frame in range(20):
        part = edged[160 * frame : 160 * frame + 400] * (0.5 - 0.5 * np.cos(2 * np.pi * places / 400))
        turns = np.exp(-2j * np.pi * np.outer(np.arange(201), places) / 400)
        bands.append(mel_filters(16000, 80, 400) @ np.abs(turns @ part) ** 2)
    wanted = np.log10(np.maximum(np.array(bands).T, 1e-10))
    wanted = (np.maximum(wanted, wanted.max() - 8) + 4) / 4
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_filters_are_triangles_on_the_mel_scale():
    filters = mel_filters(16000, 80, 400)
    assert filters.shape == (80, 201) and (filters >= 0).all()
    peaks = filters.argmax(1) * 40  # Hz
    assert (np.diff(peaks) >= 0).all() and peaks[-1] == pytest.approx(7700, abs=200)
    low, high = np.diff(peaks[:20]).mean(), np.diff(peaks[-10:]).mean()
    assert high > 4 * low  # linear below 1 kHz, logarithmic above
    loud = LogMel().of(sound(1)).mean(1)
    assert abs(peaks[loud.argmax()] - 440) < 60


def test_sounds_get_the_features_that_the_settings_beside_the_model_name(tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(0.5), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", sound(0.5, 8000), 8000)  # resampled
    model = tmp_path / "model" / "onnx" / "encoder_model.onnx"
    model.parent.mkdir(parents=True)
    settings = model.parent.parent / "preprocessor_config.json"
    settings.write_text(json.dumps(WHISPER))
    one, other = (
        check_feeds(sample, [SPEC])["input_features"]
        for sample in open_samples(tmp_path, [SPEC], model=model)
    )
    np.testing.assert_allclose(one[0], LogMel().of(sound(0.5)), atol=1e-4)
    assert np.corrcoef(one[0, :20, :50].ravel(), other[0, :20, :50].ravel())[0, 1] > 0.9
    wave = InputSpec("input_values", np.dtype(np.float32), (None, None))
    settings.write_text('{"feature_size": 1, "sampling_rate": 16000, "do_normalize": true}')
    values = check_feeds(open_samples(tmp_path, [wave], model=model)[0], [wave])["input_values"]
    assert (
        values.shape == (1, 8000) and abs(values.mean()) < 1e-5 and values.std() == pytest.approx(1, abs=1e-3)
    )
    settings.unlink()
    (settings.parent / "processor_config.json").write_text(json.dumps({"feature_extractor": WHISPER}))
    np.testing.assert_array_equal(
        check_feeds(open_samples(tmp_path, [SPEC], model=model)[0], [SPEC])["input_features"], one
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON file"),
        ("[1]", "is no table"),
        ('{"sampling_rate": -1, "feature_size": 1}', "cannot be read as preprocessing of sounds"),
        ('{"sampling_rate": 16000, "feature_size": 80, "hop_length": 0, "chunk_length": 30}', "cannot be read"),
        ('{"sampling_rate": 16000, "feature_size": 80, "hop_length": 1, "chunk_length": 300}', "GiB"),
        ('{"sampling_rate": 16000, "num_mel_bins": 128, "feature_size": 128, "feature_extractor_type": "AST"}', "features of AST"),
    ],
)  # fmt: skip
def test_other_features_are_refused_in_one_line(tmp_path, content, message):
    soundfile.write(tmp_path / "a.wav", sound(0.1), 16000)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_samples(tmp_path, [SPEC], model=tmp_path / "m.onnx")[0].load()
