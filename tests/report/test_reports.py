import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import numpy as np
import onnx
import pytest
from PIL import Image

from onnxq.errors import OnnxqError, OutputError
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.options import Effort, Limits, QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.report.files import WRITERS, as_text, check_reports, write_reports
from onnxq.report.html import measurement_date, page
from tests.conftest import CNN, SAMPLES, TRANSFORMER

DOCS = Path(__file__).parents[2] / "docs"
HOSTILE = "<script>alert(1)</script>|x"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The sample network with names that want to be code."""
    path = tmp_path_factory.mktemp("hostile") / "model.onnx"
    model = onnx.load(CNN)
    for i, node in enumerate(model.graph.node):
        node.name = f"{HOSTILE}{i}"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def quantized(hostile):
    limits = Limits(min_sqnr=20, max_size=0.01)
    options = QuantizeOptions(
        hostile, SAMPLES / "calib", effort=Effort.FAST, samples=40, details=True, limits=limits
    )
    return quantize(options)


@pytest.fixture(scope="module")
def evaluated(quantized):
    options = EvalOptions(
        labels=SAMPLES / "eval" / "labels.csv", samples=60, limits=Limits(max_drop=0.5, min_sqnr=190)
    )
    return evaluate(Path(quantized.model), [Path(quantized.output)], SAMPLES / "eval", options)


def test_layers_are_near_float_and_timed(quantized):
    convolutions = [row for row in quantized.layers if row.op_type == "Conv"]
    assert len(convolutions) > 4
    assert all(row.sqnr_db > 20 and row.int8_ms > 0 and row.float_ms > 0 for row in convolutions)
    assert sum(row.macs for row in quantized.layers) == pytest.approx(1)


def test_histograms_hold_all_counted_values_and_show_the_clipped_share(quantized):
    assert {row.name for row in quantized.histograms} == set(quantized.ranges)
    for row in quantized.histograms:
        assert len(row.counts) == 64
        assert row.minimum <= row.maximum
        assert 0 <= row.clipped < 0.01
        assert sum(row.counts) > 0


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("model", [CNN, TRANSFORMER])
def test_details_of_every_form(model, form, tmp_path):
    options = QuantizeOptions(
        model,
        SAMPLES / "calib",
        tmp_path / "o.onnx",
        effort=Effort.FAST,
        samples=16,
        details=True,
        format=form,
    )
    report = quantize(options)
    assert any(row.int8_ms for row in report.layers)
    assert all(row.sqnr_db > 10 for row in report.layers if row.sqnr_db is not None)
    assert form == "qoperator" or any(row.sqnr_db for row in report.layers)


@pytest.mark.parametrize("name", ["quantized", "evaluated"])
def test_json_follows_its_schema(name, request):
    report = request.getfixturevalue(name)
    schema = json.loads(
        (DOCS / "schema" / f"{'eval' if name == 'evaluated' else 'quantize'}.json").read_text()
    )
    found = json.loads(as_text(report))
    jsonschema.validate(found, schema)
    assert found["schema"] == schema["properties"]["schema"]["default"] == 3
    del found["warnings"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"gates": 3}, schema)


def test_json_has_no_number_that_is_none(evaluated):
    assert json.loads(as_text({"a": [np.inf, float("nan"), 1.0]})) == {"a": [None, None, 1.0]}


@pytest.mark.parametrize("name", ["quantized", "evaluated"])
def test_pages_escape_names_and_need_nothing_else(name, request):
    page = WRITERS[".html"].write(request.getfixturevalue(name)).decode()
    own = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(own) == 1
    assert len(re.findall(r"<script", page)) == (2 if name == "quantized" else 1)  # facts are JSON
    digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    )
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert not re.findall(r"url\(|@import|https?:", page)
    assert len(page) < 3_000_000
    if name == "quantized":
        assert "&lt;script&gt;alert(1)" in page


def test_the_same_report_gives_the_same_page(quantized):
    assert page(quantized, "2026-01-01") == page(quantized, "2026-01-01")
    assert "2026-01-01" in page(quantized, "2026-01-01")


def test_the_date_of_a_page_can_be_set_and_pages_without_times_have_none(quantized, evaluated, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert measurement_date(quantized) == measurement_date(evaluated) == "1970-01-02"
    untimed = replace(evaluated, scores=[replace(score, latency_ms=None) for score in evaluated.scores])
    assert measurement_date(untimed) == ""


@pytest.mark.parametrize("name", ["quantized", "evaluated"])
def test_pages_say_where_they_come_from(name, request):
    report = request.getfixturevalue(name)
    shown = page(replace(report, origin=replace(report.origin, command="onnxq eval 'a b' <x>")))
    assert "onnxq eval &#39;a b&#39; &lt;x&gt;" in shown
    assert len(report.origin.digests) == 3
    for digest in report.origin.digests.values():
        assert digest in shown
    model, key = (report.scores[0].model,) * 2 if name == "evaluated" else (report.model, "float model")
    assert report.origin.digests[key] == hashlib.sha256(Path(model).read_bytes()).hexdigest()


def test_the_graph_shows_every_layer_and_its_facts(quantized):
    shown = page(quantized)
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', shown, re.DOTALL)[1])
    assert [node[0] for node in facts["nodes"]] == [row.name for row in quantized.layers]
    assert len(re.findall(r'<g id="n\d+"', shown)) == len(quantized.layers)
    assert facts["total"] == pytest.approx(sum(row.int8_ms or 0 for row in quantized.layers), rel=1e-3)
    for i, row in enumerate(quantized.layers):
        assert all(j < i for j in row.inputs)
    chain = {row.op_type for i in quantized.layers[-1].inputs for row in [quantized.layers[i]]}
    assert chain
    numbers = {name: i for i, (name, *_) in enumerate(facts["tensors"])}
    planned = [node for node in facts["nodes"] if node[3]]
    assert any(node[9] in numbers.values() for node in planned)
    convolutions = [node for node in planned if node[1] == "Conv"]
    assert all(node[9] is not None for node in convolutions)  # behind their Relu


def test_a_time_counts_for_one_layer(quantized):
    timed = [row.int8_ms for row in quantized.layers if row.int8_ms]
    relus = [row for row in quantized.layers if row.op_type == "Relu"]
    assert len(timed) >= 5
    assert all(row.int8_ms is None for row in relus)  # fused


@pytest.mark.parametrize("name", ["quantized", "evaluated"])
def test_failed_gates_are_in_every_report(name, request):
    report = request.getfixturevalue(name)
    (failed,) = [gate for gate in report.gates if not gate.holds]
    suite = ET.fromstring(WRITERS[".xml"].write(report))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    times = [float(case.get("time")) for case in suite]
    assert sum(times) == pytest.approx(float(suite.get("time")), abs=0.01)
    assert min(times) > 0
    assert [case.get("name") for case in suite if case.find("failure") is not None] == [
        f"{failed.name} {failed.limit:g}"
    ]
    text = WRITERS[".md"].write(report).decode()
    assert "**a gate failed**" in text
    assert f"❌ {failed.line}" in text
    assert "✗" in WRITERS[".html"].write(report).decode()


def test_markdown_tables_have_as_many_cells_in_every_row(evaluated, quantized):
    hostile = replace(quantized, output=f"a|b{HOSTILE}")
    for report in (evaluated, hostile):
        width = None
        for line in WRITERS[".md"].write(report).decode().splitlines():
            if not line.startswith("|"):
                width = None
                continue
            bars = len(re.findall(r"(?<!\\)\|", line))
            width = width or bars  # of the table's first row
            assert bars == width
            assert "<script" not in line


@pytest.mark.parametrize("name", ["quantized", "evaluated"])
def test_plots_are_pictures(name, request, tmp_path):
    report = request.getfixturevalue(name)
    (tmp_path / "p.png").write_bytes(WRITERS[".png"].write(report))
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert image.width > 600


def test_worst_samples_that_are_images_are_shown(tmp_path):
    random = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(random.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / f"{i}.png")
    form = tmp_path / "p.toml"
    form.write_text('[preprocess]\nchannels = "GRAY"\nmean = 0\nstd = 16\n')
    report = evaluate(CNN, [CNN], tmp_path, EvalOptions(preprocess=str(form), latency=False))
    page = WRITERS[".html"].write(report).decode()
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(pictures) == 4
    assert base64.b64decode(pictures[0])[:3] == b"\xff\xd8\xff"


def test_a_report_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    for path, kind, error in (
        (tmp_path / "a.pdf", ".pdf", OnnxqError),
        (tmp_path / "file" / "a.md", ".md", OutputError),
        (tmp_path / "file", ".md", OutputError),
        (Path("/dev/null"), ".md", OutputError),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(error):
            check_reports({path: kind})


def test_reports_are_written_at_once(tmp_path, evaluated):
    files = {tmp_path / f"r{kind}": kind for kind in WRITERS}
    write_reports(evaluated, files)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}


def test_a_baseline_is_compared_and_gates(tmp_path, evaluated):
    earlier = json.loads(as_text(evaluated))
    del earlier["checksum"]  # it is changed on purpose
    for score in earlier["scores"]:
        score["metrics"]["top-1"]["value"] = 1.5
    (tmp_path / "last.json").write_text(json.dumps(earlier))
    paths = Path(evaluated.scores[0].model), Path(evaluated.scores[1].model)
    options = EvalOptions(
        labels=SAMPLES / "eval" / "labels.csv",
        samples=60,
        latency=False,
        baseline=tmp_path / "last.json",
        limits=Limits(max_drop=5),
    )
    report = evaluate(paths[0], [paths[1]], SAMPLES / "eval", options)
    assert report.scores[1].before["top-1"] == 1.5
    assert [gate.name for gate in report.gates if not gate.holds] == ["--max-drop since --baseline"] * 2
    assert re.search(r"\(-\d+\.\d+\)", WRITERS[".md"].write(report).decode())
    for text in ("[]", '{"scores": [{"model": "m", "metrics": []}]}'):
        (tmp_path / "last.json").write_text(text)
        with pytest.raises(OnnxqError, match="not a report of onnxq eval"):
            evaluate(paths[0], [], SAMPLES / "eval", options)


def test_generated_documentation_is_up_to_date():
    pins = dict(line.split("==") for line in (DOCS.parent / "constraints.txt").read_text().split())
    if any(metadata.version(name) != pins[name] for name in ("click", "pydantic")):
        pytest.skip("older versions of click and pydantic word help texts and schemas differently")
    result = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
