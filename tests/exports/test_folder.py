"""A folder of models as exporters write it becomes a folder of quantized models that the same program loads."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from onnxq.cli.commands import main
from onnxq.data.preprocessing import Forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.exports.decoder_steps import STEPS, store_steps
from onnxq.exports.folder import find_exports
from onnxq.exports.parts import Role
from onnxq.exports.program import Program
from onnxq.runtime.sessions import input_specs, open_session
from tests.conftest import parse

WIDTH, WORDS = 64, 40
ENCODER = """
g (int64[B,S] input_ids, int64[B,S] attention_mask) => (float[B,S,64] last_hidden_state)
{e = Gather(table, input_ids) h = MatMul(e, w1) r = Relu(h) m = MatMul(r, w2)
 c = Cast<to = 1>(attention_mask) u = Unsqueeze(c, last) last_hidden_state = Mul(m, u)}
"""
DECODER = """
g (int64[B,S] input_ids, float[B,1,P,64] past) => (float[B,S,40] logits, float[B,1,T,64] present)
{e = Gather(table, input_ids) h = MatMul(e, w1) r = Relu(h) u = Unsqueeze(r, one)
 present = Concat<axis = 2>(past, u) m = ReduceMean<axes = [2], keepdims = 1>(present) s = Squeeze(m, one)
 a = Add(r, s) logits = MatMul(a, w3)}
"""
VISION = """
g (float[B,3,16,16] pixel_values) => (float[B,4] logits)
{c = Conv<kernel_shape = [3, 3]>(pixel_values, k) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p)
 logits = Gemm(f, w4)}
