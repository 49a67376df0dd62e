import math
import re

import pytest

from onnxq.report.charts import Line, Point, axis, curve, layers_chart, scatter, spread_labels


@pytest.mark.parametrize("values", [[0.91, 0.9100001], [1.0], [-3, 4000], [0.0], [1e-9, 2e-9]])
def test_axes_hold_their_values_and_round_numbers(values):
    found = axis(values)
    assert found.low <= min(values) <= max(values) <= found.high
    assert 1 <= len(found.ticks) <= 7
    assert all(found.low <= value <= found.high for value, _ in found.ticks)
    assert len({text for _, text in found.ticks}) == len(found.ticks)


def test_nearly_equal_values_do_not_fill_the_axis():
    found = axis([0.91, 0.9101])
    assert found.high - found.low > 0.015


def test_an_axis_of_shares_ends_at_its_highest_value():
    assert axis([99.0, 100.0], highest=100.0).high == 100.0


@pytest.mark.parametrize("count", [1, 2, 8, 30])
def test_labels_never_overlap(count):
    places = [(200 + i % 3, 100 + i // 3) for i in range(count)]
    texts = [str(i + 1) for i in range(count)]
    found = spread_labels(texts, places, [5.0] * count)
    boxes = [(x - 9, y - 7, x + 9, y + 7) for x, y in found]
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            assert abs(a[0] - b[0]) >= 8 or abs(a[1] - b[1]) >= 13
    assert all(math.isfinite(value) for box in boxes for value in box)


def test_labels_avoid_other_boxes():
    bar = (194.0, 50.0, 206.0, 150.0)
    ((x, y),) = spread_labels(["1"], [(200.0, 100.0)], [5.0], [bar])
    assert not (x + 5 > bar[0] and x - 5 < bar[2] and bar[1] < y < bar[3])


def test_a_scatter_chart_numbers_its_points_and_escapes_names():
    drawn = scatter([Point("<b>", 1.0, 30.0), Point("kept", 0.5, 30.01, kept=True)], "x", "y", line=1.0)
    assert "<b>" not in drawn
    assert re.findall(r'middle">(\d)</text>', drawn)[-2:] == ["1", "2"]
    assert drawn.count('class="dot kept"') == 1


def test_few_layers_are_named_and_all_have_tooltips():
    names = [f"layer{i}" for i in range(100)]
    drawn = layers_chart(names, [Line("int8", [float(i % 40) for i in range(100)])], "SQNR, dB")
    assert len(re.findall(r"rotate", drawn)) <= 14
    assert drawn.count("<title>") == 100
    assert layers_chart(names, [Line("int8", [None] * 100)], "SQNR, dB") == ""


def test_a_curve_spans_its_box():
    assert curve([0.0, 1.0], 10, 4) == "M0.0 4.0L5.0 0.0"
    assert curve([], 10, 4) == ""


def test_small_differences_of_latency_do_not_fill_the_axis():
    found = axis([1.0, 1.002], include=1.0, least=0.2)
    assert found.high - found.low == pytest.approx(0.2)


def test_the_bar_of_an_interval_is_inside_the_axes():
    drawn = scatter(
        [Point("a", 1.0, 90.0, ends=(80.0, 99.0)), Point("b", 0.5, 90.0)], "x", "y", highest=100.0
    )
    (low, high) = re.search(r'M[\d.]+ ([\d.]+)V([\d.]+)M.*class="spread"', drawn).groups()
    assert 226 > float(low) > float(high) > 26
