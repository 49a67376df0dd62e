"""The contract of the command line: results, exit codes, one-line errors, no partly written files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxq.cli.commands import main
from tests.conftest import CNN, SAMPLES, TRANSFORMER, normal, parse

CALIB = SAMPLES / "calib"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with the sample model and 16 samples, as the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(CNN, "model.onnx")
    Path("data").mkdir()
    for file in sorted(CALIB.glob("*.npy"))[:16]:
        shutil.copy(file, "data")
    return tmp_path


def onnxq(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def quantize(*extra, model="model.onnx", data="data"):
    return onnxq("quantize", model, "--calib", data, *extra)


def listing(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


def test_quantize_writes_beside_the_model_and_says_what_it_did(work):
    before = Path("model.onnx").read_bytes()
    result = quantize("--method", "percentile")
    assert result.exit_code == 0
    assert "model.int8.onnx" in result.stdout
    assert "100.0% of the MACs of 7 planned nodes" in result.stdout
    assert Path("model.onnx").read_bytes() == before
    properties = {p.key: p.value for p in onnx.load("model.int8.onnx").metadata_props}
    assert set(properties) == {"onnxq.version", "onnxq.options", "onnxq.model_sha256", "onnxq.data_sha256"}


@pytest.mark.parametrize("method", ["auto", "minmax", "moving-average", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("file_format", ["qdq", "qoperator"])
def test_the_same_command_gives_the_same_bytes(work, method, file_format):
    for name in ("1.onnx", "2.onnx"):
        result = quantize("--method", method, "--format", file_format, "-o", name, "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["kernels"]["integer_share"] == 1.0
    assert Path("1.onnx").read_bytes() == Path("2.onnx").read_bytes()


def test_json_report_has_a_version_and_quiet_says_nothing(work):
    report = json.loads(quantize("--json").stdout)
    assert report["schema"] == 3
    assert report["outputs"]["sqnr_db"] > 30
    assert quantize("-q", "-o", "q.onnx").stdout == ""


def test_statistics_are_reused_and_shards_merge(work):
    for file in sorted(CALIB.glob("*.npy"))[16:80]:  # several batches
        shutil.copy(file, "data")
    for name, shard in (("all.npz", "1/1"), ("1.npz", "1/2"), ("2.npz", "2/2")):
        assert (
            onnxq("calibrate", "model.onnx", "--calib", "data", "-o", name, "--shard", shard).exit_code == 0
        )
    for method in ("moving-average", "mse"):
        one = quantize("--stats", "all.npz", "--method", method, "-o", "one.onnx", "--force", "--json")
        two = quantize(
            "--stats", "1.npz", "--stats", "2.npz", "--method", method, "-o", "two.onnx", "--force", "--json"
        )
        assert one.exit_code == two.exit_code == 0
        assert json.loads(one.stdout)["ranges"] == json.loads(two.stdout)["ranges"]
        assert Path("one.onnx").read_bytes() == Path("two.onnx").read_bytes()
        assert "gptq" in json.loads(two.stdout)["techniques"]
    assert onnxq("quantize", "model.onnx", "--stats", "all.npz", "-o", "three.onnx").exit_code == 0


def test_eval_compares_and_gates(work):
    quantize()
    common = (
        "model.onnx",
        "model.int8.onnx",
        "--data",
        SAMPLES / "eval",
        "--labels",
        SAMPLES / "eval" / "labels.csv",
        "--samples",
        60,
        "--no-latency",
    )
    passed = onnxq("eval", *common, "--max-drop", 5, "--min-sqnr", 10, "--json")
    assert passed.exit_code == 0
    scores = json.loads(passed.stdout)["scores"]
    assert scores[1]["bytes"] < scores[0]["bytes"] / 2
    failed = onnxq("eval", *common, "--min-sqnr", 90)
    assert failed.exit_code == 1
    assert "gate failed: model.int8.onnx: SQNR is" in failed.stderr
    assert "top-1" in failed.stdout


def test_a_file_that_fails_a_gate_gets_another_name(work):
    assert quantize("--max-size", 0.01, "-o", "a.onnx").exit_code == 1
    assert not Path("a.onnx").exists()
    assert Path("a.rejected.onnx").exists()
    failed = quantize("--max-size", 0.01, "-o", "b.onnx", "--keep-failed")
    assert (failed.exit_code, Path("b.onnx").exists()) == (1, True)


def test_quantize_gate(work):
    result = quantize("--min-sqnr", 150)
    assert result.exit_code == 1
    assert "--min-sqnr 150" in result.stderr


def test_inspect(work):
    shutil.copy(TRANSFORMER, "t.onnx")
    result = onnxq("inspect", "t.onnx")
    assert result.exit_code == 0
    assert "both operands are activations" in result.stdout
    report = json.loads(onnxq("inspect", "t.onnx", "--json").stdout)
    assert report["planned_mac_share"] > 0.9


def test_options_from_a_file(work):
    Path("onnxq.toml").write_text(
        '[quantize]\nmethod = "minmax"\nop-types = ["Conv"]\nwithout = "gptq"\nsamples = 12\nall-int8 = true\n'
    )
    result = quantize("--json")
    assert "using onnxq.toml" in result.stderr
    report = json.loads(result.stdout)
    assert (report["method"], report["planned"]) == ("minmax", 6)
    assert "gptq" not in report["techniques"]
    assert json.loads(quantize("--json", "--method", "mse", "--force").stdout)["method"] == "mse"
    assert quantize("--force", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[quantise]\n", "unknown table"),
        ("[quantize]\nmetod = 1\n", "no option 'metod'"),
        ("[quantize\n", "not a TOML file"),
        ('[quantize]\nmethod = "best"\n', "best"),
        ('[quantize]\nall-int8 = "yes"\n', "'yes' is not true or false"),
        ("[quantize]\nsamples = [1]\n", "[1] is not a text or a number"),
        ("[quantize]\nsamples = {a = 1}\n", "{'a': 1} is not a text or a number"),
        ("[quantize]\nsamples = 1979-05-27\n", "is not a text or a number"),
        ("[quantize]\nexclude = [[1]]\n", "[1] is not a list of texts or numbers"),
        ("[quantize]\nsamples = 1" + "0" * 5000 + "\n", "not a TOML file"),
        ("[quantize]\npercentile = nan\n", "nan is not a finite number"),
        ('[quantize]\ncalib = ""\n', "--calib"),
        ('[quantize]\nlabels = "a\\u0000b"\n', "holds a NUL character"),
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("#" * (1 << 20) + "#", "more than 1048576 bytes"),
    ],
)
def test_bad_option_files(work, text, said):
    Path("my.toml").write_text(text)
    result = onnxq("--config", "my.toml", "quantize", "model.onnx")
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def spoil_sample(array=None, name="x.npy", **arrays):
    def prepare():
        if arrays:
            np.savez(f"data/{name}", **arrays)
        else:
            np.save(f"data/{name}", array)

    return prepare


def nan_sample():
    image = np.zeros((1, 1, 8, 8), np.float32)
    image[0, 0, 0, 0] = np.nan
    np.save("data/nan.npy", image)


def external(*, length=None, location="weights.bin", write=True):
    def prepare():
        rng = np.random.default_rng(0)
        model = parse(
            "g (float[N,1,8,8] x) => (float[N,2,8,8] y) { y = Conv(x, w) }", {"w": normal(rng, 2, 1, 1, 1)}
        )
        tensor = model.graph.initializer[0]
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
        onnx.save(model, "model.onnx")
        if write:
            Path(location).write_bytes(data[:length])

    return prepare


def empty_folder():
    shutil.rmtree("data")
    Path("data").mkdir()


def no_compute():
    onnx.save(parse("g (float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Relu(x) }"), "model.onnx")


def unknown_operator():
    model = parse("g (float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Relu(x) }")
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.example", "Magic"
    model.opset_import.add(domain="com.example", version=1)
    onnx.save(model, "model.onnx")


def truncate():
    data = Path("model.onnx").read_bytes()
    Path("model.onnx").write_bytes(data[: len(data) // 2])


MISTAKES = [
    (lambda: Path("model.onnx").write_text("not a model\n"), (), "model.onnx: not an ONNX model"),
    (truncate, (), "model.onnx: not an ONNX model, or truncated"),
    (lambda: Path("model.onnx").unlink(), (), "model.onnx: no such file"),
    (external(write=False), (), "external data file weights.bin is missing"),
    (external(length=3), (), "weights.bin has 3 bytes, 8 are needed"),
    (external(location="../weights.bin", write=False), (), "outside the model's folder"),
    (unknown_operator, (), "cannot load it"),
    (no_compute, (), "nothing to quantize: it has no Conv, MatMul or Gemm"),
    (empty_folder, (), "no sample found"),
    (lambda: None, ("--calib", "nowhere"), "nowhere: no such data folder"),
    (spoil_sample(np.zeros((1, 1, 9, 8), np.float32)), (), "sample x.npy: input 'image' is float32[1,1,9,8], but the model takes float32[?,1,8,8]"),
    (spoil_sample(np.zeros((1, 1, 8, 8))), (), "float64[1,1,8,8]"),
    (spoil_sample(name="x.npz", picture=np.zeros((1, 1, 8, 8), np.float32)), (), "has inputs [picture], but the model takes [image]"),
    (lambda: Path("data/x.npy").write_bytes(b"\x93NUMPY\x01"), (), "sample data/x.npy: not a NumPy array, or truncated"),
    (nan_sample, (), "sample nan.npy: tensor 'image' holds 1 NaN"),
    (lambda: Path("model.int8.onnx").write_text(""), (), "model.int8.onnx: exists already"),
    (lambda: None, ("-o", "model.onnx", "--force"), "model.onnx: is the input model"),
    (lambda: None, ("-o", "model.onnx/x.onnx"), "model.onnx is a file, not a folder"),
    (lambda: None, ("-o", "data"), "data: is a folder"),
    (lambda: None, ("--exclude", "*"), "excluded by --exclude"),
    (lambda: None, ("--exclude", "nobody"), "--exclude nobody: no node of the model has such a name"),
    (lambda: None, ("--op-types", "Convolution"), "--op-types Convolution: the model has no such operator"),
    (lambda: None, ("--stats", "none.npz"), "none.npz: no such file"),
    (lambda: Path("s.npz").write_text("x"), ("--stats", "s.npz"), "no statistics of onnxq calibrate"),
    (lambda: None, ("--preprocess", "nothing"), "nothing: neither a file nor a preset"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "extra", "said"), MISTAKES, ids=[said[:40] for _, _, said in MISTAKES])
def test_a_mistake_is_one_line_and_writes_nothing(work, prepare, extra, said):
    prepare()
    before = listing(work)
    result = quantize(*extra)
    assert result.exit_code == 2
    assert said in result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("onnxq: error: ")
    assert all(line.startswith("onnxq: ") for line in lines)
    assert result.stdout == ""
    assert listing(work) == before


def test_a_read_only_folder(work):
    folder = work / "locked"
    folder.mkdir()
    shutil.copy("model.onnx", folder)
    folder.chmod(0o555)
    work.chmod(0o755)
    for parent in work.parents:
        if parent.owner() == "root" and parent != Path("/tmp") and str(parent).startswith("/tmp"):
            parent.chmod(0o755)
    program = Path(__file__).with_name("check_output_program.py")
    done = subprocess.run(
        [sys.executable, program, "locked/m.int8.onnx", "locked/model.onnx"],
        capture_output=True,
        text=True,
        cwd=work,
        check=False,
    )
    assert "cannot be written" in done.stdout, done.stderr
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


def test_an_error_while_writing_leaves_nothing(work, monkeypatch):
    import onnxq.pipeline

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnxq.pipeline, "save", full)
    before = listing(work)
    result = quantize()
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert listing(work) == before


def test_verbose_shows_the_traceback(work):
    Path("model.onnx").unlink()
    assert "Traceback" in quantize("-v").stderr
    assert "Traceback" not in quantize().stderr


def test_wrong_usage_exits_with_2(work):
    assert onnxq("quantize").exit_code == 2
    assert onnxq("quantize", "model.onnx", "--method", "magic").exit_code == 2
    no_data = onnxq("quantize", "model.onnx")
    assert no_data.exit_code == 2
    assert "--calib" in no_data.stderr
    assert onnxq("calibrate", "model.onnx", "--calib", "data", "-o", "s.npz", "--shard", "3/2").exit_code == 2


def test_few_samples_are_a_warning(work):
    assert "16 samples found in data, 200 asked for" in quantize().stderr


def test_algebra_is_loaded_when_it_is_used():
    """onnx_ir adds symbolic sizes with sympy, whose import takes longer than all other imports together."""
    program = Path(__file__).with_name("symbolic_sizes_program.py")
    found = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[0] == "False n + 1"


def test_python_api(work):
    import onnxq as api

    report = api.quantize("model.onnx", "data", "out.onnx", method=api.Method.MSE)
    assert report.outputs.sqnr_db > 30
    scores = api.evaluate("model.onnx", ["out.onnx"], "data", latency=False).scores
    assert scores[1].sqnr_db > 30
    with pytest.raises(api.OnnxqError):
        api.quantize("missing.onnx", "data")


def test_nan_in_a_held_out_sample_is_no_success(work):
    """Outputs that are NaN in float would count as right."""
    last = sorted(Path("data").glob("*.npy"))[-1]
    image = np.load(last)
    image[..., 0] = np.nan
    np.save(last, image)
    for extra, code in (((), 2), (("--allow-nonfinite",), 0)):
        result = quantize(*extra)
        assert result.exit_code == code
        assert (f"sample {last.name}: tensor 'image' holds" in result.stderr) == (code == 2)
        assert Path("model.int8.onnx").exists() == (code == 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", "model.onnx", "--calib", "data", "-o", "data/000.npy"),
        ("quantize", "model.onnx", "--calib", "data", "--report", "data/plots.png"),
        ("finetune", "model.onnx", "--calib", "data", "-o", "data/000.npy"),
        ("calibrate", "model.onnx", "--calib", "data", "-o", "data/000.npy"),
        ("eval", "model.onnx", "model.onnx", "--data", "data", "--report", "data/plots.png"),
        ("preview", "model.onnx", "data", "-o", "data/plots.png"),
    ],
)
def test_no_output_overwrites_a_sample(work, arguments):
    Path("data/plots.png").write_bytes(b"a photo")
    before = listing(".")
    result = onnxq(*arguments, "--force")
    assert result.exit_code == 2, result.stderr
    assert "lies among the samples of data" in result.stderr
    assert listing(".") == before


def test_a_model_beside_its_samples_is_written_again(work):
    Path("data/out.onnx").write_bytes(b"an older one")
    chosen = ("--effort", "fast", "--method", "minmax")
    assert quantize("-o", "data/out.onnx", "--force", *chosen).exit_code == 0
