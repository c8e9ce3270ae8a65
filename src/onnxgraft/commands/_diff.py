"""`diff`: two runs side by side, and whether the second is worse than it may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxgraft.commands._opening import Place
from onnxgraft.commands._outputs import check_output
from onnxgraft.commands._runs import BETTER, LATENCY, METRICS, PASSED, SIZE, Run, Value, read_run
from onnxgraft.errors import InputError
from onnxgraft.graph.foreign import WEB_PAGE
from onnxgraft.notebook import section
from onnxgraft.stages.validate.views.changes import write_changes

__all__ = ["Change", "Differences", "diff", "shown", "times"]


@dataclass(frozen=True)
class Change:
    """What two runs say of one thing, where they do not say the same.

    Attributes:
        part: Of a run, such as ``metrics`` or ``ranges``.
        name: Of the thing.
        before: In the first run; None where that says nothing of it.
        after: In the second.
    """

    part: str
    name: str
    before: Value
    after: Value

    @property
    def ratio(self) -> float | None:
        """How many times the first value the second one is, of numbers."""
        numbers = [v for v in (self.before, self.after) if isinstance(v, float)]
        return numbers[1] / numbers[0] if len(numbers) == 2 and numbers[0] else None

    @property
    def size(self) -> float:
        """How large the change is beside others of its part: those of numbers by their ratio."""
        if self.ratio is None or self.ratio <= 0:
            return math.inf
        return abs(math.log(self.ratio))


@dataclass(frozen=True)
class Differences:
    """What changed from one run to another.

    Attributes:
        before: Where the first run is.
        after: Where the second is.
        changes: By part, the largest first.
        same: How many things are the same in both, by part.
        worse: A sentence for each that is worse by more than is allowed.
        missing: A sentence for each part of which one run alone says something.
        out: Where the page was written; empty where none was asked for.
    """

    before: str
    after: str
    changes: list[Change]
    same: dict[str, int] = field(default_factory=dict)
    worse: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    out: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is worse by more than is allowed."""
        return not self.worse

    def parts(self) -> dict[str, list[Change]]:
        """Return the changes by part."""
        found: dict[str, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.part, []).append(change)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "passed": self.passed,
            **{key: value for key, value in asdict(self).items() if key != "changes"},
            "changes": [{**asdict(change), "ratio": change.ratio} for change in self.changes],
        }

    def _repr_html_(self) -> str:
        tables = [
            section(part, ("", self.before, self.after, "times"), [
                (c.name, shown(c.before), shown(c.after), times(c))
                for c in changes
            ])
            for part, changes in self.parts().items()
        ]  # fmt: skip
        title = f"{self.before} and {self.after}: {'pass' if self.passed else 'FAIL'}"
        return section(title, lines=[*self.worse, *self.missing]) + "".join(tables)


def diff(
    before: Place,
    after: Place,
    *,
    metric_drop: float | None = None,
    slower: float | None = None,
    larger: float | None = None,
    out: Place | None = None,
    force: bool = False,
) -> Differences:
    """Compare two runs: recipes, versions, graphs, ranges, layers, metrics, sizes and times.

    What passed in the first run and fails in the second is worse, whatever is allowed.

    Args:
        before: A folder that `deploy` or ``validate --report`` wrote, its ``report.json``, or an
            engine with its passport.
        after: Another.
        metric_drop: How much a metric may lose, in its own unit; None allows anything.
        slower: How many percent more time an inference may take, likewise.
        larger: How many percent larger an engine may be, likewise.
        out: Where to write the comparison as a web page; None writes none.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: One of them is no run, or the first says nothing of what is to be held.
    """
    limits = [
        _Limit("--metric-drop", metric_drop, METRICS, _lost),
        _Limit("--slower", slower, LATENCY, _longer),
        _Limit("--larger", larger, SIZE, _larger),
    ]
    for limit in limits:
        if limit.most is not None and not 0 <= limit.most < math.inf:
            raise InputError(f"{limit.option} {limit.most:g}: a number from 0 on")
    check_output(out, WEB_PAGE, force=force)
    one, other = _opened(before, after)
    held = [limit for limit in limits if limit.most is not None]
    for limit in held:
        if not one.tables.get(limit.part):
            raise InputError(
                f"{one.path}: says nothing of {limit.part}, which {limit.option} holds the other "
                "run to; name a run that was validated and timed, or leave the option out"
            )
    changes: list[Change] = []
    same: dict[str, int] = {}
    worse: list[str] = []
    missing: list[str] = []
    for part in dict.fromkeys((*one.tables, *other.tables)):
        mine, theirs = one.tables.get(part, {}), other.tables.get(part, {})
        if not mine or not theirs:
            if mine or theirs:
                told = one if mine else other
                missing.append(f"{part}: {told.path} alone says what they are")
            found = []
        else:
            found = [
                Change(part, name, mine.get(name), theirs.get(name))
                for name in dict.fromkeys((*mine, *theirs))
                if mine.get(name) != theirs.get(name)
            ]
            same[part] = len({*mine} & {*theirs}) - sum(
                name in mine and name in theirs for name in (change.name for change in found)
            )
        told_worse = dict(_worse(part, one, other, held))
        worse += told_worse.values()
        changes += sorted(found, key=lambda c: (c.name not in told_worse, -c.size))
    done = Differences(one.path, other.path, changes, same, worse, missing, str(out or ""))
    if out is not None:
        write_changes(
            out, (done.before, done.after), worse, missing,
            {part: [(c.name, shown(c.before), shown(c.after), times(c)) for c in rows]
             for part, rows in done.parts().items()}, same,
        )  # fmt: skip
    return done


