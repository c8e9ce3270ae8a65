"""What every engine looks like, whatever runs it: the border between all stages."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np

from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec

__all__ = ["Engine", "Probing", "Resource", "check_feeds"]


class Engine(Protocol):
    """Something that computes outputs from feeds: an original framework, or a built engine."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""

    def close(self) -> None:
        """Give back what the engine holds."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Probing(Engine, Protocol):
    """An engine that can be asked for the tensors inside it."""

    def probe(self, tensors: Sequence[str], feeds: Feeds) -> Outputs:
        """Return those of ``tensors`` that it has, by name, for ``feeds``."""


class Resource:
    """The context manager half of an engine: ``close`` at the end of the block."""

    def close(self) -> None:
        """Give back what the engine holds."""

    def __enter__(self) -> Self:
        """Return the engine itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the engine."""
        self.close()


def check_feeds(engine: str, specs: Sequence[TensorSpec], feeds: Feeds) -> dict[str, Array]:
    """Return ``feeds`` in the order and types of ``specs``.

    Raises:
        InputError: A feed is missing, unknown, or of another shape or type.
    """
    known = [spec.name for spec in specs]
    for name in feeds:
        if name not in known:
            raise InputError(f"{engine}: no input is called {name!r}; {nearest(name, known)}")
    checked = {}
    for spec in specs:
        if spec.name not in feeds:
            raise InputError(f"{engine}: the input {spec} was not fed")
        value = np.asarray(feeds[spec.name])
        if not spec.accepts(value.shape):
            raise InputError(f"{engine}: the input {spec} was fed an array of {value.shape}")
        if value.dtype != np.dtype(spec.dtype):
            raise InputError(f"{engine}: the input {spec} was fed an array of {value.dtype}")
        checked[spec.name] = value
    return checked
