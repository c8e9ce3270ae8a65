"""What every engine looks like, whatever runs it: the border between all stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np

from onnxgraft.data.casting import numpy_type
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec

__all__ = [
    "Computing", "Engine", "Probing", "Resource", "Writing", "check_feeds", "check_into",
    "other_shape",
]  # fmt: skip


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


class Writing(Engine, Protocol):
    """An engine that writes its outputs where it is told."""

    def infer_into(self, feeds: Feeds, into: Mapping[str, Array]) -> None:
        """Write the outputs for ``feeds`` into arrays of the caller's; see `Computing`."""


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


class Computing(Resource):
    """What engines share that a library runs: outputs may be written into given arrays."""

    name: str
    outputs: tuple[TensorSpec, ...]

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        raise NotImplementedError

    def infer_into(self, feeds: Feeds, into: Mapping[str, Array]) -> None:
        """Write the outputs for ``feeds`` into arrays of the caller's.

        OpenVINO and onnxruntime read contiguous feeds where they lie and write there at once;
        where a library can't, outputs are copied.

        Args:
            feeds: By input name.
            into: By output name, each of the output's type and of the shape that it has for these
                feeds, contiguous; outputs that are not named are dropped.

        Raises:
            InputError: An array is of another shape or type, or lies over a feed.
        """
        check_into(self.name, self.outputs, into, feeds)
        for name, value in self.check_shapes(feeds, into).items():
            np.copyto(into[name], value)

    def check_shapes(self, feeds: Feeds, into: Mapping[str, Array]) -> Outputs:
        """Return the outputs that arrays are given for; raise InputError where one has no room."""
        found = self.infer(feeds)
        for name, array in into.items():
            if found[name].shape != array.shape:
                raise other_shape(self.name, name, array, found[name].shape)
        return {name: found[name] for name in into}


def check_into(
    engine: str, specs: Sequence[TensorSpec], into: Mapping[str, Array], feeds: Feeds
) -> None:
    """Raise InputError unless outputs can be written into the arrays, and over no feed."""
    known = {spec.name: spec for spec in specs}
    for name, array in into.items():
        if name not in known:
            raise InputError(f"{engine}: no output is called {name!r}; {nearest(name, known)}")
        spec = known[name]
        dtype = np.dtype(np.float32) if spec.dtype == "bfloat16" else numpy_type(spec)
        if not spec.accepts(array.shape) or array.dtype != dtype:
            raise InputError(
                f"{engine}: the output {spec} can't be written into an array of {array.shape} "
                f"{array.dtype}"
            )
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise InputError(f"{engine}: {name} is written into a contiguous, writable array")
        if any(np.may_share_memory(array, value) for value in feeds.values()):
            raise InputError(f"{engine}: the array for {name} lies over a feed; give another")


def other_shape(engine: str, name: str, array: Array, shape: Sequence[int]) -> InputError:
    """Return what to raise where an output has another shape than its array."""
    return InputError(
        f"{engine}: the output {name} is {tuple(shape)} for these feeds, and the array that was "
        f"given for it is {array.shape}"
    )


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
        if value.dtype != numpy_type(spec):
            raise InputError(f"{engine}: the input {spec} was fed an array of {value.dtype}")
        checked[spec.name] = value
    return checked
