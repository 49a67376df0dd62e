"""Target files are read back as they were written, and a damaged one is one clear line."""

from dataclasses import replace
from importlib.resources import files

import pytest

from onnxq.cost.model import Costs, Work, product_work
from onnxq.cost.target import CPU_TABLES, find_target
from onnxq.cost.target_file import BLOCKED, COLUMNS, ROWS, as_toml, read_target_file, shipped
from onnxq.errors import OnnxqError
from onnxq.options import Target

NAMES = [name for tables in CPU_TABLES.values() for name in tables]
TABLES = files("onnxq.cost") / "tables"


def test_the_columns_are_a_call_and_the_sizes_of_a_node():
    assert ("call", *Work._fields) == COLUMNS


def test_every_shipped_file_belongs_to_a_target():
    assert {path.name for path in TABLES.iterdir()} == {f"{name}.toml" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_is_written_as_it_was_read(name):
    found = shipped(name)
    assert found.table.keys() == (ROWS if found.block else ROWS - BLOCKED)
    assert all(len(row) == len(COLUMNS) and min(row) >= 0 for row in found.table.values())
    assert as_toml(found) == (TABLES / f"{name}.toml").read_text(encoding="utf-8")


def test_known_numbers_of_a_table():
    assert shipped("xeon_vnni").table["integer depthwise"] == (
        4880.0, 0.0106, 0.0108, 0.0759, 0.0106, 0.139, 4.68, 1.26, 0.0,
    )  # fmt: skip


def test_a_cpu_without_the_blocked_layout_has_fewer_rows(tmp_path):
    found = shipped("epyc_avx2")
    less = replace(
        found, block=0, table={name: row for name, row in found.table.items() if name not in BLOCKED}
    )
    (tmp_path / "cpu.toml").write_text(as_toml(less))
    assert read_target_file(tmp_path / "cpu.toml") == less


def test_names_of_cpus_cannot_break_a_file(tmp_path):
    odd = replace(shipped("epyc_avx2").machine, cpu='a "CPU"\\\n\x7f\U0001f600', cores=3)
    (tmp_path / "cpu.toml").write_text(as_toml(replace(shipped("epyc_avx2"), machine=odd)))
    assert read_target_file(tmp_path / "cpu.toml").machine == replace(odd, cpu='a "CPU"\\???')


GOOD = as_toml(shipped("epyc_avx2"))


def test_every_cut_of_a_file_is_refused(tmp_path):
    path = tmp_path / "cpu.toml"
    for end in range(0, len(GOOD) - 1, 41):
        path.write_text(GOOD[:end])
        with pytest.raises(OnnxqError, match="profile the device again"):
            read_target_file(path)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("format = 1", "format = 2", "has format 2, this onnxq reads format 1"),
        ("format = 1", "format = true", "'format' has the wrong value 'True'"),
        ("block = 8", "block = -8", "'block' has the wrong value '-8'"),
        ("threads = 1", "threads = 0", "'threads' has the wrong value '0'"),
        ("saturates = true", 'saturates = "yes"', "'saturates' has the wrong value 'yes'"),
        ("cores = 2", "cores = [2]", "'cores' has the wrong value"),
        ("profiling = 1000.0", "profiling = inf", "'profiling' has the wrong value 'inf'"),
        ("[machine]", "[machines]", "has no 'machine'"),
        ("\nAdd = {", "\nSum = {", r"\[float\] has a row 'Sum' of no kernel"),
        ("call = 1", "call = -1", "expected numbers from 0 to 1e"),
        ("call = 1", "call = 1e999 #", "expected numbers|not a target file"),
        ("macs = ", "mac = ", "expected numbers"),
        ("macs = 0", "macs = nan #", "expected numbers|not a target file"),
        ("[integer]", "", "has no 'integer'|not a target file"),
        ("[float]", "[", "not a target file"),
    ],
)
def test_a_tampered_file_is_refused_in_one_line(old, new, line, tmp_path):
    assert old in GOOD
    path = tmp_path / "cpu.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(OnnxqError, match=line) as error:
        read_target_file(path)
    assert str(error.value).startswith(f"--target {path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0" * 100, b"x" * (1 << 21), b"a=" + b"[" * 5000, b""])
def test_what_is_no_target_file_is_refused(content, tmp_path):
    path = tmp_path / "cpu.toml"
    path.write_bytes(content)
    with pytest.raises(OnnxqError, match="onnxq profile"):
        read_target_file(path)


def test_a_target_is_a_family_a_file_or_several(tmp_path):
    path = tmp_path / "cpu.toml"
    path.write_text(GOOD)
    here = replace(shipped("epyc_avx2").machine, onnxruntime="0.0.1")
    (tmp_path / "old.toml").write_text(as_toml(replace(shipped("epyc_vnni"), machine=here)))
    family, single = find_target(Target.VNNI), find_target(str(path))
    assert (family.name, len(family.costs), family.saturates, family.notes) == ("vnni", 2, False, ())
    assert (single.saturates, len(single.costs), single.cpus) == (True, 1, ("AMD EPYC (Zen 5)",))
    several = find_target((Target.VNNI, path, tmp_path / "old.toml", path))
    assert several.costs == family.costs + single.costs + find_target(tmp_path / "old.toml").costs
    assert several.saturates
    assert any("measured with onnxruntime 0.0.1" in note for note in several.notes)


def test_what_a_file_is_called_does_not_depend_on_its_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cpu.toml").write_text(GOOD)
    found = [find_target(tmp_path / folder / "cpu.toml").identity for folder in ("a", "b")]
    assert found[0] == found[1]
    assert found[0].startswith("cpu.toml ")


@pytest.mark.parametrize("name", ["vnnni", "no/such/file.toml"])
def test_an_unknown_target_is_refused(name):
    with pytest.raises(OnnxqError, match=r"is no family of CPUs \(portable, vnni, arm\) and no file"):
        find_target(name)


def test_a_target_without_tables_has_no_costs(monkeypatch):
    monkeypatch.setitem(CPU_TABLES, Target.ARM, ())
    assert find_target(Target.ARM).costs == ()


def test_the_tables_of_arm_cpus_differ_by_their_dot_products():
    fast, slow = (shipped(name) for name in CPU_TABLES[Target.ARM])
    assert (fast.block, fast.saturates, slow.saturates) == (0, False, False)
    macs = COLUMNS.index("macs")
    for kind in ("pointwise", "spatial", "product"):
        floats, integers = (
            [found.table[f"{form} {kind}"][macs] for found in (fast, slow)]
            for form in (f"float{'' if kind == 'product' else ' plain'}", "integer")
        )
        # a dot product has 16 products, four times those of a float instruction
        assert floats[0] > 3.5 * integers[0]
        assert 1.4 < floats[1] / integers[1] < 2.5


@pytest.mark.parametrize("name", CPU_TABLES[Target.ARM])
def test_large_products_pay_for_their_conversions_on_arm_and_small_ones_do_not(name):
    costs = Costs(shipped(name).table, 0, profiling=shipped(name).profiling)

    def gain(rows, deep, columns):
        work = product_work(deep * columns, deep, rows * deep, rows * columns)
        conversions = costs.conversion_ns([rows, deep], to_integers=True)
        conversions += costs.conversion_ns([rows, columns], to_integers=False)
        return (
            costs.kernel_ns("float", "product", work)
            - costs.kernel_ns("integer", "product", work)
            - conversions
        )

    assert gain(64, 256, 256) > 0
    assert gain(1, 16, 16) < 0
