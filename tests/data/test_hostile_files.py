"""Files made to crash a reader, to fill the memory, to start programs or to read other files."""

import json
import os
import struct
import wave
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace, Sequence
from tokenizers.pre_tokenizers import Split, Whitespace

from onnxq.data.labels import labelled
from onnxq.data.preprocessing import AudioForm, Forms, ImageForm, TableForm, TextForm, read_forms
from onnxq.data.reading import MOST_SAMPLES
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError
from onnxq.evaluation.baseline import checksum, read_baseline
from onnxq.runtime.sessions import InputSpec
from tests.data.damaging import IMAGE, PIXELS, ROW, TABLE, TOKENS, WAVE, baseline


def feeds_of(path, specs=ROW, forms=None):
    return [check_feeds(sample, specs) for sample in open_samples(path, specs, forms)]


# --- arrays


def npy(description, shape, content=b"1234"):
    text = f"{{'descr': {description}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(
    "content",
    [
        npy("'<f4'", "(10000000000, 3)"),
        npy("'<f4'", "(99999999999999999999999, 3)"),
        npy("'<f4'", "(-1, 3)"),
        npy("'|S0'", "(1000000000000, 3)"),
        npy("[" * 3000 + "]" * 3000, "(1,)"),
        npy("'|O'", "(1, 3)"),
        npy("('<f4', (1000000, 1000000))", "(1, 3)"),
        b"",
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_lying_header_is_refused(tmp_path, content, inside):
    if inside:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", content)
    else:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.np"):
        feeds_of(tmp_path)


def patched(offset_local, offset_central, value):
    """An .npz whose member has another flag or compression method."""

    def patch(path):
        content = bytearray(path.read_bytes())
        central = content.find(b"PK\x01\x02")
        content[offset_local] = content[central + offset_central] = value
        path.write_bytes(content)

    return patch


def text_member(path):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")


def one_array(path):
    with open(path, "wb") as stream:
        np.save(stream, np.ones((1, 3), "f4"))


@pytest.mark.parametrize("change", [patched(6, 8, 1), patched(8, 10, 99), text_member, one_array])
def test_odd_members_are_refused(tmp_path, change):
    np.savez(tmp_path / "a.npz", x=np.ones((1, 3), "f4"))
    change(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: not an \.npz file of plain arrays, or truncated"):
        feeds_of(tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.ones((1, 3), "f4"))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.find(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 3 << 30)  # size of the member when it is unpacked
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: takes 3 GiB in memory, more than 1"):
        feeds_of(tmp_path)


def test_too_many_rows_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((MOST_SAMPLES + 1, 3), np.int8))
    with pytest.raises(DataError, match="more than 2,000,000 samples"):
        feeds_of(tmp_path)


@pytest.mark.parametrize("batch", [None, 1])
def test_rows_of_a_lone_npy_are_samples(tmp_path, batch):
    values = np.arange(600, dtype=np.float32).reshape(200, 3)
    np.save(tmp_path / "a.npy", values)
    specs = [InputSpec("x", np.dtype(np.float32), (batch, 3))]
    found = feeds_of(tmp_path, specs)
    assert [feeds["x"].shape for feeds in found] == [(1, 3)] * 200
    assert np.array_equal(np.concatenate([feeds["x"] for feeds in found]), values)
    assert open_samples(tmp_path / "a.npy", specs)[199].name == "a.npy[199]"


def test_several_npy_of_a_dynamic_batch_and_one_axis_stay_whole(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(50, np.float32))
    assert [feeds["x"].shape for feeds in feeds_of(tmp_path, [InputSpec("x", ROW[0].dtype, (None,))])] == [
        (50,)
    ]
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.ones((5, 3), np.float32))
    assert [feeds["x"].shape for feeds in feeds_of(tmp_path)] == [(5, 3)] * 2


# --- folders and paths


