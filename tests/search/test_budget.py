"""The budget of the search."""

import math
from dataclasses import replace

import pytest

from onnxq.options import QuantizeOptions
from onnxq.search.budget import Budget, search_budget
from onnxq.search.inputs import prepare
from onnxq.search.settings import SearchSettings
from onnxq.search.validation import find_references
from tests.conftest import CNN, SAMPLES


def test_runs_are_counted_down():
    budget = Budget(10)
    budget.spend(4)
    assert (budget.spent, budget.left) == (4, 6)
    budget.spend(7)
    assert budget.left == 0
    assert math.isinf(Budget().left)


def test_small_models_may_take_more_passes():
    assert search_budget(100, 10**9, passes=10, least_macs=1e11).total == 1000
    assert search_budget(8, 10**7, passes=10, least_macs=1e11).total == 10_000


def test_few_samples_count_as_more_unless_the_model_is_large():
    assert search_budget(40, 10**8, passes=10, least_macs=0).total == 1000
    assert search_budget(40, 10**9, passes=10, least_macs=0).total == 800
    assert search_budget(40, 10**11, passes=10, least_macs=0).total == 400
    assert search_budget(200, 10**8, passes=10, least_macs=0).total == 2000


@pytest.mark.parametrize(("passes", "samples"), [(0.0, 4), (10.0, 16)])
def test_a_small_budget_compares_on_few_samples(tmp_path, passes, samples):
    options = QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx")
    inputs = prepare(options, replace(SearchSettings(), search_passes=passes, search_macs=0.0))
    references = find_references(inputs)
    assert references is not None
    assert len(references.names) == min(samples, len(inputs.samples.every))
    assert references.budget.spent == len(references.names)
