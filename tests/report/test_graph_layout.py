import random
import re

import pytest

from onnxq.report.graph_layout import blocks, layout

WIDTH, HEIGHT = 92.0, 22.0


def _overlaps(places):
    by_row = {}
    for x, y in places:
        by_row.setdefault(y, []).append(x)
    return sum(
        b - a < WIDTH - 1e-6
        for row in by_row.values()
        for a, b in zip(sorted(row), sorted(row)[1:], strict=False)
    )


def _random_graph(count):
    random.seed(count)
    inputs = [[]]
    for i in range(1, count):
        inputs.append(
            sorted(
                {max(0, i - random.choice([1, 1, 1, 2, 3, 30])), random.randrange(i)}
                if i % 40 == 0
                else {i - 1}
            )
        )
    return inputs


@pytest.mark.parametrize("count", [1, 2, 50, 700])
def test_nodes_do_not_overlap_and_lie_inside(count):
    drawn = layout(_random_graph(count), WIDTH, HEIGHT)
    assert len(drawn.places) == count
    assert _overlaps(drawn.places) == 0
    assert all(0 <= x <= drawn.width - WIDTH and 0 <= y <= drawn.height - HEIGHT for x, y in drawn.places)


def test_a_node_is_below_its_inputs_or_in_a_later_column():
    inputs = [[], [0], [0], [1, 2], [3]]
    places = layout(inputs, WIDTH, HEIGHT).places
    for v, before in enumerate(inputs):
        for u in before:
            assert places[v][1] > places[u][1] or places[v][0] > places[u][0] + WIDTH
    assert places[1][1] == places[2][1]


def test_a_chain_of_thousands_is_cut_into_columns_of_a_screens_shape():
    drawn = layout([[], *([i] for i in range(2999))], WIDTH, HEIGHT)
    assert 1 < drawn.width / drawn.height < 4
    assert len({x for x, _ in drawn.places}) > 10
    assert len(drawn.paths) == 2999


def test_the_same_graph_is_drawn_the_same():
    inputs = _random_graph(300)
    assert layout(inputs, WIDTH, HEIGHT) == layout(inputs, WIDTH, HEIGHT)


def test_long_edges_go_around_the_nodes():
    inputs = [[], *([i] for i in range(60)), [0, 60]]
    path = layout(inputs, WIDTH, HEIGHT).paths[-2]
    assert re.fullmatch(r"M[\d ]+(?:[VH]\d+)+", path)


def test_an_empty_graph_has_no_size():
    assert layout([], WIDTH, HEIGHT).places == []


def test_blocks_follow_scopes_and_cover_all_nodes_in_order():
    names = [f"/layer{i}/part{j}/op" for i in range(12) for j in range(6)]
    groups = blocks(names)
    assert [i for group in groups for i in group] == list(range(len(names)))
    assert groups[0] == [0, 1, 2, 3, 4, 5]


def test_blocks_without_scopes_are_of_equal_length():
    groups = blocks([f"Conv_{i}" for i in range(600)])
    assert {len(group) for group in groups} == {7, 600 % 7 or 7}