def test_folders_of_any_depth_are_searched(tmp_path):
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1200):
            os.mkdir("d")  # noqa: PTH102 (a path to all of them would be too long for some systems)
            os.chdir("d")
        np.save("a.npy", np.ones((1, 3), "f4"))
    finally:
        os.chdir(here)
    (feeds,) = feeds_of(tmp_path)
    assert feeds["x"].shape == (1, 3)
    os.system(f"rm -r {tmp_path}/d")  # pytest's own way is recursive


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_pipes_and_devices_are_no_folders(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(DataError, match="a pipe or device: give a folder or a file"):
            open_samples(path, ROW)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_file_can_have(tmp_path, name):
    for read in (
        lambda path: open_samples(path, ROW),
        lambda path: read_forms(str(path)),
        lambda path: labelled([], str(path)),
        read_baseline,
    ):
        with pytest.raises(DataError):
            read(tmp_path / name)


# --- zoo


def test_values_in_another_file_are_refused(tmp_path):
    (tmp_path / "test_data_set_0").mkdir()
    (tmp_path / "secret").write_bytes(np.ones(3, "f4").tobytes())
    tensor = onnx.TensorProto(dims=[1, 3], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "test_data_set_0/input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match=r"input_0\.pb: stores its values in another file"):
        feeds_of(tmp_path)


@pytest.mark.parametrize("changes", [{"dims": [1 << 62, 4]}, {"dims": [-1, 3]}, {"data_type": 99}])
def test_impossible_tensors_are_refused(tmp_path, changes):
    (tmp_path / "test_data_set_0").mkdir()
    fields = {"dims": [1, 3], "data_type": 1, "raw_data": bytes(12)} | changes
    tensor = onnx.TensorProto(**fields)
    (tmp_path / "test_data_set_0/input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match=r"input_0\.pb: not an ONNX TensorProto"):
        feeds_of(tmp_path)


# --- TOML and JSON


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mean = 1" + "0" * 400, "give a number"),
        ("mean = 1" + "0" * 5000, "not a TOML file"),
        ("mean = " + "[" * 100000, "not a TOML file"),
        ("mean = nan", "give a number"),
        ("std = 0", "give numbers above 0"),
        ("std = 1e-300", "give numbers above 0"),
        ("resize = [1000000000, 8]", r"give \[height, width\]"),
        ("[preprocess.audio]\nscale = inf", "give a number"),
        ("[preprocess.audio]\nrate = 1" + "0" * 40, "give a number above 0, at most"),
        ("[preprocess.text]\npad_to = 100000000", "give a number above 0, at most 4,194,304"),
        ("[preprocess.table]\ninputs = { x = 5 }", "give a column, or a list of columns"),
        ("[preprocess.table]\ninputs = { x = [] }", "give a column, or a list of columns"),
    ],
)
def test_impossible_preprocessing(tmp_path, text, said):
    (tmp_path / "p.toml").write_text("[preprocess]\n" + text)
    with pytest.raises(DataError, match=said):
        read_forms(str(tmp_path / "p.toml"))


def test_means_for_another_number_of_channels_name_the_setting(tmp_path):
    png(tmp_path, 8, 8)
    with pytest.raises(DataError, match=r"\[preprocess\] mean: 4 values for 3 channels"):
        feeds_of(tmp_path, IMAGE, Forms(image=ImageForm(mean=(1.0, 2.0, 3.0, 4.0))))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_endless_files_end(tmp_path):
    for read in (read_forms, lambda path: labelled([], path), lambda path: read_baseline(Path(path))):
        with pytest.raises(DataError, match=r"/dev/zero: (larger than|cannot read)"):
            read("/dev/zero")


@pytest.mark.parametrize("value", ["1e999", "1" + "0" * 400, "1" + "0" * 5000, '"0.9"', "true", "[" * 100000])
def test_a_baseline_of_other_numbers_is_refused(tmp_path, value):
    (tmp_path / "b.json").write_text(json.dumps(baseline()).replace("0.97", value))
    with pytest.raises(DataError, match="not a report of onnxq eval"):
        read_baseline(tmp_path / "b.json")


@pytest.mark.parametrize(("old", "new"), [("0.97", "0.96"), ("31.5", "71.5"), ("q.onnx", "p.onnx")])
def test_a_changed_baseline_is_refused(tmp_path, old, new):
    text = json.dumps(baseline() | {"checksum": checksum(baseline())})
    (tmp_path / "b.json").write_text(text)
    assert read_baseline(tmp_path / "b.json")["q.onnx"]["top-1"] == 0.97
    (tmp_path / "b.json").write_text(text.replace(old, new))
    with pytest.raises(DataError, match="changed since onnxq eval wrote it"):
        read_baseline(tmp_path / "b.json")


# --- tables


def test_a_table_of_many_columns_is_read_in_linear_time(tmp_path):
    count = 300_000
    (tmp_path / "a.csv").write_text(",".join(map(str, range(count))) + "\n" + "1," * (count - 1) + "2\n")
    (feeds,) = feeds_of(tmp_path, [InputSpec("x", np.dtype(np.float32), (None, None))])
    assert feeds["x"].shape == (1, count) and feeds["x"][0, -1] == 2


@pytest.mark.parametrize(
    "text", ["1," * 9_000_000 + "1\n", "a\n" + "1," * 9_000_000, 'a\n"' + "1\n" * 9_000_000]
)
def test_an_endless_row_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"a row of more than 16 MiB at byte|field larger than field limit"):
        feeds_of(tmp_path)


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,x,y\n1,2,3\n")
    with pytest.raises(DataError, match="2 columns are named 'x'"):
        feeds_of(tmp_path)


