"""Encoders and decoders generate together: their roles, their caches, their calibration, their comparison."""

import json
from itertools import pairwise

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.data.preprocessing import Forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import OnnxqError
from onnxq.exports.decoder_steps import STEPS, store_steps
from onnxq.exports.folder import find_exports
from onnxq.exports.parts import Role
from onnxq.exports.program import Program
from onnxq.exports.settings import generation_settings
from onnxq.runtime.sessions import input_specs, open_session
from tests.exports.translators import END, START, write_texts, write_translator


@pytest.fixture
def exported(tmp_path):
    write_texts(tmp_path / "texts")
    return write_translator(tmp_path / "exported")


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def told(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def by_hand(folder, ids, steps):
    """Generate without any cache: the first decoder sees all tokens again in each step."""
    encoder, decoder = (
        ort.InferenceSession(folder / f"{name}_model.onnx") for name in ("encoder", "decoder")
    )
    mask = np.ones_like(ids)
    hidden = encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    tokens = [START]
    for _ in range(steps):
        feeds = {
            "input_ids": np.array([tokens]),
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": mask,
        }
        logits = decoder.run(["logits"], feeds)[0][0, -1]
        logits[0] = -np.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == END:
            break
    return tokens[1:]


def test_roles_are_told_by_inputs_and_outputs(exported):
    (exported / "decoder_model.onnx").rename(exported / "a.onnx")  # names do not matter
    (export,) = find_exports(exported, Forms())
    assert {part.path.name: part.role for part in export.parts} == {
        "a.onnx": Role.FIRST,
        "decoder_model_merged.onnx": Role.MERGED,
        "decoder_with_past_model.onnx": Role.FOLLOWING,
        "encoder_model.onnx": Role.ENCODER,
    }
    assert [[part.role for part in route] for route in export.routes] == [
        [Role.MERGED],
        [Role.FIRST, Role.FOLLOWING],
    ]
    assert export.encoder is not None and export.encoder.path.name == "encoder_model.onnx"


def test_both_forms_of_a_decoder_generate_what_no_cache_generates(exported):
    (export,) = find_exports(exported, Forms())
    programs = [Program.of(export, route, Forms()) for route in export.routes]
    samples = programs[0].samples(exported.parent / "texts", None)
    lengths = set()
    for sample in samples[:8]:
        wanted = by_hand(exported, sample.load()["input_ids"], 12)
        lengths.add(len(wanted))
        for program in programs:
            source = program.source(sample)
            found = program.generator.generate(source.prompt, 12, context=source.context)
            assert found.tokens == wanted
    assert max(lengths) > 1


def test_calibration_holds_the_real_caches_of_both_kinds(exported, tmp_path):
    (export,) = find_exports(exported, Forms())
    found = store_steps(export, tmp_path / "texts", Forms(), tmp_path / "steps", 5 * STEPS)
    assert set(found.folders) == {Role.MERGED, Role.FIRST, Role.FOLLOWING}
    assert len(list(found.folders[Role.FIRST].rglob("*.npz"))) == 40  # texts: first steps are cheap
    model = exported / "decoder_with_past_model.onnx"
    session, folder = open_session(model), sorted(found.folders[Role.FOLLOWING].iterdir())[0]
    samples = open_samples(folder, input_specs(session))
    feeds = [check_feeds(sample, input_specs(session)) for sample in samples]
    assert feeds
    for before, after in pairwise(feeds):
        logits, present = session.run(None, before)
        np.testing.assert_allclose(after["past_key_values.0.decoder.key"], present, rtol=1e-6)
        np.testing.assert_array_equal(
            after["past_key_values.0.encoder.key"], before["past_key_values.0.encoder.key"]
        )
        logits[0, -1, 0] = -np.inf
        assert after["input_ids"].tolist() == [[logits[0, -1].argmax()]]
    merged = [np.load(file) for file in sorted(found.folders[Role.MERGED].glob("0000/*.npz"))]
    assert [bool(each["use_cache_branch"]) for each in merged] == [False] + [True] * (len(merged) - 1)
    assert all(each["past_key_values.0.encoder.key"].shape[2] > 0 for each in merged[1:])


def test_a_folder_is_quantized_and_compared_end_to_end(exported, tmp_path):
    fast = ("--effort", "fast", "--all-int8", "--keep-int8", "--json")
    rows = told(run("quantize", exported, "-o", tmp_path / "int8", "--calib", tmp_path / "texts", *fast))[
        "models"
    ]
    assert all(row["bytes_after"] < 0.6 * row["bytes_before"] for row in rows), rows
    modes = {row["file"]: (row["mode"], row["tokens"]) for row in rows}
    assert modes["encoder_model.onnx"] == ("static", None)
    for name in ("decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx"):
        assert modes[name][0] in ("dynamic", "weights") and modes[name][1] > 0.9, modes
    report = told(
        run("eval", exported, tmp_path / "int8", "--data", tmp_path / "texts", "--tokens", 10, "--json")
    )
    base, score = report["generation"]
    assert report["samples"] == 40 and 40 < report["steps"] <= 400
    assert base["tokens"] is None and 0.8 < score["tokens"] <= 1 and 0 <= score["same"] <= 1
    assert (score["same"] == 1) == (score["to_float"]["CER"] == 0)
    assert score["bytes"] < base["bytes"] and score["per_second"] > 0
    same = told(run("eval", exported, exported, "--data", tmp_path / "texts", "--json"))["generation"][1]
    assert same["tokens"] == same["same"] == 1 and same["to_float"] == {"WER": 0, "CER": 0}


def test_labels_give_word_and_character_errors_and_gates(exported, tmp_path):
    (export,) = find_exports(exported, Forms())
    program = Program.of(export, export.routes[0], Forms())
    rows = ["file,label"]
    for number, sample in enumerate(program.samples(tmp_path / "texts", None)[:10]):
        source = program.source(sample)
        words = [
            f"w{token}"
            for token in program.generator.generate(source.prompt, 6, context=source.context).tokens
        ]
        wrong = ["other", *words[1:]] if number == 0 else words
        rows.append(f"{sample.name},{' '.join(wrong)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    line = ("--data", tmp_path / "texts", "--labels", tmp_path / "labels.csv", "--tokens", 6)
    report = told(run("eval", exported, exported, *line, "--max-drop", 0, "--min-agreement", 1, "--json"))
    count = sum(len(row.split(",")[1].split()) for row in rows[1:])
    metrics = report["generation"][0]["metrics"]
    assert report["labelled"] == 10 and metrics["exact"] == 0.9
    assert metrics["WER"] == pytest.approx(1 / count) and 0 < metrics["CER"] < metrics["WER"] * 3
    failed = run("eval", exported, exported, *line, "--max-size", 0.5)
    assert failed.exit_code == 1 and "--max-size 0.5" in failed.stderr
    unlabelled = run("eval", exported, exported, "--data", tmp_path / "texts", "--max-drop", 1)
    assert unlabelled.exit_code == 1 and "cannot be checked" in unlabelled.stderr


def test_the_api_quantizes_and_compares_folders(exported, tmp_path):
    report = onnxq.quantize_folder(
        exported, tmp_path / "int8", tmp_path / "texts", effort=onnxq.Effort.FAST, samples=40
    )
    assert "4 models" in repr(report) and "decoder_model_merged.onnx" in report._repr_html_()
    found = onnxq.evaluate_folders(
        [exported, tmp_path / "int8"], tmp_path / "texts", tokens=4, samples=5, latency=False
    )
    assert found.steps <= 20 and found.generation[1].tokens is not None and found.generation[1].ratio is None
    assert "5 samples" in repr(found) and "same tokens" in found._repr_html_()
    for wrong in (lambda: onnxq.quantize_folder(exported / "encoder_model.onnx", tmp_path / "x"),
                  lambda: onnxq.evaluate_folders([], tmp_path / "texts")):  # fmt: skip
        with pytest.raises(OnnxqError, match=r"folder"):
            wrong()


def test_settings_of_a_folder_say_how_it_generates(tmp_path):
    config = {"decoder_start_token_id": 5, "eos_token_id": [1, 2], "forced_decoder_ids": [[1, 7], [2, 8], [4, 9]],
              "begin_suppress_tokens": [3], "suppress_tokens": None}  # fmt: skip
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    found = generation_settings(tmp_path)
    assert found.start == (5, 7, 8)  # the token of position 3 is the model's own
    assert found.rules.end == {1, 2} and found.rules.suppressed_first == (3,) and not found.rules.suppressed
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text('{"decoder": {"bos_token_id": 4}}')
    assert generation_settings(tmp_path).start == (4,)
    for content in ("{", "[]", '{"eos_token_id": "end"}', '{"forced_decoder_ids": [1]}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(OnnxqError):
            generation_settings(tmp_path)


def test_wrong_use_of_folders_is_one_line(exported, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "sounds.txt").write_text("x")
    texts, plain = ("--data", tmp_path / "texts"), exported / "encoder_model.onnx"
    for line, message in (
        ([exported, plain, *texts], "is no folder"),
        ([exported, tmp_path / "empty", *texts], "holds no .onnx file"),
        ([exported, exported, *texts, "--report", tmp_path / "r.html"], "of single models"),
        ([exported, exported, *texts, "--min-sqnr", 20], "of single models"),
        ([exported, exported, *texts, "--metric", "perplexity"], "of single models"),
        ([exported, exported, *texts, "--output", "logits"], "of single models"),
        ([exported, exported, *texts, "--state", "none"], "of single models"),
        ([plain, plain, *texts, "--tokens", 4], "of folders"),
        ([exported, exported, "--data", tmp_path / "none"], "no such data folder"),
        ([exported, exported, "--data", tmp_path / "empty"], "no sample found"),
    ):
        failed = run("eval", *line)
        assert failed.exit_code == 2 and message in failed.stderr, failed.stderr
        assert len(failed.stderr.splitlines()) == 1
    other = write_translator(tmp_path / "other", merged=False)
    (other / "encoder_model.onnx").unlink()
    failed = run("eval", exported, other, *texts)
    assert failed.exit_code == 2 and "no encoder lies beside it" in failed.stderr, failed.stderr
    (exported / "generation_config.json").unlink()
    failed = run("eval", exported, exported, *texts)
    assert failed.exit_code == 2 and "generation_config.json" in failed.stderr
