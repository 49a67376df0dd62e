from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.errors import DataError
from onnxq.evaluation.scores.detection import detection
from onnxq.evaluation.scores.embedding import ranks
from onnxq.evaluation.scores.kinds import drop_unit, make_scores
from onnxq.evaluation.scores.score import Case, ScoreOptions
from onnxq.evaluation.scores.text import distance
from onnxq.evaluation.scores.uncertainty import measure


def values(kind, cases, options=None):
    """Value of each score of a kind over (outputs, label) cases."""
    scores = make_scores(kind, options or ScoreOptions())
    made = [Case(str(i), {}, {"y": np.asarray(y)}, label) for i, (y, label) in enumerate(cases)]
    found = {}
    for score in scores:
        kept = [each for each in (score.contribution(case) for case in made) if each is not None]
        found[score.name] = score.total(score.rows(kept))
    return found


def test_top_1_and_top_5():
    scores = np.float32([[0.1, 0.9, 0.5, 0.4, 0.3, 0.2, 0.0]])
    assert values("classification", [(scores, "1"), (scores, "2"), (scores, "6"), (scores, "")]) == {
        "top-1": 1 / 3,
        "top-5": 2 / 3,
    }


def test_numbers():
    found = values("regression", [(np.float32([[1, 2]]), "1 4"), (np.float32([[3, 4]]), "3 4")])
    assert found["MAE"] == 0.5
    assert found["RMSE"] == 1.0
    assert found["R2"] == pytest.approx(1 - 4 / 6)
    with pytest.raises(DataError, match="the label has 1 numbers, the output 2"):
        values("regression", [(np.float32([[1, 2]]), "1")])
    with pytest.raises(DataError, match="label 'x' is not a number"):
        values("regression", [(np.float32([[1]]), "x")])


def test_similarities_of_pairs():
    pairs = [((1, 0), (1, 0), "5"), ((1, 0), (1, 1), "3"), ((1, 0), (0, 1), "1"), ((1, 0), (-1, 0), "0")]
    cases = [(np.float32([vector]), label) for a, b, label in pairs for vector in (a, b)]
    assert values("embedding", cases) == {"Spearman": pytest.approx(1)}
    assert values("embedding", [(y, str(-float(label))) for y, label in cases]) == {
        "Spearman": pytest.approx(-1)
    }
    with pytest.raises(DataError, match="give both rows of a pair the same label"):
        values("embedding", [cases[0], cases[2]])
    with pytest.raises(DataError, match=r"has 3 values, that of its pair 2: name the output .* --output"):
        values("embedding", [cases[0], (np.float32([[1, 0, 0]]), cases[0][1])])


def test_token_embeddings_are_pooled_without_filling():
    score = make_scores("embedding", ScoreOptions())[0]
    tokens, mask = np.float32([[[1, 0], [0, 1], [9, 9]]]), np.int64([[1, 1, 0]])
    assert score.contribution(Case("a", {"attention_mask": mask}, {"y": tokens}, "1")) is None
    assert score.contribution(Case("b", {}, {"y": np.float32([[0.5, 0.5]])}, "1")) == [pytest.approx(1), 1.0]


def test_ranks_of_equal_values_are_shared():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]