@pytest.mark.parametrize(("dtype", "value"), [(np.int64, "9" * 50), (np.int64, "9" * 5000), (np.int8, "300")])
def test_numbers_that_do_not_fit_are_refused(tmp_path, dtype, value):
    (tmp_path / "a.csv").write_text(f"a\n{value}\n")
    with pytest.raises(DataError, match=r"a\.csv:1: column a: "):
        feeds_of(tmp_path, [InputSpec("x", np.dtype(dtype), (None, 1))])


def test_text_becomes_true_and_false(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,c\n0,false,True\n1,1,2\n")
    one, two = open_samples(tmp_path, [InputSpec("x", np.dtype(bool), (None, 3))])
    assert one.load()["x"].tolist() == [False, False, True]
    with pytest.raises(DataError, match="'2' is not true or false"):
        two.load()


@pytest.mark.parametrize("cell", [[[1.0], [2.0, 3.0]], [1.0, None, 3.0], {"a": 1}])
def test_ragged_cells_are_refused(tmp_path, cell):
    pq.write_table(pa.table({"x": [cell], "label": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"sample a\.parquet\[0\]: "):
        feeds_of(tmp_path, forms=TABLE)


@pytest.mark.parametrize("label", ["x", None])
def test_offsets_outside_of_an_arrow_file_are_refused(tmp_path, label):
    batch = pa.record_batch([pa.array(["abc", "def"]), pa.array(["1", "2"])], names=["x", "y"])
    with pa.OSFile(str(tmp_path / "d"), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content, offsets = (tmp_path / "d").read_bytes(), struct.pack("<3i", 0, 3, 6)
    assert content.count(offsets) == 1
    (tmp_path / "d").write_bytes(content.replace(offsets, struct.pack("<3i", 0, 1 << 30, 6)))
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "d"}]}')
    (tmp_path / "dataset_info.json").write_text("{}")
    columns = {"x": ["y"] if label else ["x"]}
    with pytest.raises(DataError, match="d: truncated or damaged"):
        feeds_of(tmp_path, forms=Forms(table=TableForm(inputs=columns, label=label)))


# --- text


def write_tokenizer(folder, text, **parts):
    tokenizer = Tokenizer(WordLevel({"a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "t.txt").write_text(text)


def test_unknown_words_and_limits_of_patterns_are_refused(tmp_path):
    write_tokenizer(tmp_path, "a zzz")
    with pytest.raises(
        DataError, match=r"the tokenizer fails on the text \(WordLevel error: Missing \[UNK\]"
    ):
        feeds_of(tmp_path, TOKENS)


def test_a_panic_of_the_tokenizer_is_refused(tmp_path):
    from tokenizers import Regex

    write_tokenizer(tmp_path, "a" * 50_000 + "b", pre_tokenizer=Split(Regex("(a+)+$"), "isolated"))
    with pytest.raises(DataError, match="the tokenizer fails on the text"):
        feeds_of(tmp_path, TOKENS)


@pytest.mark.parametrize("block", [None, 4])
def test_a_long_line_is_refused(tmp_path, block):
    write_tokenizer(tmp_path, "a b " * 5_000_000)
    with pytest.raises(DataError, match="a line of more than 16 MiB at byte 0: split it"):
        feeds_of(tmp_path, TOKENS, Forms(text=TextForm(block=block)))
    (tmp_path / "t.txt").write_text("a b " * 1_500_000)
    with pytest.raises(DataError, match=r"a text of (5,999,999|6,000,000) characters"):
        feeds_of(tmp_path, TOKENS, Forms(text=TextForm(block=block)))


def test_a_normalizer_that_multiplies_is_refused(tmp_path):
    write_tokenizer(tmp_path, "a b", normalizer=Sequence([Replace("a", "a" * 100)] * 6))
    with pytest.raises(DataError, match=r"a text of 3 characters, 1e\+12 times as many in the tokenizer"):
        feeds_of(tmp_path, TOKENS)
    write_tokenizer(tmp_path, "a b", normalizer=Sequence([Replace("b", "a a"), Replace("c", "a" * 100)]))
    (tmp_path / "one").mkdir()
    write_tokenizer(tmp_path / "one", "a b", normalizer=Sequence([Replace("b", "a a")]))
    assert feeds_of(tmp_path / "one", TOKENS)[0]["input_ids"].tolist() == [[1, 1, 1]]


# --- audio and images


def write_wave(path, rate, frames):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * frames))


def test_sounds_that_multiply_are_refused(tmp_path):
    form = AudioForm(rate=16000, resample=True)
    write_wave(tmp_path / "a.wav", 1, 5000)
    with pytest.raises(DataError, match=r"a\.wav: its sample rate of 1 Hz cannot be right"):
        feeds_of(tmp_path, WAVE, Forms(audio=form))
    write_wave(tmp_path / "a.wav", 1000, 2_000_000)
    with pytest.raises(DataError, match=r"a\.wav \(resampled from 1000 Hz\): takes 1\.43 GiB in memory"):
        feeds_of(tmp_path, WAVE, Forms(audio=AudioForm(rate=192000, resample=True)))
    with pytest.raises(DataError, match="more than 2,000,000 samples"):
        feeds_of(tmp_path, WAVE, Forms(audio=AudioForm(rate=16000, resample=True, window=100, hop=1)))


def png(folder, width, height):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(height * (width // 8 + 1)), 9)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(
    ("size", "form"),
    [
        ((100_000, 1), ImageForm(resize_short=256)),
        ((8, 8), ImageForm(resize=(100_000, 100_000))),
        ((8, 8), ImageForm(crop=(100_000, 100_000))),
        ((12_000, 8_000), ImageForm()),
    ],
)
def test_images_that_multiply_are_refused(tmp_path, size, form):
    png(tmp_path, *size)
    with pytest.raises(DataError, match=r"a\.png: takes .* GiB in memory, more than 1"):
        feeds_of(tmp_path, IMAGE, Forms(image=form))


def test_postscript_is_never_run(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript is run"))
    with pytest.raises(DataError, match="not an image"):
        feeds_of(tmp_path, IMAGE, PIXELS)


def test_labels_of_an_endless_line_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\n" + "a," * 1_000_000)
    with pytest.raises(DataError, match=r"labels\.csv: cannot read the labels: a line of more than"):
        labelled([], str(tmp_path / "labels.csv"))


def test_two_labels_of_one_file_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\na.npy,1\nb.npy,2\na.npy,1\n")
    samples = [Sample(name, dict) for name in ("a.npy", "b.npy")]
    assert [each.label for each in labelled(samples, str(tmp_path / "labels.csv"))] == ["1", "2"]
    (tmp_path / "labels.csv").write_text("file,label\na.npy,1\nb.npy,2\na.npy,3\n")
    with pytest.raises(DataError, match=r"line 4: a\.npy has the label '1' in a line before, and '3' here"):
        labelled(samples, str(tmp_path / "labels.csv"))
