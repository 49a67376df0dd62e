import pytest

from onnxq.report.tables import table

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
