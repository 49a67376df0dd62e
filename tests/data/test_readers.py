import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from onnxq.data.images import guess
from onnxq.data.preprocessing import AudioForm, Forms, ImageForm, TableForm, TextForm, parse_forms, read_forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
WAVE = [InputSpec("audio", FLOAT, (1, None))]
TOKENS = [InputSpec("input_ids", LONG, (None, None)), InputSpec("attention_mask", LONG, (None, None))]
ROW = [InputSpec("x", FLOAT, (None, 3))]


def feeds_of(path, specs, forms=None, most=None):
    return [check_feeds(sample, specs) for sample in open_samples(path, specs, forms, most)]


def write_wave(path, samples, rate=8000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, np.int16).tobytes())


# --- sound


def test_sounds_become_values_between_minus_one_and_one(tmp_path):
    write_wave(tmp_path / "a.wav", [0, 16384, -32768])
    (feeds,) = feeds_of(tmp_path, WAVE)
    assert np.array_equal(feeds["audio"], np.float32([[0, 0.5, -1]]))
    (feeds,) = feeds_of(tmp_path, WAVE, Forms(audio=AudioForm(scale=32768, dtype="float32")))
    assert np.array_equal(feeds["audio"], np.float32([[0, 16384, -32768]]))


def test_windows_of_a_sound_cover_it_and_short_ones_are_filled(tmp_path):
    write_wave(tmp_path / "a.wav", np.arange(10) * 1000)
    form = Forms(audio=AudioForm(window=4, hop=3))
    samples = open_samples(tmp_path, WAVE, form)
    assert [sample.name for sample in samples] == ["a.wav[0]", "a.wav[1]", "a.wav[2]"]
    assert np.allclose(samples[2].load()["audio"][0] * 32768, [6000, 7000, 8000, 9000])
    (feeds,) = feeds_of(tmp_path, WAVE, Forms(audio=AudioForm(window=12)))
    assert feeds["audio"].shape == (1, 12)
    assert np.all(feeds["audio"][0, 10:] == 0)


def test_channels_become_one_and_rates_are_changed_only_when_asked(tmp_path):
    tone = np.sin(np.arange(8000) / 8000 * 2 * np.pi * 440) * 10000
    write_wave(tmp_path / "a.wav", np.stack([tone, tone / 2], 1).reshape(-1), channels=2)
    with pytest.raises(
        DataError,
        match=r"a\.wav: sample rate is 8000 Hz, but \[preprocess.audio\] has rate = 16000.*resample = true",
    ):
        feeds_of(tmp_path, WAVE, Forms(audio=AudioForm(rate=16000)))
    (feeds,) = feeds_of(tmp_path, WAVE, Forms(audio=AudioForm(rate=16000, resample=True)))
    assert feeds["audio"].shape == (1, 16000)
    expected = np.sin(np.arange(16000) / 16000 * 2 * np.pi * 440) * 7500 / 32768
    assert np.abs(feeds["audio"][0] - expected)[500:-500].max() < 1e-3


def test_a_window_of_a_resampled_sound_is_counted_at_the_new_rate(tmp_path):
    write_wave(tmp_path / "a.wav", np.zeros(8000))
    assert (
        len(open_samples(tmp_path, WAVE, Forms(audio=AudioForm(rate=16000, resample=True, window=4000)))) == 4
    )


@pytest.mark.parametrize(("layout", "shape"), [("NCT", (1, 2, 3)), ("NTC", (1, 3, 2))])
def test_channels_that_stay_have_an_axis(tmp_path, layout, shape):
    write_wave(tmp_path / "a.wav", range(6), channels=2)
    specs = [InputSpec("audio", FLOAT, (1, None, None))]
    (feeds,) = feeds_of(tmp_path, specs, Forms(audio=AudioForm(mono=False, layout=layout)))
    assert feeds["audio"].shape == shape
    with pytest.raises(DataError, match="no axis for 2 channels"):
        feeds_of(tmp_path, WAVE, Forms(audio=AudioForm(mono=False)))


def test_a_broken_sound_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF0000WAVE")
    with pytest.raises(DataError, match=r"a\.wav: not an audio file, or truncated"):
        feeds_of(tmp_path, WAVE)


# --- text


@pytest.fixture
def texts(tmp_path):
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(
        pad_id=9, pad_token="[PAD]", length=50
    )  # a length in the file is not what the user asked for
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "t.txt").write_text("a b c\n\nb zzz\n", encoding="utf-8")
    return tmp_path


def test_lines_become_token_numbers(texts):
    one, two = feeds_of(texts, TOKENS)
    assert one["input_ids"].tolist() == [[1, 2, 3]]
    assert two["input_ids"].tolist() == [[2, 0]]
    assert two["attention_mask"].tolist() == [[1, 1]]


def test_lines_are_cut_and_filled_as_asked(texts):
    one, two = feeds_of(texts, TOKENS, Forms(text=TextForm(max_length=2, pad_to=4)))
    assert one["input_ids"].tolist() == [[1, 2, 9, 9]]
    assert one["attention_mask"].tolist() == [[1, 1, 0, 0]]
    assert two["input_ids"].tolist() == [[2, 0, 9, 9]]


