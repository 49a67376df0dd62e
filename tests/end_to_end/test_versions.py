"""The declared versions are the tested ones."""

import re
import tomllib
from importlib.metadata import version

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from onnxq.version import __version__
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("images", "audio", "text", "tables", "report", "test")


def declared():
    """Requirements of onnxq and of its extras, without those on itself."""
    lines = PROJECT["dependencies"] + [
        line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]
    ]
    return [Requirement(line) for line in lines]


def pinned(name):
    lines = (ROOT / name).read_text().split()
    return {canonicalize_name(line.partition("==")[0]): Version(line.partition("==")[2]) for line in lines}


def test_the_lowest_environment_holds_exactly_the_lowest_declared_versions():
    pins = pinned("constraints-lowest.txt")
    for each in declared():
        (bound,) = each.specifier
        assert bound.operator == ">="
        assert pins[canonicalize_name(each.name)] == Version(bound.version), each.name


def test_the_newest_environment_holds_versions_that_are_declared():
    pins = pinned("constraints.txt")
    assert all(pins[canonicalize_name(each.name)] in each.specifier for each in declared())


def test_the_installed_versions_are_declared():
    assert all(version(each.name) in each.specifier for each in declared())


def test_the_workflow_tests_every_declared_python_and_system():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    pythons = {step["with"]["python-version"] for step in jobs["checks"]["steps"] if "with" in step}
    pythons |= set(jobs["pythons"]["strategy"]["matrix"]["python"])
    named = set(re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE))
    assert pythons == named == {"3.11", "3.12", "3.13", "3.14"}
    assert set(jobs["systems"]["strategy"]["matrix"]["system"]) == {"windows-latest", "macos-latest"}
    commands = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert {"make test", "make test-lowest", ".ci/run"} <= set(commands)


def test_messages_name_packages_that_exist():
    """The name onnxq is not one of the index's: errors name the packages that are missing themselves."""
    extras = [Requirement(line) for each in PROJECT["optional-dependencies"].values() for line in each]
    known = {canonicalize_name(each.name) for each in extras} - {"onnxq"}
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "onnxq").rglob("*.py"))
    found = re.findall(r"pip install ([\w \-']+)", source)
    assert len(found) >= 6
    assert {canonicalize_name(word) for words in found for word in words.split()} <= known


def test_the_conda_recipe_has_the_version_and_requirements_of_the_project():
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == __version__
    needed = {line.replace(" >=", ">=") for line in recipe["requirements"]["run"]}
    assert needed == {f"python{PROJECT['requires-python']}", *PROJECT["dependencies"]}
    assert recipe["about"]["summary"] == PROJECT["description"]
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert entry == f"onnxq = {PROJECT['scripts']['onnxq']}"