@dataclass(frozen=True)
class _Limit:
    """How much worse a part may be.

    Attributes:
        option: That sets it.
        most: In the unit of the option.
        part: Of the run.
        told: Returns, of two values and the most, a phrase where the second is worse by more.
    """

    option: str
    most: float | None
    part: str
    told: Callable[[float, float, float], str]


def _lost(one: float, other: float, most: float) -> str:
    return f"lost {one - other:.4g}, and {most:g} is allowed" if one - other > most else ""


def _rose(one: float, other: float, most: float) -> str:
    return f"rose by {other - one:.4g}, and {most:g} is allowed" if other - one > most else ""


def _moved(one: float, other: float, most: float) -> str:
    told = "moved by {:.4g}, and {:g} is allowed; its function does not say where it is better"
    return told.format(abs(other - one), most) if abs(other - one) > most else ""


_BY_DIRECTION = {"up": _lost, "down": _rose, "": _moved}


def _longer(one: float, other: float, most: float) -> str:
    return _more(one, other, most, "takes {:.3g} % more time, and {:g} % is allowed")


def _larger(one: float, other: float, most: float) -> str:
    return _more(one, other, most, "is {:.3g} % larger, and {:g} % is allowed")


def _more(one: float, other: float, most: float, words: str) -> str:
    return words.format(100 * (other / one - 1), most) if other > one * (1 + most / 100) else ""


def _worse(part: str, one: Run, other: Run, held: list[_Limit]) -> Iterator[tuple[str, str]]:
    """Yield what is worse by more than is allowed in a part, with a sentence."""
    theirs = other.tables.get(part, {})
    for name, mine in one.tables.get(part, {}).items():
        found = theirs.get(name)
        if part == PASSED and mine == "pass" and found == "FAIL":
            yield name, f"{name}: passes in {one.path} and fails in {other.path}"
        for limit in held:
            if limit.part != part or not isinstance(mine, float):
                continue
            if not isinstance(found, float) or math.isnan(found):
                lacking = f"{other.path} does not say it, so it can't be held to {limit.option}"
                yield name, f"{name}: {lacking}"
            elif told := _told(limit, one, name)(mine, found, limit.most or 0.0):
                yield name, f"{name}: {told} ({shown(mine)} and {shown(found)})"


def _told(limit: _Limit, run: Run, name: str) -> Callable[[float, float, float], str]:
    """Return what tells of a value that it is worse: of metrics, by where they are better."""
    direction = run.tables.get(BETTER, {}).get(name)
    metric = limit.part == METRICS and isinstance(direction, str)
    return _BY_DIRECTION.get(str(direction), _moved) if metric else limit.told


def _opened(before: Place, after: Place) -> tuple[Run, Run]:
    """Return both runs; two engines are compared whatever they are called."""
    one, other = read_run(before), read_run(after)
    if one.engine == other.engine:
        return one, other
    return read_run(before, alone=False), read_run(after, alone=False)


def shown(value: Value) -> str:
    """Return a value for people; a dash where there is none.

    >>> shown(None), shown(1.25), shown(1234567.0), shown("pass")
    ('-', '1.25', '1234567', 'pass')
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 1e5 else f"{value:.5g}"


def times(change: Change) -> str:
    """Return how many times the first value the second one is; empty where that says nothing."""
    return "" if change.ratio is None else f"{change.ratio:.3g}x"
