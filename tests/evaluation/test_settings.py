"""`onnxq init` and `onnxq preview`: the settings that a model and its data give, and what the model gets."""

import io
import json
import tomllib

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from onnxq.cli.commands import main
from onnxq.data.preprocessing import read_forms
from tests.conftest import CNN, SAMPLES, parse

CLASSIFIER = """
g (float[N,3,8,8] x) => (float[N,8] y)
<float[8,192] w>
{f = Flatten(x) y = Gemm<transB = 1>(f, w)}
"""
MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A classifier of patterns in images, trained (by its construction) on ImageNet's normalization."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (8, 8, 8, 3))
    weights = ((patterns - MEAN) / STD).transpose(0, 3, 1, 2).reshape(8, -1).astype(np.float32)
    weights -= weights.mean(1, keepdims=True)
    onnx.save(parse(CLASSIFIER, {"w": weights / 8}), "model.onnx")
    (tmp_path / "photos").mkdir()
    rows = ["file,label"]
    for i in range(40):
        noisy = patterns[i % 8] + random.normal(0, 90, patterns[0].shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(f"photos/{i:02d}.png")
        rows.append(f"{i:02d}.png,{i % 8}")
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def settings():
    with open("onnxq.toml", "rb") as stream:
        return tomllib.load(stream)


def test_the_settings_are_read_by_the_other_commands(work):
    found = run("init", "model.onnx", "photos", "--json")
    assert found.exit_code == 0, found.stderr
    content = settings()
    assert content["preprocess"]["layout"] == "NCHW" and content["preprocess"]["dtype"] == "float32"
    assert "resize" not in content["preprocess"]  # the images have the size of the input
    assert content["quantize"] == {"calib": "photos"}
    assert content["eval"] == {"data": "photos", "labels": "photos/labels.csv"}
    text = (work / "onnxq.toml").read_text()
    assert "undecided: " in text and "onnxq preview model.onnx photos" in text
    assert json.loads(found.stdout)["undecided"]
    assert read_forms("onnxq.toml").image is not None
    evaluated = run("eval", "model.onnx", "--no-latency", "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["scores"][0]["metrics"]["top-1"]["value"] > 0.9


def test_without_labels_large_values_do_not_win_by_their_size_and_the_user_is_asked(work):
    (work / "photos" / "labels.csv").unlink()
    model = onnx.load("model.onnx")  # a cautious one: raw pixels make it more certain
    (weights,) = model.graph.initializer
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) / 16, "w"))
    onnx.save(model, "model.onnx")
    found = run("init", "model.onnx", "photos", "--json")
    assert settings()["preprocess"]["std"][0] > 10
    assert "mean" in json.loads(found.stdout)["undecided"]


def test_sounds_beside_a_feature_extractor_get_no_table_of_their_own(work):
    import soundfile

    soundfile.write("sound.wav", np.zeros(100), 8000)
    model = "g (float[N,80,3000] input_features) => (float[N,80,3000] y) {y = Identity(input_features)}"
    onnx.save(parse(model), "sounds.onnx")
    assert "rate is undecided" in run("init", "sounds.onnx", "sound.wav").stderr
    config = {"sampling_rate": 16000, "feature_size": 80, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    (work / "preprocessor_config.json").write_text(json.dumps(config))
    assert "undecided" not in run("init", "sounds.onnx", "sound.wav", "--force").stderr
    assert set(settings()) == {"quantize"}


def test_settings_beside_the_model_come_first(work):
    config = {
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8},
        "resample": 3,
    }  # fmt: skip
    (work / "preprocessor_config.json").write_text(json.dumps(config))
    assert run("init", "model.onnx", "photos").exit_code == 0
    found = settings()["preprocess"]
    assert found["mean"] == [127.5] * 3 and found["std"] == [63.75] * 3
    assert found["resize_short"] == 10 and found["crop"] == [8, 8] and found["filter"] == "bicubic"
    (work / "preprocessor_config.json").write_text("{")
    failed = run("init", "model.onnx", "photos", "--force")
    assert failed.exit_code == 2
    assert [line for line in failed.stderr.splitlines() if "error" in line] == [
        failed.stderr.splitlines()[-1]
    ]


def test_arrays_need_no_preprocessing_and_texts_ask_for_a_tokenizer(work):
    assert run("init", CNN, SAMPLES / "calib").exit_code == 0
    assert set(settings()) == {"quantize"}
    onnx.save(parse("g (int64[N,16] input_ids) => (int64[N,16] y) {y = Identity(input_ids)}"), "text.onnx")
    (work / "lines.txt").write_text("one\ntwo\n")
    asked = run("init", "text.onnx", "lines.txt", "--force")
    assert "tokenizer is undecided" in asked.stderr
    assert settings()["preprocess"]["text"] == {"max_length": 16, "pad_to": 16}


def test_wrong_use_is_one_line_and_writes_nothing(work):
    assert run("init", "model.onnx", "photos").exit_code == 0
    for line in (["init", "model.onnx", "photos"], ["init", "model.onnx", "none", "-o", "a.toml"],
                 ["init", "none.onnx", "photos", "-o", "a.toml"], ["preview", "model.onnx", "photos", "-o", "onnxq.toml"],
                 ["preview", "model.onnx", "none"], ["preview", "model.onnx", "photos", "-o", "sheet.gif"],
                 ["init", "photos", "photos", "-o", "a.toml"], ["preview", "photos", "photos"]):  # fmt: skip
        failed = run(*line)
        assert failed.exit_code == 2, line
        assert len([each for each in failed.stderr.splitlines() if "error" in each]) == 1
        assert "ulimit" not in failed.stderr
    assert not (work / "sheet.gif").exists()
    assert not (work / "a.toml").exists()


def test_preview_shows_ranges_answers_and_a_sheet(work):
    (work / "form.toml").write_text(
        "[preprocess]\nmean = [123.675, 116.28, 103.53]\nstd = [58.395, 57.12, 57.375]\n"
    )
    shown = run(
        "preview", "model.onnx", "photos", "--preprocess", "form.toml", "-o", "sheet.png", "--samples", 5
    )
    assert shown.exit_code == 0, shown.stderr
    assert "float32[1,3,8,8]" in shown.stdout and "class 0" in shown.stdout
    assert "5 of 40 samples" in shown.stdout
    sheet = Image.open(io.BytesIO((work / "sheet.png").read_bytes())).convert("RGB")
    original = Image.open(work / "photos" / "00.png").convert("RGB")
    for x, y in ((0, 0), (3, 5), (7, 7)):  # each pixel is 24 x 24 on the sheet, behind a margin of 6
        assert (
            np.abs(
                np.subtract(sheet.getpixel((6 + 24 * x + 12, 6 + 24 * y + 12)), original.getpixel((x, y)))
            ).max()
            <= 1
        )
    wrong = run("preview", "model.onnx", "photos", "--preprocess", "unit", "--json")
    row = json.loads(wrong.stdout)["rows"][0]
    assert 0 <= row["inputs"][0]["low"] < row["inputs"][0]["high"] <= 1
    assert len(row["top"]) == 3
