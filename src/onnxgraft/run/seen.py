"""What was seen when an engine was run beside the exact reference of its graph; see `proof`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Proof"]


@dataclass(frozen=True)
class Proof:
    """What was seen of one output of an engine.

    Attributes:
        output: Its name.
        passed: Whether the engine computes what its graph says.
        decibels: SQNR of the engine against the exact reference; of a float graph, against it.
        exact: SQNR of the exact reference against the float twin; infinite for a float graph.
        engine: SQNR of the engine against the float twin; as ``decibels`` for a float graph.
        relative: The largest difference as a fraction of the output's range.
        reason: Why it does not pass; empty where it does.
    """

    output: str
    passed: bool
    decibels: float
    exact: float
    engine: float
    relative: float
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what stands in a passport; JSON has no infinity, and null stands for one."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Proof:
        """Return what `to_json` wrote."""
        numbers = ("decibels", "exact", "engine", "relative")
        read = {name: math.inf if stored[name] is None else float(stored[name]) for name in numbers}
        return cls(
            str(stored["output"]), bool(stored["passed"]), **read, reason=str(stored["reason"])
        )

    def __str__(self) -> str:
        """Return what was seen, in a sentence."""
        if self.reason:
            return f"{self.output}: {self.reason}"
        if math.isinf(self.exact):
            return f"{self.output}: differs from its graph by {self.relative:.1e} of the range"
        return (
            f"{self.output}: {self.decibels:.1f} dB of the exact answer; against the network with "
            f"float activations {self.engine:.1f} dB, the exact answer {self.exact:.1f} dB"
        )
