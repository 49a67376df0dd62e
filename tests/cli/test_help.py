"""Help of the commands: options in groups, an example, a page to read, and no slow import."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from onnxq.cli.commands import COMMANDS, main
from onnxq.cli.groups import GroupedOption, OptionGroup

DOCS = Path(__file__).parents[2] / "docs"
OPTIONS = [
    (name, option)
    for name, command in main.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.hidden
]
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "threadpoolctl", "tqdm", "PIL", "matplotlib", "jinja2")


def help_of(*command, width=80):
    result = CliRunner().invoke(main, [*command, "--help"], terminal_width=width)
    assert result.exit_code == 0, result.output
    return result.output


def sections(text):
    """The lines of each section of a help text, by heading."""
    found, heading = {}, ""
    for line in text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            heading = line.removesuffix(":")
        found.setdefault(heading, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda part: getattr(part, "name", part))
def test_an_option_is_in_a_group_and_its_help_is_one_sentence(command, option):
    assert isinstance(option, GroupedOption)
    assert option.group in OptionGroup
    assert re.fullmatch(r"[A-Z].*\w\)?\.", option.help), option.help
    assert ". " not in option.help
    section = sections(help_of(command))[option.group]
    assert all(name in section for name in (*option.opts, *option.secondary_opts))
    assert not any(name in help_of(command) for name in option.aliases)


def test_the_reference_names_every_option_of_every_command():
    pages = re.split(r"^## onnxq ", (DOCS / "reference.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    by_command = {page.split("\n", 1)[0]: page for page in pages[1:]}
    assert set(by_command) == set(main.commands)
    for command, option in OPTIONS:
        for name in (*option.opts, *option.secondary_opts):
            assert re.search(rf"(?<![\w-]){name}(?![\w-])", by_command[command]), f"{command} {name}"


def test_help_of_quantize_has_a_section_for_each_group():
    headings = [heading for heading in sections(help_of("quantize")) if heading in set(OptionGroup)]
    assert headings == [group for group in OptionGroup if group is not OptionGroup.TRAINING]
    assert [heading.split()[0] for heading in headings] == [
        "Data", "Mode", "Accuracy", "Speed", "Weight-only", "Output", "Gates", "Metric", "General",
    ]  # fmt: skip


@pytest.mark.parametrize("command", main.commands)
def test_help_ends_with_an_example_that_parses_and_a_page_that_exists(command):
    lines = help_of(command).splitlines()
    page = re.fullmatch(r"Documentation: (docs/\S+) in the repository", lines[-1])
    assert page is not None
    assert (DOCS.parent / page[1]).is_file()
    start = max(i for i, line in enumerate(lines) if line in ("Example:", "Examples:"))
    examples = [line.split() for line in lines[start + 1 : -2]]
    assert (examples[0][0], examples[0][1]) == ("onnxq", command)
    for _, name, *arguments in examples:
        main.commands[name].make_context(name, arguments)  # raises for an unknown option


@pytest.mark.parametrize("command", main.commands)
@pytest.mark.parametrize("width", [80, 100])
def test_help_fits_the_terminal(command, width):
    lines = help_of(command, width=width).splitlines()
    assert all(len(line) <= width for line in lines if not line.startswith("  onnxq "))


def test_help_lists_the_commands_in_order_of_use():
    assert list(main.commands) == [
        "inspect", "init", "preview", "record", "quantize", "finetune", "calibrate", "eval", "debug", "drift",
            "profile", "bench",
    ]  # fmt: skip
    found = re.findall(r"^  (\w+)  ", sections(help_of())["Commands"], flags=re.MULTILINE)
    assert found == list(main.commands)


def test_a_repeatable_option_says_so():
    for command, option in OPTIONS:
        assert option.multiple == option.help.endswith("repeatable."), f"{command} {option.name}"


def test_help_and_version_import_nothing_heavy():
    code = "import sys\nfrom click.testing import CliRunner\nfrom onnxq.cli.commands import main\n"
    code += "for arguments in (['--version'], ['--help'], *([name, '--help'] for name in main.commands)):\n"
    code += "    assert CliRunner().invoke(main, arguments).exit_code == 0\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert CliRunner().invoke(main, ["--version"]).output.startswith("onnxq, version ")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("onnxq quantize m.onnx --preprocess im", {"plain,imagenet", "plain,imagenet-nhwc"}),
        ("onnxq eval m.onnx --labels ", {"plain,folders", "file,"}),
        ("onnxq eval m.onnx --metric seg", {"plain,segmentation"}),
        ("onnxq quantize m.onnx --decoder yolov", {"plain,yolov8", "plain,yolov5"}),
        ("onnxq quantize mod", {"file,mod"}),
    ],
)
def test_values_are_completed(words, found, monkeypatch):
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    monkeypatch.setenv("_ONNXQ_COMPLETE", "bash_complete")
    result = CliRunner().invoke(main, prog_name="onnxq")
    assert set(result.output.split()) == found


def test_the_table_of_commands_says_what_they_say():
    assert {name: text for name, (_, text) in COMMANDS.items()} == {
        name: command.get_short_help_str(limit=200) for name, command in main.commands.items()
    }


def test_help_loads_no_command():
    code = "import sys, onnxq.cli.commands as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(*(name for name in sys.modules if name.startswith('onnxq.cli.')), file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert {f"onnxq.cli.{module}" for module, _ in COMMANDS.values()}.isdisjoint(loaded.split())
