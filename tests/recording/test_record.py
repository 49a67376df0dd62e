"""`onnxq record` around an application of each kind, and `onnxq.record` around a block."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxq
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError, OutputError
from onnxq.recording.application import RecordOptions, record_application
from onnxq.runtime.sessions import input_specs, open_session
from tests.conftest import CNN, ROOT, parse

PROGRAM = Path(__file__).with_name("application_program.py")
PLAIN = "g (float[N,4] x) => (float[N,4] y) {y = Relu(x)}"
STATEFUL = "g (float[N,4] x, float[N,4] h) => (float[N,4] y, float[N,4] hn) {y = Relu(x) hn = Add(x, h)}"


@pytest.fixture
def models(tmp_path):
    for name, text in (("plain", PLAIN), ("stateful", STATEFUL)):
        onnx.save(parse(text), tmp_path / f"{name}.onnx")
    return tmp_path


def command_line(what, model):
    return [sys.executable, str(PROGRAM), what, str(model)]


def recorded(models, what, **options):
    model = models / ("stateful.onnx" if what == "streams" else "plain.onnx")
    found = record_application(command_line(what, model), RecordOptions(models / "calib", **options))
    return found, read(models / "calib", model)


def read(folder, model):
    specs = input_specs(open_session(model))
    samples = open_samples(folder, specs, model=model)
    return {sample.name: check_feeds(sample, specs) for sample in samples}


def numbers(feeds):
    return sorted(int(each["x"][0, 0]) for each in feeds.values())


@pytest.mark.parametrize(
    "what",
    ["plain", "repeated", "keywords", "ort_values", "bindings", "asynchronous", "lists", "failing", "killed"],
)
def test_each_kind_of_call_is_recorded_once(models, what):
    found, feeds = recorded(models, what)
    assert numbers(feeds) == list(range(40))
    assert all(
        np.array_equal(each["x"] - each["x"][0, 0], [[0, 0.125, 0.25, 0.375]]) for each in feeds.values()
    )
    (model,) = found.models
    assert model.samples == 40 and model.sequences == 0
    assert model.calls == {"repeated": 120, "failing": 80}.get(what, 40)
    assert found.exit_code == (128 + signal.SIGKILL if what == "killed" else 0)


@pytest.mark.parametrize("what", ["forked", "spawned"])
def test_processes_are_merged(models, what):
    found, feeds = recorded(models, what)
    assert numbers(feeds) == [*(range(10) if what == "forked" else ()), *range(100, 110), *range(200, 210)]
    assert found.models[0].processes == (3 if what == "forked" else 2)


def test_threads_share_one_sample(models):
    found, feeds = recorded(models, "threads")
    assert found.models[0].calls == 160
    assert numbers(feeds) == sorted(number + 1000 * k for k in range(4) for number in range(40))


def test_a_sample_is_spread_over_the_run_and_the_same_each_time(models):
    found, feeds = recorded(models, "plain", samples=10)
    assert len(feeds) == 10 and found.models[0].samples == 10
    assert numbers(feeds)[0] < 15 and numbers(feeds)[-1] > 25
    _, again = recorded(models, "plain", samples=10, force=True)
    _, other = recorded(models, "plain", samples=10, force=True, seed=1)
    assert numbers(again) == numbers(feeds) != numbers(other)


def test_merged_processes_keep_to_the_limits(models):
    _, feeds = recorded(models, "forked", samples=12)
    assert len(feeds) == 12
    assert min(numbers(feeds)) < 100 <= max(numbers(feeds))
    found, feeds = recorded(models, "forked", bytes=700, force=True)
    assert 1 < len(feeds) < 10 and found.models[0].bytes <= 700


def test_sequences_stay_together(models):
    found, feeds = recorded(models, "streams", samples=96)
    assert found.models[0].sequences >= 8 and 80 <= len(feeds) <= 96
    sequences = {}
    for name, each in feeds.items():
        sequences.setdefault(Path(name).parent, []).append(each)
    assert len(sequences) == found.models[0].sequences
    for each in sequences.values():
        for before, after in pairwise(each):
            assert after["x"][0, 0] == before["x"][0, 0] + 1  # of one stream
            np.testing.assert_array_equal(after["h"], before["h"] + before["x"])


def test_outputs_are_recorded_beside_the_inputs(models):
    found, feeds = recorded(models, "plain", outputs=True)
    folder = models / "calib" / found.models[0].folder / "outputs"
    assert len(list(folder.iterdir())) == 40
    for name, each in feeds.items():
        np.testing.assert_array_equal(np.load(folder / name)["y"], np.maximum(each["x"], 0))


def test_eval_says_where_the_application_saw_other_outputs(models):
    recorded(models, "plain", outputs=True)
    line = [models / "plain.onnx"], models / "calib"
    assert onnxq.evaluate(models / "plain.onnx", *line, latency=False).warnings == []
    (folder,) = (models / "calib").glob("*/outputs")
    for path in folder.iterdir():
        np.savez(path, y=np.load(path)["y"] + 1)
    (warning,) = onnxq.evaluate(models / "plain.onnx", *line, latency=False).warnings
    assert "the application saw other outputs" in warning


def test_the_application_sees_nothing_of_the_recorder(models):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "onnxq", "record", "-o", str(models / "calib"), "--"]
    ran = subprocess.run(
        [*line, *command_line("plain", models / "plain.onnx")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0
    assert ran.stdout == "False 0\n"  # neither imported, nor on the module path
    assert "40 of 40 calls" in ran.stderr and "onnxq quantize" in ran.stderr


def test_a_sitecustomize_of_the_application_still_runs(models, monkeypatch):
    (models / "own").mkdir()
    (models / "own" / "sitecustomize.py").write_text("import os\nos.environ['CUSTOM'] = 'yes'\n")
    monkeypatch.setenv("PYTHONPATH", str(models / "own"))
    (models / "app.py").write_text(
        "import os, sys\nsys.exit(5 if os.environ.get('CUSTOM') == 'yes' else 1)\n"
    )
    found = record_application([sys.executable, str(models / "app.py")], RecordOptions(models / "calib"))
    assert found.exit_code == 5 and not found.models
    assert not (models / "calib").exists()


def started(models, what):
    line = [sys.executable, "-m", "onnxq", "record", "-o", str(models / "calib"), "--"]
    process = subprocess.Popen(
        [*line, *command_line(what, models / "plain.onnx")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_application_which_ends_in_its_own_way(models, number):
    process = started(models, "waiting")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output == "cleaned up\n" and process.returncode == 30 + number
    assert len(read(models / "calib", models / "plain.onnx")) == 40


def test_the_exit_code_is_the_applications(models):
    found, feeds = recorded(models, "raising")
    assert found.exit_code == 7 and len(feeds) == 40


def test_nothing_is_left_behind_and_nothing_replaced_by_surprise(models):
    recorded(models, "plain")
    assert not list(models.glob(".onnxq*"))
    with pytest.raises(OutputError, match=r"exists already.*--force"):
        recorded(models, "plain")
    (models / "calib" / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="holds other files"):
        recorded(models, "plain", force=True)
    with pytest.raises(onnxq.OnnxqError, match="no such program"):
        record_application(["no-such-program"], RecordOptions(models / "other"))
    with pytest.raises(onnxq.OnnxqError, match=r"app\.py: no such program: write python"):
        record_application(["app.py"], RecordOptions(models / "other"))
    assert not (models / "other").exists()


def test_a_block_is_recorded_with_sessions_that_exist_already(models):
    early, run = ort.InferenceSession(models / "plain.onnx"), ort.InferenceSession.run
    with onnxq.record(models / "calib") as held:
        for number in range(5):
            early.run(None, {"x": np.full((1, 4), number, np.float32)})
        subprocess.run(command_line("plain", models / "plain.onnx"), check=True, capture_output=True)
    early.run(None, {"x": np.full((1, 4), 99, np.float32)})
    assert ort.InferenceSession.run is run and "ONNXQ_RECORDING" not in os.environ
    assert held.result.models[0].processes == 2
    assert len(read(models / "calib", models / "plain.onnx")) == 45


def test_a_block_that_fails_is_recorded_until_then(models):
    session = ort.InferenceSession(models / "plain.onnx")

    def fail():
        with onnxq.record(models / "calib"):
            session.run(None, {"x": np.ones((1, 4), np.float32)})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(read(models / "calib", models / "plain.onnx")) == 1


def test_models_find_their_own_recording(models):
    onnx.save(parse(PLAIN.replace("Relu", "Sigmoid")), models / "other.onnx")
    one, two = (ort.InferenceSession(models / f"{name}.onnx") for name in ("plain", "other"))
    content = (models / "stateful.onnx").read_bytes()
    three = ort.InferenceSession(content)
    with onnxq.record(models / "calib"):
        one.run(None, {"x": np.full((1, 4), 1, np.float32)})
        two.run(None, {"x": np.full((1, 4), 2, np.float32)})
        three.run(None, {name: np.full((1, 4), 3, np.float32) for name in ("x", "h")})
    for name, number in (("plain", 1), ("other", 2), ("stateful", 3)):
        assert numbers(read(models / "calib", models / f"{name}.onnx")) == [number]
    onnx.save(parse(PLAIN.replace("Relu", "Tanh")), models / "third.onnx")
    with pytest.raises(DataError, match="recordings of 2 models fit"):
        read(models / "calib", models / "third.onnx")
    with pytest.raises(DataError, match="ran no such model"):
        read(models / "calib", CNN)
    folder = next((models / "calib").glob("plain-*"))
    assert json.loads((folder / "recording.json").read_text())["samples"] == 1
    assert numbers(read(folder, models / "third.onnx")) == [1]  # named by hand


def test_texts_are_recorded_and_maps_noted(models):
    onnx.save(parse("g (string[N] x) => (string[N] y) {y = Identity(x)}"), models / "text.onnx")
    session = ort.InferenceSession(models / "text.onnx")
    with onnxq.record(models / "calib"):
        session.run(None, {"x": np.array(["one", "zwei"], object)})
    (feeds,) = read(models / "calib", models / "text.onnx").values()
    assert feeds["x"].tolist() == ["one", "zwei"] and feeds["x"].dtype == object
