"""Names from models and data reach no terminal, parser or browser as anything but text."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from onnxq.evaluation.debugging import DebugReport, DebugRow
from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.evaluation.inspection import inspect_model
from onnxq.options import Effort, Limits, QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.report.escaping import printable, printable_lines, printable_report
from onnxq.report.files import WRITERS
from onnxq.report.quantize_text import quantize_text
from onnxq.report.text import debug_text, eval_text, inspect_text
from tests.conftest import CNN, SAMPLES

HOSTILE = (
    "\x1b[31m\x00\x07\x9b\x7f\u202e\u2028\ufffe\udc80\r\n![x](http://evil.example/p.png) [y](javascript:z) "
    "@octocat #12 !7 <img src=x> | `c` __i__ *b* ~~s~~ $\\\\frac$ www.evil.example & ' \""
)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    target = tmp_path_factory.mktemp("out") / "o.onnx"
    options = QuantizeOptions(
        CNN, SAMPLES / "calib", target, effort=Effort.FAST, samples=12, details=True,
        limits=Limits(min_sqnr=1, max_size=0.01), keep_failed=True,
    )  # fmt: skip
    return quantize(options)


def hostile(value):
    """A report with hostile text in every field that holds text."""
    from dataclasses import fields, is_dataclass

    if type(value) is str:
        return value + HOSTILE
    if is_dataclass(value):
        kept = ("op_type", "metric", "mode")
        return replace(value, **{f.name: hostile(getattr(value, f.name)) for f in fields(value) if f.init and f.name not in kept})  # fmt: skip
    if isinstance(value, list | tuple):
        return type(value)(hostile(each) for each in value)
    return value


@pytest.fixture(scope="module")
def reports(quantized):
    compared = evaluate(
        CNN, [type(CNN)(quantized.output)], SAMPLES / "eval",
        EvalOptions(labels=SAMPLES / "eval" / "labels.csv", samples=20, latency=False, limits=Limits(max_drop=1)),
    )  # fmt: skip
    return {"quantize": hostile(quantized), "eval": hostile(compared)}


def test_the_characters_that_a_terminal_obeys_are_escaped():
    assert printable("a\x1b[0m\n\u202e\udcff") == r"a\x1b[0m\n\u202e\udcff"
    assert printable("täxt → 中文 ✓") == "täxt → 中文 ✓"
    assert printable_lines("a\nb\x07") == "a\nb\\x07"


def test_every_text_of_a_report_is_escaped(reports):
    for report in reports.values():
        assert str(printable_report(report)).isprintable()


@pytest.mark.parametrize("name", ["quantize", "eval"])
def test_the_terminal_gets_printable_lines(reports, name):
    text = (quantize_text if name == "quantize" else eval_text)(reports[name], verbose=True)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\x1b[31m" in text


def test_the_other_commands_print_printable_lines():
    row = DebugRow(HOSTILE, HOSTILE, 1.0, 1.0, 0.0, 1.0, 0.5, 0, HOSTILE)
    found = inspect_model(CNN)
    for text in (
        debug_text(DebugReport(HOSTILE, HOSTILE, 1, [row], [row])),
        inspect_text(replace(found, model=HOSTILE)),
    ):
        assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("name", ["quantize", "eval"])
def test_junit_is_valid_xml(reports, name):
    root = ET.fromstring(WRITERS[".xml"].write(reports[name]))
    assert "![x](http://evil.example/p.png)" in root[0][0].get("classname")
    assert all(line.isprintable() for line in "".join(root.itertext()).split("\n"))


@pytest.mark.parametrize("name", ["quantize", "eval"])
def test_markdown_has_no_image_link_mention_or_markup(reports, name):
    text = WRITERS[".md"].write(reports[name]).decode()
    assert "octocat" in text
    for markup in (
        r"!\[",
        r"(?<!\\)[\[\]`*~$]",
        r"@octocat",
        r"(?<!&)#12",
        r"https?://",
        r"www\.",
        "<img",
        r"(?<!\\)__",
    ):
        found = re.search(markup, text.replace("**a gate failed**", "").replace("**all gates passed**", ""))
        assert found is None, (markup, found)
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("name", ["quantize", "eval"])
def test_pages_hold_the_names_as_text(reports, name):
    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found = set()

        def handle_starttag(self, tag, attributes):
            self.found.add((tag, dict(attributes).get("src")))

    tags, page = Tags(), WRITERS[".html"].write(reports[name]).decode()
    tags.feed(page)
    assert ("img", "x") not in tags.found
    assert all(line.isprintable() for line in page.split("\n"))


@pytest.mark.parametrize("name", ["quantize", "eval"])
def test_plots_take_dollar_signs_and_no_settings_of_the_current_folder(reports, name, tmp_path, monkeypatch):
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)  # runs latex
    assert WRITERS[".png"].write(reports[name]).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["quantize", "eval"])
def test_json_keeps_the_names_and_is_ascii(reports, name):
    text = WRITERS[".json"].write(reports[name]).decode("ascii")
    assert "\x1b" not in text
    assert HOSTILE in json.loads(text)["version" if name == "quantize" else "data"]
