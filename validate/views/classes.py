"""What a report's page says of classes: what each loses, and for what it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxgraft.stages.validate.report import CandidateRow

__all__ = ["ClassRow", "Classes", "Confusion", "changed_classes", "confusions"]

# A table of more classes can't be read; the mistakes that are made most can.
_MOST = 30
_MISTAKES = 20
# A difference that rounds to nothing draws no bar.
_LEAST = 0.005
_NONE = "nothing"


@dataclass(frozen=True)
class ClassRow:
    """One class.

    Attributes:
        name: Its name.
        original: The original's value; None where it has none.
        changes: Of each candidate, its value and the difference, each None where there is none.
    """

    name: str
    original: float | None
    changes: list[tuple[float | None, float | None]]


@dataclass(frozen=True)
class Classes:
    """All classes, those that lose most first.

    Attributes:
        names: Of the candidates in which any class differs; those that lose most first.
        same: Of the others.
        rows: A row each, with the changes of those named.
        most: The largest difference.
        sign: -1 where less is better; else 1.
    """

    names: list[str]
    same: list[str]
    rows: list[ClassRow]
    most: float
    sign: int


def changed_classes(rows: Sequence[CandidateRow]) -> Classes:
    """Return what the classes lose in each candidate against the original."""
    if not rows:
        return Classes([], [], [], _LEAST, 1)
    original, *others = rows
    sign = -1 if original.direction == "down" else 1
    before = original.per_class

    def change(row: CandidateRow, name: str) -> float | None:
        both = row.per_class.get(name), before.get(name)
        return None if both[0] is None or both[1] is None else both[0] - both[1]

    def worst(changes: Sequence[float | None]) -> float:
        return min((sign * one for one in changes if one is not None), default=0.0)

    names = list(dict.fromkeys(name for row in rows for name in row.per_class))
    differing = [
        row
        for row in others
        if row.per_class.keys() != before.keys()
        or any(abs(change(row, name) or 0.0) >= _LEAST for name in names)
    ]
    differing.sort(key=lambda row: worst([change(row, name) for name in names]))
    found = [
        ClassRow(
            name, before.get(name),
            [(row.per_class.get(name), change(row, name)) for row in differing],
        )
        for name in names
    ]  # fmt: skip
    found.sort(key=lambda row: worst([one for _, one in row.changes]))
    sizes = [abs(one) for row in found for _, one in row.changes if one is not None]
    same = [row.name for row in others if row not in differing]
    return Classes([row.name for row in differing], same, found, max([_LEAST, *sizes]), sign)


@dataclass(frozen=True)
class Confusion:
    """A table of what the classes are taken for, in percent.

    Attributes:
        columns: What they are taken for.
        rows: The classes, each with its shares.
    """

    columns: list[str]
    rows: list[tuple[str, list[float]]]


# What is labelled, what it is taken for, how often, in percent, and how often by the original.
Mistake = tuple[str, str, int, float, int]


def confusions(
    rows: Sequence[CandidateRow],
) -> list[tuple[list[str], Confusion | None, list[Mistake]]]:
    """Return tables where they can be read, and mistakes, with the names of whom they are of."""
    found: list[tuple[list[str], dict[str, list[int]]]] = []
    for row in rows:
        same = next((names for names, table in found if table == row.confusion), None)
        if same is not None:
            same.append(row.name)
        elif row.confusion:
            found.append(([row.name], row.confusion))
    return [(names, _table(table), _mistakes(table, found[0][1])) for names, table in found]


def _columns(counts: dict[str, list[int]]) -> list[str]:
    """Return what columns are of: the classes, and none of them."""
    width = len(next(iter(counts.values())))
    return [*list(counts)[: width - 1], _NONE]


def _table(counts: dict[str, list[int]]) -> Confusion | None:
    columns = _columns(counts)
    if len(columns) > _MOST:
        return None
    if not any(row[-1] for row in counts.values()):
        columns.pop()
    return Confusion(
        columns,
        [
            (name, [100 * count / (sum(row) or 1) for count in row[: len(columns)]])
            for name, row in counts.items()
        ],
    )


def _mistakes(counts: dict[str, list[int]], before: dict[str, list[int]]) -> list[Mistake]:
    columns = _columns(counts)
    found = [
        (label, taken, row[at], 100 * row[at] / sum(row), _at(before.get(label, []), at))
        for label, row in counts.items()
        for at, taken in enumerate(columns)
        if taken != label and row[at]
    ]
    return sorted(found, key=lambda mistake: -mistake[2])[:_MISTAKES]


def _at(row: list[int], index: int) -> int:
    return row[index] if index < len(row) else 0
