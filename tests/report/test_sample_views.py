import numpy as np
import soundfile

from onnxq.report.sample_views import sample_views


def test_a_sound_is_a_waveform(tmp_path):
    soundfile.write(tmp_path / "a<b.wav", np.sin(np.arange(4000) / 50), 8000)
    found = sample_views(tmp_path, ["a<b.wav"])["a<b.wav"]
    assert found.startswith("<svg")
    assert "a&lt;b.wav" in found
    assert found.count("L") > 600


def test_a_line_of_text_is_shown_escaped_and_without_empty_lines(tmp_path):
    (tmp_path / "t.txt").write_text("first\n\n<i>second</i>\n" + "x" * 1000, encoding="utf-8")
    found = sample_views(tmp_path, ["t.txt:2", "t.txt:3"])
    assert found["t.txt:2"] == "<blockquote>&lt;i&gt;second&lt;/i&gt;</blockquote>"
    assert found["t.txt:3"].endswith("x…</blockquote>")


def test_one_file_can_be_the_data(tmp_path):
    (tmp_path / "t.txt").write_text("only", encoding="utf-8")
    assert sample_views(tmp_path / "t.txt", ["t.txt:1"])["t.txt:1"] == "<blockquote>only</blockquote>"


def test_other_samples_have_no_view(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert sample_views(tmp_path, ["a.npy", "missing.png", "module:function[3]", "x"]) == {}


def test_a_damaged_file_is_no_reason_to_write_no_report(tmp_path):
    for name in ("a.png", "b.wav"):
        (tmp_path / name).write_bytes(b"not what it says")
    assert sample_views(tmp_path, ["a.png", "b.wav"]) == {}
