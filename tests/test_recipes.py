"""CONTRIBUTING.md is true: its recipes have tests, its paths and names exist, help lists registered names."""

import re

import pytest

import onnxq
from onnxq.calibration.methods import METHODS
from onnxq.formats.writer import WRITERS
from onnxq.options import Format, Method, Mode, Rounding, Technique
from onnxq.pipeline import MODES
from onnxq.transforms.registry import rounding_names, technique_names
from tests.conftest import ROOT

RECIPES = {
    "A calibration method": "tests/calibration/test_recipe_method.py",
    "An operator": "tests/plan/test_recipe_operator.py",
    "A technique": "tests/transforms/test_recipe_technique.py",
    "A gradient rule": "tests/finetuning/test_recipe_rule.py",
    "An output format": "tests/formats/test_recipe_format.py",
    "A mode": "tests/modes/test_recipe_mode.py",
    "A CPU family": "tests/cost/test_recipe_cpu.py",
    "A kind of data": "tests/data/test_recipe_reader.py",
    "A score": "tests/evaluation/scores/test_recipe_score.py",
    "A kind of report": "tests/report/test_recipe_report.py",
    "A report field": "tests/report/test_reports.py",
    "A fix to mixed precision": "tests/search/test_mixed_precision.py",
    "A normalize pass": "tests/normalize/test_pass_contract.py",
}
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMES = re.findall(r"`(\w+)` in\s+`([\w/]+\.py)`", TEXT)
"""Names of Python objects that the document says are in a file."""


def recipes():
    """The text of each recipe, by its heading."""
    part = TEXT.split("## Where does ... go?\n")[1].split("\n## ")[0]
    headings = re.split(r"^### (.+)\n", part, flags=re.MULTILINE)
    return dict(zip(headings[1::2], headings[2::2], strict=True))


def test_every_recipe_names_its_test():
    named = {heading: re.findall(r"Test:\s+`(.+)`\.\s*$", text) for heading, text in recipes().items()}
    assert named == {heading: [path] for heading, path in RECIPES.items()}


@pytest.mark.parametrize("path", RECIPES.values())
def test_a_recipe_has_tests(path):
    assert "\ndef test_" in (ROOT / path).read_text(encoding="utf-8")


def test_every_path_exists():
    spans = re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    words = [word for span in re.findall(r"`([^`]+)`", spans) for word in span.split()]
    paths = {word for word in words if re.search(r"/|\.(py|md|toml)$", word) and "NAME" not in word}
    assert len(paths) > 60
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("name", "path"), NAMES, ids=lambda part: part)
def test_every_name_is_defined_in_its_file(name, path):
    definition = rf"^(class|def) {name}\b|^{name}(:.*)? = "
    assert re.search(definition, (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_names_are_found():
    assert len(NAMES) >= 20
    assert ("METHODS", "onnxq/calibration/methods.py") in NAMES


def test_every_folder_is_in_the_table_in_the_order_of_the_layers():
    listed = re.findall(r"^\| `onnxq/([\w/]+)/` \|", TEXT, flags=re.MULTILINE)
    package = ROOT / "onnxq"
    folders = {path.parent.relative_to(package).as_posix() for path in package.rglob("*/__init__.py")}
    assert set(listed) == folders
    layers = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]
    order = [name for name in re.findall(r"onnxq\.(\w+)", layers) if name in folders]
    assert order == [name for name in listed if "/" not in name]


@pytest.mark.parametrize(
    ("listed", "registered"),
    [
        (Method, {Method.AUTO, *METHODS}),
        (Format, set(WRITERS)),
        (Mode, {Mode.STATIC, Mode.AUTO, *MODES}),
        (Rounding, {Rounding.AUTO, *rounding_names()}),
        (Technique, set(technique_names())),
    ],
)
def test_help_lists_every_registered_name(listed, registered):
    assert set(listed) == registered


@pytest.mark.parametrize("option", ["method", "format", "mode", "rounding"])
def test_python_takes_no_unknown_name(option, tmp_path):
    with pytest.raises(onnxq.OnnxqError, match=f"--{option} none: unknown name: choose one of "):
        onnxq.quantize(tmp_path / "model.onnx", **{option: "none"})


def test_names_are_compared_by_value():
    """A name from a registry, or from the command line, is a plain string."""
    identity = re.compile(r"\bis (not )?(Method|Mode|Format|Rounding|Technique)\.")
    found = [
        path.name
        for path in (ROOT / "onnxq").rglob("*.py")
        if identity.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
