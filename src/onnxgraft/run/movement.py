"""On which feeds the outputs of a network move, so that they show what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.run.feeds import KEPT_BYTES, PLAIN, Manner, bytes_of
from onnxgraft.run.saturation import Ends, liveliness

__all__ = ["Movement", "at_once"]

# An output moves enough where a tenth of its values, or of its range, is between its ends.
_LIVELY = 1.0
# Of an output that plain numbers leave at an end, so many manners are taken.
_MOST = 4


class Movement:
    """How well the float outputs of a network move on feeds of several manners.

    An output that a softmax, a sigmoid or a Clip holds at an end shows nothing of what the network
    before it computes. So for each output that does so on plain feeds, the manners are taken in
    which it moves most; plain feeds are always among them. The outputs themselves are not kept.

    Args:
        ends: Of the outputs that have some, where they are known.
    """

    def __init__(self, ends: Mapping[str, Ends] | None = None) -> None:
        self._ends = ends or {}
        self._scores: dict[str, dict[Manner, float]] = {}

    def note(self, manner: Manner, runs: Sequence[Outputs]) -> None:
        """Take in what the network made of feeds of a manner, `PLAIN` first."""
        for name, value in runs[0].items():
            if value.dtype.kind != "f":
                continue
            values = [outputs[name] for outputs in runs]
            if manner == PLAIN or all(np.isfinite(value).all() for value in values):
                score = liveliness(values, self._ends.get(name))
                self._scores.setdefault(name, {})[manner] = score

    @property
    def enough(self) -> bool:
        """Whether all outputs move enough on plain feeds."""
        return not self._unmoved

    @property
    def still(self) -> list[str]:
        """The outputs that move in no manner."""
        return [name for name in self._unmoved if max(self._scores[name].values()) < _LIVELY / 100]

    @property
    def chosen(self) -> list[Manner]:
        """The manners in which the outputs move, plain feeds first."""
        chosen = [PLAIN]
        for scores in map(self._scores.__getitem__, self._unmoved):
            best = sorted(scores, key=lambda manner: -scores[manner])[:_MOST]
            chosen += [manner for manner in best if scores[manner] > scores[PLAIN]]
        return list(dict.fromkeys(chosen))

    @property
    def _unmoved(self) -> list[str]:
        return [name for name, scores in self._scores.items() if scores[PLAIN] < _LIVELY]


def at_once(runs: Sequence[Mapping[str, Array]]) -> int:
    """Return how many manners are kept at once whose feeds and outputs are as large as these."""
    return max(1, KEPT_BYTES // max(sum(map(bytes_of, runs)), 1))
