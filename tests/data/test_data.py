from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxq.data.images import apply
from onnxq.data.preprocessing import PRESETS, Forms, ImageForm, parse_forms, read_forms
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec

ONE = [InputSpec("x", np.dtype(np.float32), (None, 3, 4, 4))]
TWO = [InputSpec("a", np.dtype(np.int64), (1, None)), InputSpec("b", np.dtype(np.float32), (1, 2))]


def load_all(folder, specs, preprocess=None):
    return [check_feeds(sample, specs) for sample in open_samples(folder, specs, preprocess)]


def test_npy_files_in_order_of_name(tmp_path, rng):
    arrays = [rng.normal(size=(1, 3, 4, 4)).astype(np.float32) for _ in range(3)]
    for i in (2, 0, 1):
        np.save(tmp_path / f"{i}.npy", arrays[i])
    loaded = load_all(tmp_path, ONE)
    assert [np.array_equal(feeds["x"], array) for feeds, array in zip(loaded, arrays, strict=True)] == [
        True
    ] * 3


def test_rows_of_one_npy_where_the_model_takes_one(tmp_path, rng):
    rows = rng.normal(size=(5, 2)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    samples = open_samples(tmp_path, TWO[1:])
    assert [sample.name for sample in samples] == [f"rows.npy[{i}]" for i in range(5)]
    assert np.array_equal(np.concatenate([check_feeds(s, TWO[1:])["b"] for s in samples]), rows)


def test_npz_files_name_their_inputs(tmp_path):
    np.savez(tmp_path / "s.npz", a=np.int64([[1, 2, 3]]), b=np.float32([[1, 2]]))
    (feeds,) = load_all(tmp_path, TWO)
    assert feeds["a"].tolist() == [[1, 2, 3]]


def test_zoo_folders(tmp_path):
    for k in range(2):
        folder = tmp_path / f"test_data_set_{k}"
        folder.mkdir()
        for i, array in enumerate((np.int64([[k]]), np.float32([[1, k]]))):
            (folder / f"input_{i}.pb").write_bytes(onnx.numpy_helper.from_array(array).SerializeToString())
    loaded = load_all(tmp_path, TWO)
    assert [feeds["b"][0, 1] for feeds in loaded] == [0, 1]


def test_a_missing_batch_axis_is_added_and_uint8_converted():
    sample = Sample("s", lambda: {"x": np.ones((3, 4, 4), np.uint8)})
    feeds = check_feeds(sample, ONE)
    assert feeds["x"].shape == (1, 3, 4, 4)
    assert feeds["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"y": np.zeros((1, 3, 4, 4), np.float32)}, r"has inputs \[y\], but the model takes \[x\]"),
        (
            {"x": np.zeros((1, 3, 5, 4), np.float32)},
            r"float32\[1,3,5,4\], but the model takes float32\[\?,3,4,4\]",
        ),
        ({"x": np.zeros((1, 3, 4, 4), np.float64)}, r"float64.*save it as float32"),
    ],
)
def test_samples_that_do_not_fit(feeds, said):
    with pytest.raises(DataError, match=rf"sample bad: .*{said}"):
        check_feeds(Sample("bad", lambda: feeds), ONE)


def test_spread_takes_some_of_each_class():
    samples = [Sample(str(i), dict) for i in range(1000)]
    chosen = [int(sample.name) // 100 for sample in spread(samples, 20)]
    assert set(chosen) == set(range(10))
    assert len(spread(samples, 5000)) == 1000


def test_images_need_a_description(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="--preprocess"):
        open_samples(tmp_path, ONE)
    assert load_all(tmp_path, ONE, Forms(ImageForm(resize=(4, 4))))[0]["x"].shape == (1, 3, 4, 4)


def test_truncated_files_are_named(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.png: not an image, or truncated"):
        load_all(tmp_path, ONE, Forms(ImageForm(resize=(4, 4))))
    (tmp_path / "a.png").unlink()
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(b"\x93NUMPY garbage")
        with pytest.raises(DataError, match=name):
            load_all(tmp_path, ONE)
        (tmp_path / name).unlink()


def test_preprocessing_steps():
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    image = Image.fromarray(pixels)
    rgb = apply(image, ImageForm(crop=(4, 4), mean=(1, 2, 3), std=(2, 2, 2)))
    assert rgb.shape == (1, 3, 4, 4)
    assert np.array_equal(rgb[0, 1], (pixels[1:5, 2:6, 1] - np.float32(2)) / 2)
    bgr = apply(image, ImageForm(channels="BGR", layout="NHWC"))
    assert np.array_equal(bgr[0], pixels[:, :, ::-1])
    assert apply(image, ImageForm(resize_short=12)).shape == (1, 3, 12, 16)
    assert apply(image, ImageForm(resize_height=3)).shape == (1, 3, 3, 4)
    assert apply(image, ImageForm(channels="GRAY")).shape == (1, 1, 6, 8)


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_grey_levels_of_16_bits_become_8_bits(tmp_path, suffix):
    levels = np.uint16([[0, 257, 300], [20000, 65534, 65535]])
    if suffix == "ppm":  # not every Pillow writes it
        (tmp_path / "a.ppm").write_bytes(b"P5\n3 2\n65535\n" + levels.astype(">u2").tobytes())
    else:
        Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    spec = [InputSpec("x", np.dtype(np.float32), (1, 1, 2, 3))]
    (feeds,) = load_all(tmp_path, spec, Forms(image=ImageForm(channels="GRAY")))
    assert feeds["x"][0, 0].tolist() == [[0, 1, 1], [78, 255, 255]]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_an_unknown_range_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((2, 3), kind)).save(tmp_path / "a.tiff")
    spec = [InputSpec("x", np.dtype(np.float32), (1, 1, 2, 3))]
    with pytest.raises(DataError, match="32-bit numbers of an unknown range"):
        load_all(tmp_path, spec, Forms(image=ImageForm(channels="GRAY")))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"colour": 1}, "no key 'colour'"),
        ({"layout": "CHW"}, "choose one of NCHW, NHWC"),
        ({"crop": 3}, r"give \[height, width\]"),
    ],
)
def test_bad_descriptions(table, said):
    with pytest.raises(DataError, match=said):
        parse_forms(table, "p.toml")


def test_presets_and_files(tmp_path):
    assert read_forms("imagenet") == PRESETS["imagenet"]
    path = tmp_path / "p.toml"
    path.write_text('name = "x"\n[preprocess]\nchannels = "GRAY"\nmean = 3\nresize = [2, 3]\n')
    assert read_forms(str(path)).image == ImageForm(channels="GRAY", mean=(3.0,), resize=(2, 3))
    path.write_text("name = 1\n")
    assert read_forms(str(path)) == Forms()
    with pytest.raises(DataError, match="presets are"):
        read_forms("nothing")


@pytest.mark.parametrize("content", [{}, {"readme.md": "no sample"}])
def test_folders_without_samples(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="no sample found"):
        open_samples(tmp_path, ONE)
    with pytest.raises(DataError, match="no such data folder"):
        open_samples(tmp_path / "missing", ONE)


def test_arrays_are_read_by_several_threads(tmp_path):
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", np.full((1, 3, 4, 4), i, np.float32))
        np.savez(tmp_path / f"z{i}.npz", x=np.full((1, 3, 4, 4), i, np.float32))
    samples = open_samples(tmp_path, ONE)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: int(samples[i % len(samples)].load()["x"][0, 0, 0, 0]), range(2000)))
    assert found == [i % len(samples) % 8 for i in range(2000)]
