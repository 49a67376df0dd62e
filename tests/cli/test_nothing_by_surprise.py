"""A file that merely lies in the current folder runs no code; no file is overwritten that was not to be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from onnxq.cli.commands import main
from onnxq.data.python_functions import import_function
from onnxq.errors import DataError
from tests.conftest import CNN, ROOT, SAMPLES

FAST = ("--effort", "fast", "--samples", "8")
CODE = 'from pathlib import Path\nPath("RAN").touch()\ndef f(*_): return 1.0\n'


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copy(CNN, "model.onnx")
    shutil.copytree(SAMPLES / "calib", "data", ignore=lambda _, names: sorted(names)[12:])
    Path("evil.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("evil", None)


def onnxq(*arguments):
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def quantize(*extra):
    return onnxq("quantize", "model.onnx", "--calib", "data", *FAST, *extra)


def options_with(attribute):
    return {
        (name, option.opts[-1])
        for name, command in main.commands.items()
        for option in command.params
        if getattr(option, attribute, False)
    }


def test_every_option_that_runs_code_or_writes_is_marked():
    assert options_with("function") == {
        (name, option.opts[-1])
        for name, command in main.commands.items()
        for option in command.params
        if isinstance(option, click.Option) and "function" in f"{option.help} {option.metavar}".lower()
        and option.opts[-1] in ("--calib", "--data", "--metric", "--decoder")
    } | {("quantize", "--data"), ("finetune", "--data"), ("drift", "--reference")}  # fmt: skip
    assert options_with("writes") == {
        *(
            (command, "--force")
            for command in (
                "quantize",
                "finetune",
                "calibrate",
                "eval",
                "debug",
                "record",
                "init",
                "preview",
                "profile",
            )
        ),
        *((command, "--report") for command in ("quantize", "finetune", "eval", "debug")),
        *(
            (command, each)
            for command in ("quantize", "finetune", "eval")
            for each in ("--junit", "--markdown")
        ),
        *(("quantize", "--output"), ("finetune", "--output"), ("finetune", "--checkpoint")),
        *((command, "--output") for command in ("calibrate", "record", "init", "preview", "profile")),
    }


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ('metric = "evil:f"\nmax-drop = 1', "--metric"),
        ('metric = "text"\ndecoder = "evil:f"\nmax-drop = 1', "--decoder"),
        ('data = "evil:f"\nmax-drop = 1', "--data"),
        ('calib = "evil:f"', "--calib"),
        ('calib = "./evil:f"', "--calib"),
        ('calib = "evil:f/"', "--calib"),
        ("force = true", "--force"),
        ('output = "out.onnx"', "--output"),
        ('report = ["out.json"]', "--report"),
        ('report = "out.json"', "--report"),
        ('junit = "out.xml"', "--junit"),
        ('markdown = "out.md"', "--markdown"),
    ],
)
def test_a_file_that_was_found_neither_runs_code_nor_writes(work, line, option):
    Path("onnxq.toml").write_text(f"[quantize]\n{line}\n")
    result = onnxq("quantize", "model.onnx", *(() if option == "--calib" else ("--calib", "data")), *FAST)
    assert result.exit_code == 2
    assert f"onnxq.toml in the current folder sets {option}, which" in result.stderr
    assert not Path("RAN").exists()
    assert not list(work.glob("out.*"))
    assert not Path("model.int8.onnx").exists()


def test_a_decoder_without_a_function_runs_nothing(work):
    Path("onnxq.toml").write_text('[quantize]\nmetric = "text"\ndecoder = "evil"\nmax-drop = 1\n')
    result = quantize()
    assert result.exit_code == 2
    assert "evil: not a Python function" in result.stderr
    assert not Path("RAN").exists()


def test_a_file_that_is_named_may_do_all_that(work):
    Path("mine.py").write_text(
        "import numpy as np\ndef f(): return [np.ones((1, 1, 8, 8), np.float32)] * 8\n"
    )
    Path("onnxq.toml").write_text(
        '[quantize]\ncalib = "mine:f"\noutput = "out.onnx"\nforce = true\nreport = "out.json"\n'
    )
    for _ in range(2):
        assert onnxq("--config", "onnxq.toml", "quantize", "model.onnx", *FAST).exit_code == 0
    assert Path("out.onnx").is_file() and Path("out.json").is_file()
    assert quantize("-o", "out.onnx").exit_code == 2  # its other lines are still refused
    Path("onnxq.toml").write_text('[quantize]\noutput = "out.onnx"\n')
    assert quantize("-o", "mine.onnx").exit_code == 0  # the command line names another file


def test_modules_in_the_current_folder_are_not_imported(work):
    names = [
        "click",
        "numpy",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "threadpoolctl",
        "tqdm",
        "jinja2",
        "PIL",
        "pathlib",
        "re",
        "tomllib",
    ]
    for name in names:
        Path(f"{name}.py").write_text(
            f"from builtins import open\nopen('RAN_{name}', 'w')\nraise ImportError\n"
        )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    commands = (
        ["quantize", "model.onnx", "--calib", "data", *FAST, "-o", "o.onnx", "--report", "r.html"],
        ["bench", "model.onnx", "--runs", "5", "--seconds", "0.1"],
    )
    for arguments in commands:
        done = subprocess.run([sys.executable, "-m", "onnxq", *arguments], env=environment, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert not list(work.glob("RAN*"))
    assert "13" not in done.stderr


def test_a_named_function_is_found_in_the_current_folder_with_what_it_imports(work):
    Path("first.py").write_text(
        "import second\nimport numpy as np\ndef f():\n    import third\n    return [np.ones((1, 1, 8, 8), np.float32)] * 8\n"
    )
    Path("second.py").touch()
    Path("third.py").touch()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "onnxq", "quantize", "model.onnx", "--calib", "first:f", *FAST]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_current_folder_comes_last_once_a_module_is_imported(work):
    import_function("evil:f")
    assert sys.path[0] != str(work)
    assert sys.path[-1] == str(work)


@pytest.mark.parametrize(
    "text", ["exit(0)", "raise SystemExit", "raise KeyError", "f = 3", "def g(): pass", "("]
)
def test_a_module_that_fails_is_an_error(work, text):
    Path("bad_module.py").write_text(text)
    with pytest.raises(DataError, match="bad_module"):
        import_function("bad_module:f")
    sys.modules.pop("bad_module", None)


@pytest.mark.parametrize("reference", ["os", "os:", ":f", "os:path.join", "os path:f", ""])
def test_only_a_module_and_a_function_are_imported(reference):
    with pytest.raises(DataError, match="not a Python function"):
        import_function(reference)


def special_files():
    os.mkfifo("pipe")
    Path("real.onnx").write_text("real")
    Path("link").symlink_to("real.onnx")
    Path("dangling").symlink_to("nothing.onnx")
    return {
        name: Path(name).lstat()
        for name in ("/dev/null", "/dev/full", "pipe", "link", "dangling", "real.onnx")
    }


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("name", ["/dev/null", "/dev/full", "pipe", "link", "dangling"])
def test_only_regular_files_are_replaced(work, name, force):
    before = special_files()
    common = ("--data", "data", "--no-latency")
    for result in (
        quantize("-o", name, *force),
        quantize("-o", "o.onnx", "--junit", name, *force),
        onnxq("calibrate", "model.onnx", "--calib", "data", "-o", name, *force),
        onnxq("eval", "model.onnx", "model.onnx", *common, "--markdown", name, *force),
    ):
        assert result.exit_code == 2
        assert f"{name}: is a" in result.stderr
        assert "only regular files are replaced" in result.stderr
    assert not Path("o.onnx").exists()  # nothing was done before
    after = {name: Path(name).lstat() for name in before}
    assert all(
        (a.st_mode, a.st_ino) == (b.st_mode, b.st_ino)
        for a, b in zip(before.values(), after.values(), strict=True)
    )


def test_reports_follow_force_and_are_checked_first(work):
    for name in ("r.json", "r.xml", "r.md"):
        Path(name).write_text("mine")
    evaluate = ("eval", "model.onnx", "model.onnx", "--data", "data", "--no-latency", "--samples", 4)
    for option, name in (("--report", "r.json"), ("--junit", "r.xml"), ("--markdown", "r.md")):
        for result in (quantize(option, name), onnxq(*evaluate, option, name)):
            assert result.exit_code == 2
            assert f"{name}: exists already" in result.stderr
        assert not Path("model.int8.onnx").exists()
        assert Path(name).read_text() == "mine"
        assert onnxq(*evaluate, option, name, "--force").exit_code == 0
        assert Path(name).read_text() != "mine"
    assert onnxq("debug", "model.onnx", "model.onnx", "--data", "data", "--report", "r.json").exit_code == 2


def test_no_input_is_overwritten(work):
    shutil.copy("model.onnx", "model.xml")
    Path("labels.csv").write_text("file,label\n")
    os.link("model.onnx", "hard.onnx")
    for result in (
        onnxq("eval", "model.xml", "model.xml", "--data", "data", "--junit", "model.xml", "--force"),
        onnxq(
            "eval",
            "model.onnx",
            "model.onnx",
            "--data",
            "data",
            "--labels",
            "labels.csv",
            "--markdown",
            "labels.csv",
            "--force",
        ),
        quantize("-o", "hard.onnx", "--force"),
        quantize("-o", "./data/../model.onnx", "--force"),
        quantize("--max-drop", 1, "--labels", "labels.csv", "-o", "labels.csv", "--force"),
    ):
        assert result.exit_code == 2
        assert "is the input" in result.stderr
    assert Path("model.onnx").read_bytes() == CNN.read_bytes() == Path("model.xml").read_bytes()
    assert Path("labels.csv").read_text() == "file,label\n"


def test_two_files_of_one_command_have_two_names(work):
    for arguments in (("--junit", "a", "--markdown", "./a"), ("-o", "a.xml", "--report", "data/../a.xml")):
        result = quantize(*arguments)
        assert result.exit_code == 2
        assert "goes there: choose another file" in result.stderr


def test_an_earlier_rejected_file_is_kept_without_force(work):
    assert quantize("-o", "a.onnx", "--max-size", 0.01).exit_code == 1
    before = Path("a.rejected.onnx").read_bytes()
    Path("a.rejected.onnx").write_bytes(before + b"mine")
    assert quantize("-o", "a.onnx", "--max-size", 0.01).exit_code == 2
    assert Path("a.rejected.onnx").read_bytes() == before + b"mine"
    assert quantize("-o", "a.onnx", "--max-size", 0.01, "--force").exit_code == 1
    assert Path("a.rejected.onnx").read_bytes() == before


@pytest.mark.parametrize("mode", ["static", "auto", "fp16"])
def test_missing_folders_are_created_and_a_folder_gets_the_default_name(work, mode):
    kind = "fp16" if mode == "fp16" else "int8"
    result = quantize("--mode", mode, "-o", "new/deep/", "--report", "other/r.json")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in Path("new/deep").iterdir()] == [f"model.{kind}.onnx"]
    assert Path("other/r.json").is_file()


def test_more_names_of_folders(work):
    assert onnxq("calibrate", "model.onnx", "--calib", "data", "-o", "stats/").exit_code == 0
    assert Path("stats/model.stats.npz").is_file()
    Path("here").mkdir()
    assert quantize("-o", "here/.").exit_code == 0
    assert Path("here/model.int8.onnx").is_file()
    assert "is a folder" in quantize("-o", "here").stderr
    assert "names a folder" in quantize("--junit", "here/").stderr

    import onnxq as api

    report = api.quantize("model.onnx", "data", "api/", effort=api.Effort.FAST)
    assert report.output == "api/model.int8.onnx"


def test_a_folder_that_a_failure_leaves_empty_is_removed(work):
    np.save("data/000.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    for mode in ("static", "auto"):
        assert quantize("-o", "new/deep/o.onnx", "--mode", mode).exit_code == 2
        assert not Path("new").exists()