def test_intersection_over_union_of_pixels(tmp_path):
    np.save(tmp_path / "m.npy", np.uint8([[0, 0, 1, 255], [0, 1, 1, 255]]))
    scores = np.zeros((1, 3, 2, 4), np.float32)
    scores[0, 0], scores[0, 1, :, 1:] = 0.5, 1.0  # class 1 in all but the first column
    found = values("segmentation", [(scores, "m.npy")], ScoreOptions(labels=tmp_path / "labels.csv"))
    assert found["mIoU"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    small = values(
        "segmentation", [(scores[:, :, :1, ::2], "m.npy")], ScoreOptions(labels=tmp_path / "labels.csv")
    )
    assert small["mIoU"] == pytest.approx(
        (3 / 4 + 2 / 3) / 2
    )  # at half the size: columns 0 and 1 of the mask see class 0
    with pytest.raises(DataError, match=r"cannot read mask .*no\.npy"):
        values("segmentation", [(scores, "no.npy")], ScoreOptions(labels=tmp_path / "labels.csv"))


def decode(outputs):
    boxes = outputs["y"]
    return boxes[:, :4], boxes[:, 4], boxes[:, 5]


def test_average_precision_of_boxes():
    options = ScoreOptions(decoder="tests.evaluation.scores.test_scores:decode")
    right, half = [0.1, 0.1, 0.3, 0.3], [0.1, 0.1, 0.3, 0.215]
    label = "0 0.2 0.2 0.2 0.2;1 0.7 0.7 0.2 0.2"
    perfect = np.array([[*right, 0.9, 0], [0.6, 0.6, 0.8, 0.8, 0.8, 1]])
    found = values("detection", [(perfect, label)], options)
    assert found["AP50"] == pytest.approx(1)
    assert found["mAP"] == pytest.approx(1)
    found = values("detection", [(np.array([[*half, 0.9, 0]]), label)], options)
    assert found["AP50"] == pytest.approx(0.5 * 1)  # IoU .575 counts for class 0; class 1 is missed
    assert found["mAP"] == pytest.approx(0.5 * 0.2)
    wrong_first = np.array([[0.5, 0.5, 0.6, 0.6, 0.95, 0], [*right, 0.9, 0]])
    assert values("detection", [(wrong_first, "0 0.2 0.2 0.2 0.2")], options)["AP50"] == pytest.approx(0.5)
    twice = np.array([[*right, 0.9, 0], [*right, 0.8, 0]])
    assert values("detection", [(twice, "0 0.2 0.2 0.2 0.2;0 0.7 0.7 0.1 0.1")], options)[
        "AP50"
    ] == pytest.approx(51 / 101)
    with pytest.raises(DataError, match="--decoder yolo: unknown layout: choose one of yolov8"):
        detection(ScoreOptions(decoder="yolo"))


def test_images_without_boxes_still_count_what_is_found_in_them():
    options = ScoreOptions(decoder="tests.evaluation.scores.test_scores:decode")
    right = [0.1, 0.1, 0.3, 0.3, 0.8, 0]
    false = [0.1, 0.1, 0.3, 0.3, 0.9, 0]
    assert values("detection", [(np.array([right]), "0 0.2 0.2 0.2 0.2"), (np.array([false]), "")], options)[
        "AP50"
    ] == pytest.approx(0.5)


def test_reading_of_ctc_outputs(tmp_path):
    (tmp_path / "charset.txt").write_text("a\nb\n", encoding="utf-8")
    options = ScoreOptions(charset=tmp_path / "charset.txt")
    steps = np.eye(4, dtype=np.float32)[[1, 1, 0, 1, 3, 2, 2]][None]  # a a - a space b b
    found = values("text", [(steps, "aa b"), (steps, "aab")], options)
    assert found == {"exact": 0.5, "CER": pytest.approx(1 / 7), "same lines": 1, "CER to float": 0}
    options = ScoreOptions(charset=tmp_path / "charset.txt", ignore_spaces=True)
    assert values("text", [(steps, "aa b"), (steps, "aab")], options)["exact"] == 1
    joined = np.eye(4, dtype=np.float32)[[1, 1, 0, 1, 0, 2, 2]][None]  # without the space
    score = make_scores("text", options)[2]
    case = Case("a", {}, {"y": joined}, None, {"y": steps})
    assert (score.name, score.contribution(case)) == ("same lines", [1.0])
    assert (score.answer(case), score.answer(case.of_float())) == ("aab", "aa b")
    with pytest.raises(DataError, match="--charset has 2 characters"):
        values("text", [(np.zeros((1, 3, 9), np.float32), "a")], options)


@settings(max_examples=50, deadline=None)
@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_edit_distance_is_the_fewest_edits(one, other):
    reach, steps = {one}, 0
    while other not in reach:
        steps += 1
        reach |= {
            text[:i] + put + text[i + cut :]
            for text in reach
            for i in range(len(text) + 1)
            for put, cut in product(("", "a", "b"), (0, 1))
        }
    assert distance(one, other) == steps


def test_perplexity_of_next_tokens():
    logits = np.log(np.float32([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1, 0.001, 0.001]]]))
    score = make_scores("perplexity", ScoreOptions())[0]
    contribution = score.contribution(Case("a", {"input_ids": np.int64([[0, 1, 2]])}, {"y": logits}, None))
    assert contribution == [pytest.approx(-np.log(0.25) - np.log(0.8)), 2]
    assert score.total(score.rows([contribution])) == pytest.approx((0.25 * 0.8) ** -0.5)
    assert not score.higher
    masked = {"input_ids": np.int64([[0, 1, 2]]), "attention_mask": np.int64([[1, 1, 0]])}
    assert score.contribution(Case("a", masked, {"y": logits}, None)) == [pytest.approx(-np.log(0.25)), 1]


