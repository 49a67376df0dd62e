"""The commands of the tutorials run as they are written, one after the other."""

import re
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import tutorials

PAGES = sorted((ROOT / "docs").glob("tutorial-*.md"))
QUICK = ("tutorial-recording.md", "tutorial-ci.md")
"""Tutorials that need nothing from elsewhere and no training."""
NUMBERS = re.compile(r"[-+]?\d[\d.]*")


def text_of(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def first_lines(page):
    """The first line under each command, without numbers and spaces, which depend on the machine."""
    shown = [step.text.partition("\n")[0] for step in tutorials.steps(page) if step.command and step.text]
    return [re.sub(r"\s+", " ", NUMBERS.sub("0", line)) for line in shown if line != tutorials.LEFT_OUT]


def check(name, folder):
    page = text_of(name)
    printed = tutorials.run(page, folder)
    assert first_lines(tutorials.with_outputs(page, printed)) == first_lines(page)


def test_the_first_steps(tmp_path):
    page = text_of("first-steps.md")
    commands = [step.command.split()[1] for step in tutorials.steps(page)]
    assert commands == ["inspect", "quantize", "eval", "debug"]
    check("first-steps.md", tmp_path)
    assert {"digits.int8.onnx", "quantize.html", "eval.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", QUICK)
def test_quick_tutorials(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [page.name for page in PAGES if page.name not in QUICK])
def test_tutorials(name, tmp_path):
    """Some download a package with the model."""
    pytest.importorskip("gguf") if "language-model" in name else None
    check(name, tmp_path)


def test_every_tutorial_is_listed():
    index = text_of("tutorials.md")
    assert all(f"({page.name})" in index for page in PAGES)


PAGE = """
```python title="a.py"
print("hello")
print(1.5)
```

```console
$ pip install nothing
$ python a.py
old
...
2.5
$ mkdir b && cd b
$ python ../a.py | sed -n 1p
old
```
"""


def test_outputs_are_written_into_the_page(tmp_path):
    printed = tutorials.run(PAGE, tmp_path)
    assert tutorials.with_outputs(PAGE, printed) == PAGE.replace("old\n...\n2.5", "hello\n...\n1.5").replace(
        "sed -n 1p\nold", "sed -n 1p\nhello"
    )


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"^python a.py nothing && false: exit code 1\nhello"):
        tutorials.run(PAGE.replace("python a.py", "python a.py nothing && false", 1), tmp_path)