"""


def constants(names):
    random = np.random.default_rng(0)
    shapes = {
        "table": (WORDS, WIDTH), "w1": (WIDTH, WIDTH), "w2": (WIDTH, WIDTH), "w3": (WIDTH, WORDS),
        "k": (64, 3, 3, 3), "w4": (64, 4),
    }  # fmt: skip
    floats = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: (floats | {"one": np.array([1]), "last": np.array([-1])})[name] for name in names}


def with_exporters_names(model):
    """Rename past and present as exporters do."""
    names = {"past": "past_key_values.0.key", "present": "present.0.key"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return model


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    onnx.save(parse(ENCODER, constants(["table", "w1", "w2", "last"])), folder / "encoder_model.onnx")
    decoder = with_exporters_names(parse(DECODER, constants(["table", "w1", "w3", "one"])))
    onnx.save(decoder, folder / "decoder_model.onnx")
    (folder / "onnx").mkdir()
    vision = parse(VISION, constants(["k", "w4"]))
    onnx.save(
        vision,
        folder / "onnx" / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
    (folder / "onnx" / "preprocessor_config.json").write_text(json.dumps(config))
    random = np.random.default_rng(1)
    (tmp_path / "texts").mkdir()
    lines = [" ".join(f"w{i}" for i in random.integers(1, WORDS, random.integers(4, 12))) for _ in range(40)]
    (tmp_path / "texts" / "lines.txt").write_text("\n".join(lines))
    (tmp_path / "photos").mkdir()
    for i in range(24):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    return folder


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def rows_of(result):
    assert result.exit_code == 0, result.stderr
    return {row["file"]: row for row in json.loads(result.stdout)["models"]}


FAST = ("--effort", "fast", "--all-int8", "--json")


def test_each_model_is_quantized_in_its_mode_and_the_rest_copied(exported, tmp_path):
    output = tmp_path / "int8"
    rows = rows_of(run("quantize", exported, "-o", output, "--calib", tmp_path / "texts", *FAST))
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    written = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert written == names  # the convolutions have no ranges at run time: that model is copied
    assert rows["encoder_model.onnx"]["mode"] == "static"
    assert rows["decoder_model.onnx"]["mode"] in ("dynamic", "weights")
    assert rows["decoder_model.onnx"]["tokens"] > 0.9 and "tokens" in rows["decoder_model.onnx"]["note"]
    assert rows["onnx/model.onnx"]["mode"] == "as it is"
    assert "input_ids" in rows["onnx/model.onnx"]["note"]  # texts are no samples of it
    assert (output / "config.json").read_bytes() == (exported / "config.json").read_bytes()
    feeds = {"input_ids": np.array([[3, 5, 7]]), "attention_mask": np.ones((1, 3), np.int64)}
    one, two = (
        ort.InferenceSession(folder / "encoder_model.onnx").run(None, feeds)[0]
        for folder in (exported, output)
    )
    assert np.abs(one - two).max() < 0.1 * np.abs(one).max()
    assert not list(tmp_path.glob(".onnxq*"))


def test_images_are_prepared_as_the_file_beside_the_model_says(exported, tmp_path):
    model = exported / "onnx" / "model.onnx"
    specs = input_specs(open_session(model))
    sample = open_samples(tmp_path / "photos", specs, model=model)[0]
    pixels = check_feeds(sample, specs)["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16) and -1 <= pixels.min() < -0.5 and 0.5 < pixels.max() <= 1
    rows = rows_of(
        run("quantize", exported / "onnx", "-o", tmp_path / "v", "--calib", tmp_path / "photos", *FAST)
    )
    assert rows["model.onnx"]["mode"] == "static"
    assert rows["model.onnx"]["bytes_after"] < rows["model.onnx"]["bytes_before"]


def test_steps_of_a_decoder_hold_the_caches_that_it_made(exported, tmp_path):
    model = exported / "decoder_model.onnx"
    session = open_session(model)
    specs = input_specs(session)
    export = find_exports(exported, Forms())[0]
    assert [part.role for part in export.parts] == [Role.SINGLE, Role.OTHER]
    found = store_steps(export, tmp_path / "texts", Forms(), tmp_path / "steps", 3 * STEPS)
    assert len(found.checking) == 16
    samples = open_samples(found.folders[Role.SINGLE], specs)
    assert len(samples) == 3 * STEPS
    feeds = [check_feeds(sample, specs) for sample in samples[:STEPS]]
    assert feeds[0]["past_key_values.0.key"].shape[2] == 0
    for before, after in pairwise(feeds):
        logits, present = session.run(None, before)
        np.testing.assert_allclose(after["past_key_values.0.key"], present, rtol=1e-6)
        assert after["input_ids"].tolist() == [[logits[0, -1].argmax()]]


def test_a_text_goes_on_where_the_tokenizer_ends_it(exported, tmp_path):
    (exported / "generation_config.json").write_text('{"eos_token_id": 39}')
    (tmp_path / "texts" / "lines.txt").write_text("w3 w5 w39\nw39\n")
    export = find_exports(exported, Forms())[0]
    program = Program.of(export, export.routes[0], Forms())
    prompts = [program.source(each).prompt for each in program.samples(tmp_path / "texts", None)]
    assert prompts == [[3, 5], [39]]


def test_a_mode_of_the_user_holds_for_all_and_nothing_to_quantize_is_copied(exported, tmp_path):
    onnx.save(parse("g (float[N] x) => (float[N] y) {y = Relu(x)}"), exported / "plain.onnx")
    rows = rows_of(run("quantize", exported, "-o", tmp_path / "w", "--mode", "weights", "--json"))
    assert rows["plain.onnx"]["mode"] == "as it is"
    assert rows["encoder_model.onnx"]["mode"] == "weights"
    assert (tmp_path / "w" / "plain.onnx").read_bytes() == (exported / "plain.onnx").read_bytes()


def test_wrong_use_is_one_line_and_writes_nothing(exported, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for line, message in (
        ([exported], "name the folder of the result"),
        ([tmp_path / "empty", "-o", tmp_path / "x"], "holds no .onnx file"),
        ([exported, "-o", exported / "int8"], "lies in the folder of the models"),
        ([exported, "-o", tmp_path / "full"], "holds files already"),
        ([exported, "-o", tmp_path / "x", "--calib", tmp_path / "none"], "no such data folder"),
        ([exported, "-o", tmp_path / "x", "--calib", tmp_path / "empty", *FAST], "fits no model"),
        ([exported, "-o", tmp_path / "x", "--report", tmp_path / "r.html"], "of single models"),
    ):
        failed = run("quantize", *line)
        assert failed.exit_code == 2 and message in failed.stderr, failed.stderr
        assert len(failed.stderr.splitlines()) == 1
    (exported / "broken.onnx").write_bytes(b"none")
    assert run("quantize", exported, "-o", tmp_path / "x").exit_code == 2
    assert not Path(tmp_path / "x").exists() and not list(tmp_path.glob(".onnxq*"))
