import pytest

from onnxq.report.tables import table, wrapped

PATHS = ["models/a/very/long/folder/that/nobody/wants/model.onnx", "models/short.int8.onnx"]
WIDE = [["model", *(f"column {i}" for i in range(9))], *([path, *["123.45"] * 9] for path in PATHS)]
FACTS = [["wrote", "x.onnx"], ["note", "a word " * 30]]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize(("rows", "left"), [(WIDE, 1), (FACTS, 2)])
def test_tables_fit_the_terminal_and_keep_all_cells(rows, left, width):
    text = table(rows, left=left, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("123.45") == (18 if rows is WIDE else 0)
    assert text.count("word") == (0 if rows is WIDE else 30)


def test_shortened_names_keep_their_end():
    text = table(WIDE, width=60)
    assert "model.onnx" in text
    assert "models/a/" not in text


def test_tables_are_whole_without_a_terminal():
    assert max(map(len, table(WIDE).splitlines())) > 130


@pytest.mark.parametrize("width", range(40, 60))
def test_a_number_and_its_unit_stay_on_one_line(width):
    text = "prepare 12.4 s, layers 3.1 s, 31.8 dB, 0.254 ms and 307.3 kB of 12 samples"
    for shown in (wrapped(text, width), table([["time", text]], left=2, width=width)):
        lines = shown.splitlines()
        assert len(lines) > 1
        assert not any(line.strip().startswith(("s,", "dB", "ms", "kB")) for line in lines)
        assert "\N{NO-BREAK SPACE}" not in shown
        assert max(map(len, lines)) <= width
