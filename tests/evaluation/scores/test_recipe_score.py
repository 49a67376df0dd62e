"""A new kind of score needs one entry in one registry."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from onnxq.cli.commands import main
from onnxq.evaluation.scores.kinds import KINDS
from onnxq.evaluation.scores.score import Score, ScoreKind, mean, pick
from tests.conftest import CNN, SAMPLES

EVAL = ["eval", str(CNN), str(CNN), "--data", str(SAMPLES / "eval"), "--samples", "12", "--no-latency"]


def margin(options):
    """Share of samples whose best class leads by more than 5.2; needs no labels."""

    def contribution(case):
        scores = np.sort(pick(case, options), axis=-1)
        return [float(scores[0, -1] - scores[0, -2] > 5.2)]

    return [Score("margin", contribution, mean)]


def test_a_registered_kind_is_scored_gated_and_reported(tmp_path, monkeypatch):
    refused = CliRunner().invoke(main, [*EVAL, "--metric", "margin"])
    assert refused.exit_code == 2
    monkeypatch.setitem(
        KINDS, "margin", ScoreKind(margin, needs_labels=False, class_axis=-1, percent=("margin",))
    )
    report = tmp_path / "report.json"
    gated = ["--metric", "margin", "--max-drop", "0.5", "--report", str(report)]
    result = CliRunner().invoke(main, [*EVAL, *gated])
    assert result.exit_code == 0, result.stderr
    found = json.loads(report.read_text())
    value = found["scores"][1]["metrics"]["margin"]
    assert (found["metric"], value["samples"], value["drop"]) == ("margin", 12, 0)
    assert value["value"] == 5 / 12
    assert found["scores"][1]["agreement"] == 1  # the class axis of the kind counts
    assert [gate["holds"] for gate in found["gates"]] == [True]
    assert f"{value['value']:.2%}" in result.stdout  # in percent, as the kind says


def test_a_registered_kind_may_need_labels(monkeypatch):
    monkeypatch.setitem(KINDS, "margin", ScoreKind(margin))
    result = CliRunner().invoke(main, [*EVAL, "--metric", "margin"])
    assert result.exit_code == 2
    assert "--metric margin needs labels" in result.stderr


@pytest.mark.parametrize("command", ["quantize", "eval"])
def test_the_help_names_every_kind(command):
    text = CliRunner().invoke(main, [command, "--help"]).stdout
    assert all(kind in text for kind in KINDS)
