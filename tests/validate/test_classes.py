"""What a report's page says of classes."""

from __future__ import annotations

import pytest

from onnxgraft.stages.validate.report import CandidateRow
from onnxgraft.stages.validate.views.classes import changed_classes, confusions


def row(
    name: str, per_class: dict[str, float], direction: str = "up", **more: list[int]
) -> CandidateRow:
    return CandidateRow(name, [], {}, per_class, True, "", more, direction=direction)


ORIGINAL = {"sky": 90.0, "car": 80.0, "road": 70.0}


def test_what_loses_most_is_first_among_classes_and_engines() -> None:
    little = row("a", {"sky": 89.0, "car": 80.0, "road": 70.5})
    much = row("b", {"sky": 90.0, "car": 76.0, "road": 70.0})
    found = changed_classes([row("original", ORIGINAL), little, much])
    assert found.names == ["b", "a"]
    assert [one.name for one in found.rows] == ["car", "sky", "road"]
    assert [one.original for one in found.rows] == [80.0, 90.0, 70.0]
    assert [change for _, change in found.rows[2].changes] == [0.0, 0.5]
    assert (found.most, found.sign) == (4.0, 1)


def test_an_engine_in_which_no_class_differs_is_named_and_not_drawn() -> None:
    found = changed_classes([row("original", ORIGINAL), row("a", {**ORIGINAL, "sky": 90.001})])
    assert (found.names, found.same) == ([], ["a"])
    assert all(one.changes == [] for one in found.rows)


def test_where_less_is_better_a_rise_is_a_loss() -> None:
    found = changed_classes([row("original", ORIGINAL, "down"), row("a", {**ORIGINAL, "car": 81})])
    assert (found.rows[0].name, found.sign) == ("car", -1)


def test_a_class_that_one_side_lacks_has_no_difference() -> None:
    found = changed_classes([row("original", {"sky": 90.0}), row("a", {"car": 5.0})])
    assert {one.name: (one.original, one.changes) for one in found.rows} == {
        "sky": (90.0, [(None, None)]), "car": (None, [(5.0, None)]),
    }  # fmt: skip


def test_mistakes_are_told_with_how_often_the_original_makes_them() -> None:
    before = row("original", {}, sky=[9, 1, 0], car=[0, 10, 0])
    after = row("a", {}, sky=[6, 3, 1], car=[2, 8, 0])
    names, table, mistakes = confusions([before, after])[1]
    assert names == ["a"]
    assert table is not None
    assert table.columns == ["sky", "car", "nothing"]
    assert table.rows == [("sky", [60.0, 30.0, 10.0]), ("car", [20.0, 80.0, 0.0])]
    assert mistakes == [
        ("sky", "car", 3, 30.0, 1), ("car", "sky", 2, 20.0, 0), ("sky", "nothing", 1, 10.0, 0),
    ]  # fmt: skip


def test_what_a_detector_sees_in_nothing_is_a_row_and_no_column() -> None:
    same = [row(name, {}, car=[3, 1], nothing=[2, 0]) for name in ("a", "b")]
    [(names, table, _)] = confusions(same)
    assert names == ["a", "b"]
    assert table is not None
    assert table.columns == ["car", "nothing"]
    assert table.rows[1] == ("nothing", [100.0, 0.0])


def test_where_all_is_taken_for_a_class_there_is_no_column_of_nothing() -> None:
    table = confusions([row("a", {}, sky=[3, 1, 0], car=[1, 3, 0])])[0][1]
    assert table is not None
    assert table.columns == ["sky", "car"]
    assert table.rows[0] == ("sky", [75.0, 25.0])


@pytest.mark.parametrize(("count", "drawn"), [(29, True), (30, False)])
def test_a_table_of_many_classes_is_not_drawn_but_its_mistakes_are_told(
    count: int, drawn: bool
) -> None:
    counts = {f"c{i}": [int(i == j) * 5 for j in range(count + 1)] for i in range(count)}
    counts["c0"][1] = 4
    _, table, mistakes = confusions([row("a", {}, **counts)])[0]
    assert (table is not None) is drawn
    assert mistakes == [("c0", "c1", 4, pytest.approx(400 / 9), 4)]
