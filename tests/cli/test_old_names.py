"""Old names of options: accepted on the command line, in `onnxq.toml` and as keywords, and never shown."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.cli.config import keys_of, read_config
from onnxq.options import QuantizeOptions

ALIASES = [
    (command, alias, option.name)
    for command, each in main.commands.items()
    for option in each.params
    for alias in getattr(option, "aliases", ())
]


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """The options that each call of `quantize` ends with."""
    import onnxq.api
    import onnxq.pipeline

    def record(options, *_):
        found.append(options)
        raise onnxq.OnnxqError("recorded")

    found = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnxq.pipeline, "quantize", record)
    monkeypatch.setattr(onnxq.api, "run_quantize", record)
    (tmp_path / "m.onnx").write_bytes(b"")
    return found


def quantize(*arguments):
    result = CliRunner().invoke(main, ["quantize", "m.onnx", "--calib", "data", *arguments])
    assert "error: recorded" in result.output


def test_the_old_names_are_these():
    assert [(name, "--give-back", "skip_slow_nodes") for name in ("quantize", "finetune")] == ALIASES


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), True),
        (("--skip-slow-nodes",), True),
        (("--all-int8",), False),
        (("--all-int8", "--give-back"), True),
        (("--give-back", "--all-int8"), False),
    ],
)
def test_on_the_command_line(chosen, arguments, expected):
    quantize(*arguments)
    assert chosen[0].skip_slow_nodes is expected


@pytest.mark.parametrize("key", ["skip-slow-nodes", "skip_slow_nodes", "give-back", "give_back"])
@pytest.mark.parametrize("value", [True, False])
def test_in_the_configuration_file(chosen, key, value):
    Path("onnxq.toml").write_text(f"[quantize]\n{key} = {str(value).lower()}\n")
    quantize()
    quantize("--skip-slow-nodes")
    assert [options.skip_slow_nodes for options in chosen] == [value, True]


def test_a_wrong_key_is_answered_without_old_names(tmp_path):
    file = tmp_path / "onnxq.toml"
    file.write_text("[quantize]\nwrong = 1\n")
    with pytest.raises(onnxq.OnnxqError, match="skip-slow-nodes") as error:
        read_config(file, {"quantize": keys_of(main.commands["quantize"].params)})
    assert "give-back" not in str(error.value)


def test_as_keywords(chosen):
    for keywords in ({"give_back": False}, {"skip_slow_nodes": False}):
        assert QuantizeOptions(Path("m.onnx"), **keywords).skip_slow_nodes is False
        with pytest.raises(onnxq.OnnxqError, match="recorded"):
            onnxq.quantize("m.onnx", "data", **keywords)
    assert [options.skip_slow_nodes for options in chosen] == [False, False]
    options = QuantizeOptions(Path("m.onnx"))
    assert options.skip_slow_nodes is True
    assert replace(options, give_back=False).skip_slow_nodes is False
    assert replace(replace(options, give_back=False), samples=3).skip_slow_nodes is False


def test_old_names_complete_no_command_line(monkeypatch):
    monkeypatch.setenv("COMP_WORDS", "onnxq quantize --")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setenv("_ONNXQ_COMPLETE", "bash_complete")
    result = CliRunner().invoke(main, prog_name="onnxq")
    assert "--skip-slow-nodes" in result.output
    assert "--give-back" not in result.output
