"""What differs from one processor to another, and is known here alone."""

from __future__ import annotations

from typing import Any

__all__ = ["exact_sums"]


def exact_sums(options: Any) -> None:
    """Let onnxruntime's integer kernels compute what the Q/DQ graph says on every processor.

    Without VNNI, x86-64 multiplies 8-bit integers in pairs whose sum is held in 16 bits, where
    255 x 127 + 255 x 127 does not fit: it saturates, and an output is off by far more than a step.
    With this entry onnxruntime takes other instructions there; where there is VNNI it changes
    nothing.

    Engines don't set it yet. When they do, so does every session that optimizes, and what uses
    this here goes without.
    """
    options.add_session_config_entry("session.x64quantprecision", "1")
