"""A speech recognizer of an encoder and a decoder: sounds in, WER and CER of the texts out."""

import json
import shutil

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner

from onnxq.cli.commands import main
from tests.conftest import normal, parse
from tests.exports.translators import write_translator

RATE, SECONDS = 16000, 2
ENCODER = """g (float[B,80,200] input_features) => (float[B,20,64] last_hidden_state) {
    c = Conv<strides=[10], kernel_shape=[10]>(input_features, k) t = Transpose<perm=[0,2,1]>(c)
    r = Relu(t) last_hidden_state = MatMul(r, w) }"""
SETTINGS = {
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": RATE,
    "hop_length": 160, "n_fft": 400, "chunk_length": SECONDS,
}  # fmt: skip
TOKENS = 5


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def evaluated(*arguments):
    result = run("eval", *arguments, "--tokens", TOKENS, "--no-latency", "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def recognizer(rng, tmp_path):
    """A folder with an encoder of log-mel spectrograms, and one of twelve sounds of three tones each."""
    folder = write_translator(tmp_path / "exported", merged=False)
    constants = {"k": normal(rng, 64, 80, 10) / 8, "w": normal(rng, 64, 64)}
    onnx.save(parse(ENCODER, constants), folder / "encoder_model.onnx")
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "sounds").mkdir()
    times = np.arange(RATE * SECONDS) / RATE
    for i in range(12):
        tones = sum(np.sin(2 * np.pi * f * times) for f in rng.integers(100, 4000, 3))
        soundfile.write(tmp_path / "sounds" / f"{i:02}.wav", tones / 4, RATE)
    return folder


@pytest.fixture
def spoken(recognizer, tmp_path):
    """What the recognizer hears in each sound, by the name of its file."""
    from onnxq.data.preprocessing import Forms
    from onnxq.exports.folder import find_exports
    from onnxq.exports.program import Program
    from onnxq.exports.settings import text_of

    (export,) = find_exports(recognizer, Forms())
    program, decode = Program.of(export, export.routes[0], Forms()), text_of(recognizer)
    sources = [program.source(sample) for sample in program.samples(tmp_path / "sounds", None)]
    return {
        each.name: decode(program.generator.generate(each.prompt, TOKENS, context=each.context).tokens)
        for each in sources
    }


def test_words_that_are_heard_wrong_are_counted(recognizer, spoken, tmp_path):
    assert len(set(spoken.values())) > 1  # the sounds matter
    words = [text.split() for text in spoken.values()]
    words[0][0] = "w99"  # one word replaced, ...
    words[1].append("more")  # ... and one that was not heard
    labels = [f"{name},{' '.join(each)}" for name, each in zip(spoken, words, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *labels]))
    data = ("--data", tmp_path / "sounds", "--labels", tmp_path / "labels.csv")
    base, other = evaluated(recognizer, recognizer, *data)["generation"]
    count = sum(map(len, words))
    assert base["metrics"]["WER"] == pytest.approx(2 / count)
    assert base["metrics"]["exact"] == pytest.approx(10 / 12)
    assert 0 < base["metrics"]["CER"] < base["metrics"]["WER"]
    assert other["metrics"] == base["metrics"]


def test_an_int8_recognizer_is_compared_with_float_and_gated(recognizer, spoken, tmp_path):
    quantized = tmp_path / "int8"
    fast = ("--effort", "fast", "--all-int8", "--keep-int8", "--json")
    made = run("quantize", recognizer, "-o", quantized, "--calib", tmp_path / "sounds", *fast)
    assert made.exit_code == 0, made.stderr
    modes = {row["file"]: row["mode"] for row in json.loads(made.stdout)["models"]}
    assert modes["encoder_model.onnx"] == "static"
    rows = ["file,label", *(f"{name},{text}" for name, text in spoken.items())]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = ("--data", tmp_path / "sounds", "--labels", tmp_path / "labels.csv")
    base, score = evaluated(recognizer, quantized, *data)["generation"]
    assert base["metrics"] == {"exact": 1, "WER": 0, "CER": 0}
    assert score["metrics"]["WER"] == score["to_float"]["WER"] < 0.5
    # a file that hears something else fails the gate of WER
    broken = shutil.copytree(recognizer, tmp_path / "broken")
    model = onnx.load(broken / "encoder_model.onnx")
    for weight in model.graph.initializer:
        weight.raw_data = np.negative(onnx.numpy_helper.to_array(weight)).tobytes()
    onnx.save(model, broken / "encoder_model.onnx")
    failed = run("eval", recognizer, broken, *data, "--tokens", TOKENS, "--no-latency", "--max-drop", 1)
    assert failed.exit_code == 1
    assert "WER is" in failed.stderr