def length(outputs, label):
    return None if label is None else len(label) * float(outputs["y"][0])


def test_functions_of_the_users():
    assert values(
        "tests.evaluation.scores.test_scores:length", [([2.0], "ab"), ([1.0], None), ([1.0], "abcd")]
    ) == {"length": 4.0}
    for name, said in (("nothing", "no 'nothing'"), ("length", "raised IndexError")):
        with pytest.raises(DataError, match=said):
            values(f"tests.evaluation.scores.test_scores:{name}", [([], "a")])
    with pytest.raises(DataError, match="--metric psnr: unknown metric: choose one of"):
        values("psnr", [])


# --- how sure


def hits(*right):
    return np.array(right, float).reshape(-1, 1)


def test_two_images_in_300_are_chance_and_twenty_are_not():
    (top1, _) = make_scores("classification", ScoreOptions())
    base = hits(*[1] * 260, *[0] * 40)
    two, twenty = base.copy(), base.copy()
    two[:2], twenty[:20] = 0, 0
    few = measure(top1, two, base)
    assert few.drop == pytest.approx(200 / 300)
    assert not few.significant
    assert few.p_value == pytest.approx(0.5, abs=0.06)  # McNemar's exact test: 2 of 2 changes one way
    many = measure(top1, twenty, base)
    assert many.significant
    assert many.p_value < 0.01
    assert measure(top1, base, base).p_value == 1


def test_intervals_hold_the_value_and_shrink_with_samples():
    (top1, _) = make_scores("classification", ScoreOptions())
    random = np.random.default_rng(1)
    widths = []
    for count in (50, 5000):
        value = measure(top1, hits(*(random.random(count) < 0.8)))
        assert value.low <= value.value <= value.high
        expected = 2 * 1.96 * np.sqrt(0.8 * 0.2 / count)
        assert 0.7 * expected < value.high - value.low < 1.3 * expected
        widths.append(value.high - value.low)
    assert widths[1] < widths[0] / 5


def test_a_drop_of_what_should_be_small_is_a_rise():
    mae = make_scores("regression", ScoreOptions())[0]
    base = np.array([[1.0, 1.0, 1.0, 0.0, 0.0]] * 20)
    worse = base * [1, 2, 4, 1, 1]
    assert measure(mae, worse, base).drop == pytest.approx(1.0)
    assert measure(mae, base, worse).drop == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("metric", "unit"), [("top-1", " percentage points"), ("Spearman", " hundredths"), ("MAE", ""), ("R2", " hundredths")]
)  # fmt: skip
def test_the_unit_of_a_drop(metric, unit):
    assert drop_unit(metric) == unit


def test_scores_whose_drop_is_in_points_have_a_unit_for_it():
    kinds = [
        ("regression", ScoreOptions()),
        ("embedding", ScoreOptions()),
        ("classification", ScoreOptions()),
    ]
    scores = [score for kind, options in kinds for score in make_scores(kind, options)]
    assert len(scores) >= 6
    assert {score.name: score.share for score in scores} == {
        score.name: bool(drop_unit(score.name)) for score in scores
    }
