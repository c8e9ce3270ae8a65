"""Feeds that are invented where there are no data: seeded, and of the shapes that inputs want."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.graph.training import is_training_flag
from onnxgraft.graph.wanted import Wants

__all__ = [
    "KEPT_BYTES", "MANNERS", "PLAIN", "Manner", "Setting", "batch_names", "bytes_of", "drawn",
    "fixed_batches", "random_feeds", "sizes_of",
]  # fmt: skip

_NOTHING = Wants()
# Numbers are drawn in int64.
_LONGEST = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Manner:
    """How floats are drawn: ``scale * (n + shift * m)`` of normal n by value and m by sample.

    Attributes:
        scale: Of all values.
        shift: How far samples are apart from each other.
        draw: Which of several draws.
    """

    scale: float = 1.0
    shift: float = 0.0
    draw: int = 0


PLAIN = Manner()
# What is tried where plain normal numbers leave an output at one of its ends.
MANNERS = tuple(
    Manner(scale, shift, draw)
    for draw in range(3)
    for scale, shift in (
        (1, 0), (4, 0), (16, 0), (64, 0), (256, 0), (1 / 4, 0), (1 / 16, 0), (1 / 256, 0), (1, 1),
        (16, 1), (1 / 16, 1),
    )
)  # fmt: skip
# Of feeds and of what networks make of them no more is kept at once, where one sample takes less.
KEPT_BYTES = 256 << 20
# So many numbers are drawn at once.
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Setting:
    """The sizes of free axes, and how whole numbers are drawn.

    Attributes:
        batch: A free first axis, and every axis of its name.
        image: Other free axes of inputs with four or more axes, as images have.
        row: Other free axes of inputs with fewer, as sequences have.
        uneven: Make every other axis longer, so that no two of an image are the same.
        caution: How whole numbers are drawn: 0 reaches -1 where that is legal, 1 does not go below
            0, 2 stays at 0 and 1, 3 takes one number alone.
        flags: What single booleans are that are no training flags.
        turn: Which number comes first where there is place for few.
    """

    batch: int = 1
    image: int = 8
    row: int = 8
    uneven: bool = False
    caution: int = 1
    flags: bool = False
    turn: int = 0


def random_feeds(
    specs: Sequence[TensorSpec],
    batch: int,
    seed: int = 0,
    *,
    size: int = 8,
    manner: Manner = PLAIN,
    wants: Wants = _NOTHING,
) -> dict[str, Array]:
    """Return seeded normal feeds.

    A free first dimension becomes ``batch``, any other ``size`` where there are four or more
    dimensions, as images have, and 8 where there are fewer, as sequences have; equal names get
    equal sizes. Whole numbers are what ``wants`` says, of 8 bits in three axes or more all that
    their type holds, or else 0 to 9; booleans are mixed.
    """
    return drawn(specs, Setting(batch, size), seed, manner=manner, wants=wants)


def drawn(
    specs: Sequence[TensorSpec],
    setting: Setting,
    seed: int = 0,
    *,
    manner: Manner = PLAIN,
    wants: Wants = _NOTHING,
) -> dict[str, Array]:
    """Return seeded feeds in one setting.

    Args:
        specs: The inputs.
        setting: Sizes, and how whole numbers are drawn.
        seed: Of all numbers.
        manner: How floats are drawn.
        wants: What the network says of its inputs.

    Raises:
        InputError: An input has a type of which there are no random numbers, such as strings.
    """
    rng = np.random.default_rng([seed, manner.draw] if manner.draw else seed)
    whole = _Whole(setting, wants, *sizes_of(specs, setting, wants), seed)
    feeds: dict[str, Array] = {}
    for spec in specs:
        shape = whole.shapes[spec.name]
        try:
            dtype = np.dtype(spec.dtype)
        except TypeError as error:
            raise InputError(f"the input {spec} can't be fed with random numbers") from error
        is_float = dtype.kind == "f" or dtype.name == "bfloat16"
        if dtype.kind not in "iub" and not is_float:
            raise InputError(f"the input {spec} can't be fed with random numbers")
        if is_float and spec.name not in wants.indices and not whole.is_mask(spec):
            feeds[spec.name] = _normal(shape, dtype, manner, rng)
        else:
            feeds[spec.name] = whole.draw(spec, dtype, rng).astype(dtype)
    return feeds


def _normal(
    shape: tuple[int, ...], dtype: np.dtype[Any], manner: Manner, rng: np.random.Generator
) -> Array:
    """Return normal numbers in a manner."""
    if manner.shift:
        whole = rng.standard_normal(shape)
        whole += manner.shift * rng.standard_normal([*shape[:1], *[1] * len(shape[1:])])
        whole *= manner.scale
        return whole.astype(dtype)
    value = np.empty(math.prod(shape), dtype)
    for begin in range(0, value.size, _AT_ONCE):  # numpy draws them in 8 bytes each
        part = value[begin : begin + _AT_ONCE]
        part[:] = manner.scale * rng.standard_normal(part.size)
    return value.reshape(shape)


def sizes_of(
    specs: Sequence[TensorSpec], setting: Setting, wants: Wants = _NOTHING
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Return the shapes of inputs in a setting, and the sizes of free axes by their names.

    An axis that is called as the sum of others, such as ``past + 1``, gets the sum of their sizes.
    """
    batches = batch_names(specs)
    images = {dim for spec in specs if len(spec.shape) > 3 for dim in spec.shape[1:]} - {"?"}
    names: dict[str, int] = {}
    free: dict[tuple[str, int], int] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                continue
            batch = dim in batches or (axis, dim) == (0, "?") or _of_state(spec, axis, specs)
            if batch:
                size = setting.batch
            else:
                size = setting.image if len(spec.shape) > 3 or dim in images else setting.row
            size = max(size, wants.least.get((spec.name, axis), 1))
            if setting.uneven and axis % 2 and not batch:
                size += 32 if size % 32 == 0 else -(-size // 2)
            free[spec.name, axis] = size
            if dim != "?":
                names[dim] = max(size, names.get(dim, 0))
    for dim in names:
        terms = [term.strip() for term in dim.split("+")]
        if len(terms) > 1 and all(term.isdecimal() or term in names for term in terms):
            names[dim] = sum(int(term) if term.isdecimal() else names[term] for term in terms)
    shapes = {
        spec.name: tuple(
            dim if isinstance(dim, int) else names.get(dim, free[spec.name, axis])
            for axis, dim in enumerate(spec.shape)
        )
        for spec in specs
    }
    return shapes, names


def batch_names(specs: Sequence[TensorSpec]) -> set[int | str]:
    """Return how the batch is called: free first axes that are no later axis beside another.

    Of positions (S) beside ids (N, S), S is no batch.
    """
    first = {spec.shape[0] for spec in specs if spec.shape}
    later = {
        dim for spec in specs if spec.shape and isinstance(spec.shape[0], str)
        for dim in spec.shape[1:]
    }  # fmt: skip
    return {dim for dim in first - later or first if isinstance(dim, str) and dim != "?"}


def _of_state(spec: TensorSpec, axis: int, specs: Sequence[TensorSpec]) -> bool:
    """Tell whether an axis is the batch of a recurrent state, (layers, batch, units)."""
    shape = spec.shape
    if axis != 1 or len(shape) != 3 or not isinstance(shape[0], int) or isinstance(shape[2], str):
        return False
    others = [other.shape for other in specs if other is not spec and other.shape]
    shared = shape[1] != "?" and any(shape[1] in other for other in others)
    return not shared and any(isinstance(other[0], str) for other in others)


@dataclass(frozen=True)
class _Whole:
    """Draws whole numbers and masks, which no normal numbers are."""

    setting: Setting
    wants: Wants
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    seed: int

    def is_mask(self, spec: TensorSpec) -> bool:
        """Tell whether an input is used, or called, as a mask."""
        named = "mask" in spec.name.lower() and spec.kind in "iu"
        known = spec.name in self.wants.masks
        return (known or named) and spec.name not in self.wants.indices

    def draw(self, spec: TensorSpec, dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
        """Return the values of one input."""
        shape = self.shapes[spec.name]
        if dtype.kind == "b" and math.prod(shape) == 1:
            return np.full(shape, self.setting.flags and not is_training_flag(spec.name))
        side = np.random.default_rng([self.seed, 1, zlib.crc32(spec.name.encode())])
        if dtype.kind == "b" or self.is_mask(spec):
            return _mixed(shape, side)
        low, high = self._limits(spec.name, dtype, shape)
        value = rng.integers(low, high, shape, endpoint=True)
        known = spec.name in self.wants.indices
        edges = list(dict.fromkeys([high, low, max(low, 0)])) if known or low < 0 else []
        if self.setting.caution == 0 and dtype.kind in "iu":
            info = np.iinfo(dtype)
            least, most = (low, high) if known else (int(info.min), min(int(info.max), _LONGEST))
            special = self.wants.special.get(spec.name, ())
            edges = [n for n in special if least <= n <= most] + edges
        if edges and value.size:
            begin = self.setting.turn % len(edges)
            places = side.permutation(value.size)[: len(edges)]
            value.flat[places] = [*edges[begin:], *edges[:begin]][: len(places)]
        return value

    def _limits(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the smallest and the largest number that is drawn."""
        caution = self.setting.caution
        known = self.wants.indices.get(name, ())
        if not known and dtype in (np.int8, np.uint8) and len(shape) > 2 and caution < 2:
            # A picture, or quantized.
            info = np.iinfo(dtype)
            return int(info.min), int(info.max)
        if known:
            low = max(entry.first for entry in known)
            high = min(entry.last + self.sizes.get(entry.of, 0) for entry in known)
        else:
            # A single number is a count more often than an index.
            low, high = (-1 if math.prod(shape) > 1 else 0), 9
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            low, high = max(low, int(info.min)), min(high, int(info.max))
        low = max(low, 0) if caution else low
        if caution > 1:
            high = min(high, low + 1)
        if caution > 2:
            low = high if not known else low
            high = low
        return low, max(low, high)


def _mixed(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return a mask with a true and a false in every row, if there is place for both."""
    keys = rng.random(shape)
    mask = np.asarray(keys > 0.5)
    axis = max((axis for axis, size in enumerate(shape) if size > 1), default=None)
    if axis is None or not mask.size:
        return np.ones(shape, np.bool_)
    np.put_along_axis(mask, keys.argmin(axis, keepdims=True), False, axis)
    np.put_along_axis(mask, keys.argmax(axis, keepdims=True), True, axis)
    return mask


def bytes_of(arrays: Mapping[str, Array]) -> int:
    """Return the bytes of feeds or outputs."""
    return sum(value.nbytes for value in arrays.values())


def fixed_batches(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Return the first dimensions of inputs in their order; none where one of them is free.

    What stands fixed beside a free batch, such as a table of anchors, is no batch.
    """
    first = [spec.shape[0] for spec in specs if spec.shape]
    fixed = tuple(dim for dim in first if isinstance(dim, int))
    return fixed if len(fixed) == len(first) else ()
