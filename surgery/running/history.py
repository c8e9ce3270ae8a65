"""The changes of a run: verified together, and the wrong one among them found and undone."""

from __future__ import annotations

from dataclasses import dataclass

from onnxgraft.graph.model import Model
from onnxgraft.stages.surgery.running.lineage import Move
from onnxgraft.stages.surgery.running.rewrite import Context, Finding, Pass
from onnxgraft.stages.surgery.running.snapshot import Snapshot
from onnxgraft.stages.surgery.running.verify import Verifier

__all__ = ["Blame", "Change", "History", "Point", "Step"]

# So many nodes may be noted in points that wait for verification: each takes about a kilobyte.
_MOST_KEPT = 1 << 17


@dataclass(frozen=True)
class Step:
    """One time that a pass changed the graph.

    Attributes:
        before: Operators before, most frequent first.
        after: Operators after.
    """

    before: dict[str, int]
    after: dict[str, int]


class Point:
    """A state of a run to go back to: the graph, the map of names, and which are taken."""

    def __init__(self, model: Model, context: Context) -> None:
        """Note everything; weights are not copied."""
        self._model, self._context = model, context
        self.graph = Snapshot(model.graph)
        self._names = dict(model.names)
        self._taken = context.taken()

    def restore(self) -> None:
        """Make everything what it was, or what it became: points may be visited in any order."""
        self.graph.restore()
        self._model.names.clear()
        self._model.names.update(self._names)
        self._context.start_from(*self._taken)


@dataclass
class Change:
    """One time that a pass changed the graph.

    Attributes:
        item: The pass.
        done: What it did.
        step: The operators before and after.
        moves: What became of single nodes.
        before: The state before, until the change is verified.
    """

    item: Pass
    done: list[Finding]
    step: Step
    moves: list[Move]
    before: Point | None


@dataclass(frozen=True)
class Blame:
    """A pass whose change was undone, and why."""

    item: Pass
    reason: str


class History:
    """What the passes changed, in order.

    Verification holds what all changes together made of the graph against what it was before
    them. Only where that fails are the states in between run, to find the change to blame.
    """

    def __init__(self, model: Model, context: Context) -> None:
        """Begin with no change."""
        self.changes: list[Change] = []
        self._model, self._context = model, context
        self._verified = 0

    def add(self, change: Change) -> None:
        """Note a change."""
        self.changes.append(change)

    @property
    def pending(self) -> int:
        """How many changes are not verified."""
        return len(self.changes) - self._verified

    @property
    def heavy(self) -> bool:
        """Whether what is kept to go back to should be verified, and let go, by now."""
        return self.pending * len(self._model.graph.nodes) > _MOST_KEPT

    def verify(self, verifier: Verifier, seconds: float | None) -> list[Blame]:
        """Verify the pending changes; undo the first wrong one and what came after it.

        Args:
            verifier: Holds the graph against the state of the last verified change.
            seconds: After so long the change to blame is no longer looked for: all that it may
                be are undone.

        Returns:
            The passes to blame: their changes, and those after them, are gone.

        Raises:
            InputError: The model as it came can't be run, or not within ``seconds``.
        """
        if self.pending:
            verifier.begin(seconds)
        while self.pending:
            wrong = verifier.check(self._model)
            if wrong is None:
                self._accept(verifier, len(self.changes))
            elif blamed := self._search(verifier, wrong, seconds):
                return blamed
        return []

    def _search(self, verifier: Verifier, wrong: str, seconds: float | None) -> list[Blame]:
        """Halve the pending changes until one is left.

        If it moves the outputs within float noise, and only the sum of several was too much, it is
        accepted, the graph is again what it became, and nobody is blamed.
        """
        last = Point(self._model, self._context)
        bad = len(self.changes)
        late = False
        while bad - self._verified > 1 and not late:
            middle = (self._verified + bad) // 2
            self._visit(middle, last)
            found = verifier.check(self._model)
            if found is None:
                self._accept(verifier, middle)
            else:
                bad, wrong = middle, found
            late = seconds is not None and verifier.seconds > seconds
        if bad - self._verified == 1:
            # What it was held against may have been the state before several changes.
            self._visit(bad, last)
            found = verifier.check(self._model)
            if found is None:
                self._accept(verifier, bad)
                last.restore()
                return []
            wrong = found
        suspects = {c.item.name: c.item for c in self.changes[self._verified : bad]}
        if len(suspects) > 1:
            wrong = (
                f"one of {', '.join(suspects)} is wrong: {wrong} (verification took more than "
                f"{seconds:.0f} s: which one was not looked for)"
            )
        self._visit(self._verified, last)
        del self.changes[self._verified :]
        return [Blame(item, wrong) for item in suspects.values()]

    def _visit(self, index: int, last: Point) -> None:
        """Restore the state before the change ``index``, or after all."""
        point = self.changes[index].before if index < len(self.changes) else last
        assert point is not None
        point.restore()

    def _accept(self, verifier: Verifier, end: int) -> None:
        """Take the changes up to ``end``, whose outcome was checked last, as verified."""
        verifier.accept()
        for change in self.changes[self._verified : end]:
            change.before = None
        self._verified = end