def test_blocks_run_over_the_ends_of_lines(texts):
    (texts / "t.txt").write_text("a b c\nc b a\na a a", encoding="utf-8")
    feeds = feeds_of(texts, TOKENS, Forms(text=TextForm(block=4)))
    assert [each["input_ids"].tolist() for each in feeds] == [[[1, 2, 3, 3]], [[2, 1, 1, 1]]]


def test_inputs_are_found_by_the_names_that_are_given(texts):
    specs = [InputSpec("tokens", np.dtype(np.int32), (None, None)), InputSpec("at", LONG, (None, None))]
    one, _ = feeds_of(texts, specs, Forms(text=TextForm(ids="tokens", positions="at")))
    assert one["tokens"].dtype == np.int32
    assert one["at"].tolist() == [[0, 1, 2]]
    with pytest.raises(DataError, match="no input 'input_ids' for token ids, the model has \\[tokens, at\\]"):
        feeds_of(texts, specs)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
        ("tokenizer.json", None, "text needs a tokenizer"),
        ("t.txt", b"a\n\xff\xfe\n", "not UTF-8 at byte 2"),
    ],
)
def test_wrong_text_files(texts, name, content, said):
    if content is None:
        (texts / name).unlink()
    else:
        (texts / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        feeds_of(texts, TOKENS)


# --- tables


def test_rows_of_csv(tmp_path):
    (tmp_path / "t.csv").write_text('a,b,"c, d",target\n1,2,3,0\n"4","5\n",6e1,1\n', encoding="utf-8")
    forms = Forms(table=TableForm(label="target"))
    samples = open_samples(tmp_path, ROW, forms)
    assert [(sample.name, sample.label) for sample in samples] == [("t.csv:1", "0"), ("t.csv:2", "1")]
    assert np.array_equal(samples[1].load()["x"], np.float32([4, 5, 60]))
    (feeds, _) = feeds_of(
        tmp_path, [InputSpec("x", FLOAT, (1, 2))], Forms(table=TableForm(inputs={"x": ["c, d", "a"]}))
    )
    assert feeds["x"].tolist() == [[3, 1]]


def test_a_row_that_fills_an_image_becomes_one(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c,d\n1,2,3,4\n", encoding="utf-8")
    (feeds,) = feeds_of(tmp_path, [InputSpec("x", FLOAT, (None, 1, 2, 2))])
    assert feeds["x"].tolist() == [[[[1, 2], [3, 4]]]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,c\n1,2\n", "t.csv:1: the row has 2 values, but the header 3"),
        ("a,b,c\n1,x,3\n", "t.csv:1: column a, b, c: could not convert string to float: .*'x'"),
        ("a,b,c\n1,,3\n", "column 'b' is empty"),
        ("", "the table is empty"),
        ("a,b\n1,2\n", r"float32\[1,2\], but the model takes float32\[\?,3\]"),
    ],
)
def test_bad_tables(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        feeds_of(tmp_path, ROW)


def test_missing_columns_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n", encoding="utf-8")
    for table, said in (
        (TableForm(inputs={"x": ["a", "z"]}), "no column 'z': choose from a, b, c"),
        (TableForm(label="target"), "no column 'target'"),
        (TableForm(inputs={"y": ["a"]}), "no input 'y'"),
    ):
        with pytest.raises(DataError, match=said):
            feeds_of(tmp_path, ROW, Forms(table=table))
    with pytest.raises(DataError, match="no column for input 'x'"):
        feeds_of(tmp_path, [*ROW, InputSpec("y", FLOAT, (1, 1))])


def test_rows_of_parquet(tmp_path):
    rows = {"x": [[float(i), 1.0, 2.0] for i in range(10)], "label": list(range(10))}
    table = pa.table({"x": pa.array(rows["x"], pa.list_(pa.float32())), "label": rows["label"]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    samples = open_samples(tmp_path, ROW, Forms(table=TableForm(label="label")))
    assert [sample.label for sample in samples] == [str(i) for i in range(10)]
    assert check_feeds(samples[9], ROW)["x"].tolist() == [[9, 1, 2]]
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match="not a parquet file, or truncated"):
        open_samples(tmp_path, ROW)


def test_conversions_that_lose_are_made_only_when_asked(tmp_path):
    pq.write_table(pa.table({"a": [0.1], "b": [1.0], "c": [2.0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"float64.*cast = true"):
        feeds_of(tmp_path, ROW)
    (feeds,) = feeds_of(tmp_path, ROW, Forms(cast=True))
    assert feeds["x"].tolist() == [[np.float32(0.1), 1, 2]]


def test_columns_of_any_type_need_no_pandas(tmp_path):
    moment = pa.array([0], pa.timestamp("us", tz="UTC"))
    columns = {
        "x": pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32())),
        "at": moment,
        "far": moment.cast(pa.date32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (feeds,) = feeds_of(tmp_path, ROW)
    assert feeds["x"].tolist() == [[1, 2, 3]]


def saved_on_disk(folder, table):
    """What the Hugging Face library's save_to_disk writes."""
    folder.mkdir()
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    (folder / "state.json").write_text(
        '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_files": null}'
    )
    (folder / "dataset_info.json").write_text("{}")


def test_data_sets_saved_on_disk(tmp_path, texts):
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "i.png")
    content = (tmp_path / "i.png").read_bytes()
    for name in ("i.png", "t.txt"):
        (tmp_path / name).unlink()
    table = pa.table(
        {
            "picture": [{"bytes": content, "path": "i.png"}] * 3,
            "sentence": ["a", "b c", "c"],
            "label": [0, 1, 2],
        }
    )
    saved_on_disk(tmp_path / "train", table)
    specs = [InputSpec("x", FLOAT, (None, 3, 4, 4))]
    samples = open_samples(
        tmp_path, specs, Forms(ImageForm(), table=TableForm(image="picture", label="label"))
    )
    assert [(sample.name, sample.label) for sample in samples][2] == (
        "train/data-00000-of-00001.arrow[2]",
        "2",
    )
    assert check_feeds(samples[2], specs)["x"][0, :, 0, 0].tolist() == [10, 20, 30]
    feeds = feeds_of(tmp_path / "train", TOKENS, Forms(table=TableForm(text="sentence")))
    assert feeds[1]["input_ids"].tolist() == [[2, 3]]
    (tmp_path / "train" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(DataError, match="outside the data set"):
        open_samples(tmp_path / "train", specs)


# --- functions


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "samples_for_test.py").write_text(
        "import numpy as np\n"
        "def listed(): return [({'x': np.full((1, 3), i, np.float32)}, i) for i in range(5)]\n"
        "def endless():\n    i = 0\n    while True:\n        yield np.full(3, i, np.float32)\n        i += 1\n"
        "def breaks():\n    yield np.zeros(3, np.float32)\n    raise ValueError('out of luck')\n"
        "def number(): return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("functions")
def test_samples_from_functions():
    from pathlib import Path

    samples = open_samples(Path("samples_for_test:listed"), ROW)
    assert [sample.label for sample in samples] == ["0", "1", "2", "3", "4"]
    assert check_feeds(samples[4], ROW)["x"].tolist() == [[4, 4, 4]]
    feeds = feeds_of(Path("samples_for_test:endless"), ROW, most=7)
    assert [each["x"][0, 0] for each in feeds] == list(range(7))
    for name, said in (
        ("breaks", "ValueError: out of luck"),
        ("number", "expected an iterable"),
        ("nothing", "has no 'nothing'"),
    ):
        with pytest.raises(DataError, match=said):
            open_samples(Path(f"samples_for_test:{name}"), ROW)
    with pytest.raises(DataError, match="cannot import no_such_module"):
        open_samples(Path("no_such_module:f"), ROW)


# --- forms


def test_the_form_of_images_is_guessed_from_the_shape():
    form = guess([InputSpec("n", LONG, (1,)), InputSpec("i", FLOAT, (None, 3, 32, 48))])
    assert (form.layout, form.resize, form.channels, form.input, form.std) == (
        "NCHW",
        (32, 48),
        "RGB",
        "i",
        (58.395, 57.12, 57.375),
    )
    form = guess([InputSpec("i", np.dtype(np.uint8), (1, 28, 28, 1))])
    assert (form.layout, form.channels, form.dtype, form.std) == ("NHWC", "GRAY", "uint8", (1.0,))
    with pytest.raises(DataError, match="size or channels of the input are unknown"):
        guess([InputSpec("i", FLOAT, (None, 3, None, None))])


def test_tables_of_forms(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(
        "[preprocess]\ncast = true\n[preprocess.audio]\nrate = 16000\nscale = 2\n[preprocess.table.inputs]\nx = ['a']\n"
    )
    forms = read_forms(str(path))
    assert (forms.image, forms.cast, forms.audio.rate, forms.audio.scale, forms.table.inputs) == (
        None,
        True,
        16000,
        2.0,
        {"x": ["a"]},
    )


def test_keys_outside_of_the_table(tmp_path):
    (tmp_path / "p.toml").write_text("mean = 127.5\n[audio]\nrate = 16000\n")
    with pytest.raises(
        DataError,
        match=r"p.toml: audio, mean outside of \[preprocess\]: add the line \[preprocess\] before them",
    ):
        read_forms(str(tmp_path / "p.toml"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"audio": {"speed": 1}}, r"\[preprocess.audio\] has no key 'speed'"),
        ({"audio": {"rate": "fast"}}, "rate = 'fast': give a number above 0"),
        ({"audio": {"rate": True}}, "give a number above 0"),
        ({"text": {"special": 1}}, "special = 1: give true or false"),
        ({"table": {"label": 3}}, "label = 3: give a text"),
        ({"audio": 3}, r"\[preprocess.audio\] is not a table"),
        ({"cast": 1}, "cast = 1"),
        ({"resize_short": 0}, "resize_short = 0: give a number above 0"),
        ({"mean": ["a"]}, "give a number, or a list with one per channel"),
    ],
)
def test_bad_forms(table, said):
    with pytest.raises(DataError, match=said):
        parse_forms(table, "p.toml")
