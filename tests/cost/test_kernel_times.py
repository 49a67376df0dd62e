"""The tables of kernel times match the cost model, and the benchmark writes what the package reads."""

import importlib
from importlib.resources import files

import pytest

from onnxq.cost.kernel_times import COLUMNS, read_table
from onnxq.cost.model import CPU_TABLES, Work, cpus_of
from onnxq.options import Target
from tests.conftest import ROOT


def test_the_columns_are_a_call_and_the_sizes_of_a_node():
    assert ("call", *Work._fields) == COLUMNS


def test_every_table_file_belongs_to_a_target():
    names = {path.name for path in (files("onnxq.cost") / "tables").iterdir()}
    assert names == {f"{name}.csv" for tables in CPU_TABLES.values() for name, _ in tables}


@pytest.mark.parametrize("name", [name for tables in CPU_TABLES.values() for name, _ in tables])
def test_a_table_has_a_number_for_each_column(name):
    table = read_table(name)
    assert len(table) == 43
    assert all(len(row) == len(COLUMNS) and min(row) >= 0 for row in table.values())


def test_known_numbers_of_a_table():
    assert read_table("xeon_vnni")["integer depthwise"] == (
        4880.0, 0.0106, 0.0108, 0.0759, 0.0106, 0.139, 4.68, 1.26, 0.0,
    )  # fmt: skip


def test_a_target_without_tables_has_no_costs():
    assert cpus_of(Target.ARM) == ()


def test_the_benchmark_writes_a_table_as_it_is_read(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    kernel_costs = importlib.import_module("kernel_costs")
    kernel_costs.write_table(read_table("epyc_avx2"), tmp_path / "table.csv")
    shipped = files("onnxq.cost") / "tables" / "epyc_avx2.csv"
    assert (tmp_path / "table.csv").read_bytes() == shipped.read_bytes()
