"""How arrays of many samples, or a number of images, are divided into feeds of a model.

An input says it by its shape: a feed takes one row where the first axis is free, and so many rows
where it is fixed; and an array with one axis more than the input has a feed in each of its entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.words import several

__all__ = ["Division", "divide", "divide_images", "image_batch", "row_of"]


@dataclass(frozen=True)
class Division:
    """What a feed takes of each array, or of the images.

    Attributes:
        total: How many feeds there are.
        batch: Rows or images in a feed.
        rows: Input -> rows in a feed; an input that is not here takes an entry of its array.
        whole: The inputs that are fed the whole array each time.
        notes: What is not used, and what is fed more than once.
    """

    total: int
    batch: int = 1
    rows: Mapping[str, int] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def take(self, name: str, array: Array, index: int) -> Array:
        """Return what the feed at ``index`` takes of the array of an input."""
        if name in self.whole:
            return array
        if name not in self.rows:
            return np.asarray(array[index])
        count = self.rows[name]
        return array[index * count : (index + 1) * count]


def divide(arrays: Mapping[str, Array], inputs: Sequence[TensorSpec], where: str) -> Division:
    """Return how the arrays of ``inputs`` are divided.

    Args:
        arrays: By input.
        inputs: What is fed.
        where: Begins the sentence that refuses them: whose arrays they are.

    Raises:
        InputError: They hold samples in different numbers, or too few for one batch.
    """
    lengths = {
        spec.name: len(arrays[spec.name]) if arrays[spec.name].ndim else 0 for spec in inputs
    }
    entries, fixed, whole = set(), {}, set()
    for spec in inputs:
        array = arrays[spec.name]
        if array.ndim == len(spec.shape) + 1:
            entries.add(spec.name)
        elif array.ndim == len(spec.shape):
            if not spec.shape:
                whole.add(spec.name)
            elif isinstance(spec.shape[0], int):
                fixed[spec.name] = max(spec.shape[0], 1)
    own = {name for name, count in fixed.items() if lengths[name] == count}
    for batch in (*sorted(set(fixed.values()), reverse=True), 1):
        rows = {
            spec.name: fixed.get(spec.name, batch)
            for spec in inputs
            if spec.name not in entries and spec.name not in whole
        }
        feeds = {name: length // rows.get(name, 1) for name, length in lengths.items()}
        counts = {feeds[name] for name in feeds if name not in own | whole} or {1}
        total = max(counts)
        # What is one batch alone may be the same for all samples; it says no batch for others.
        filled = all(lengths[name] == batch for name in rows if name not in fixed)
        batches = any(
            feeds[name] == total and (name not in own or filled)
            for name, count in fixed.items()
            if count == batch
        )
        if len(counts) == 1 and (batch == 1 or batches):
            break
    else:
        raise InputError(f"{where}: the arrays differ in length: {lengths}")
    _check_total(total, rows, lengths, inputs, where)
    again = {name for name in own if feeds[name] != total}
    rows = {name: count for name, count in rows.items() if name not in again}
    notes = [
        f"{where}: {lengths[name] % count} of {lengths[name]} rows for {name} were not used; they "
        f"make no batch of {count}"
        for name, count in rows.items()
        if lengths[name] % count
    ]
    if total > 1:
        notes += [f"{where}: the array for {name} was fed to each sample" for name in again | whole]
    return Division(
        total, max(rows.values(), default=1), rows, frozenset(whole | again), tuple(sorted(notes))
    )


def _check_total(
    total: int,
    rows: Mapping[str, int],
    lengths: Mapping[str, int],
    inputs: Sequence[TensorSpec],
    where: str,
) -> None:
    if total:
        return
    for spec in inputs:
        if 0 < lengths[spec.name] < rows.get(spec.name, 1):
            raise InputError(
                f"{where}: has {lengths[spec.name]} rows for the input {spec}, which takes "
                f"{rows[spec.name]} at once; give as many, or a model whose first axis is free"
            )
    raise InputError(f"{where}: there are no samples in it")


def image_batch(spec: TensorSpec) -> int:
    """Return how many images an input takes at once: one where its batch is free."""
    first = spec.shape[0] if len(spec.shape) == 4 else 1
    return max(first, 1) if isinstance(first, int) else 1


def row_of(engine: str, spec: TensorSpec, output: str, value: Array, row: int) -> Array:
    """Return what an output says of one of the images that were fed together, in a batch of 1.

    Args:
        engine: Its name.
        spec: Of its first input.
        output: The output's name.
        value: All of it.
        row: Which image.

    Raises:
        InputError: The output has no row for each image.
    """
    batch = image_batch(spec)
    if batch == 1:
        unbatched = len(spec.shape) == 3 and value.shape[:1] != (1,)
        return value[np.newaxis] if unbatched else value
    if value.shape[:1] != (batch,):
        raise InputError(
            f"{engine}: takes {batch} images at once, and its output {output} of {value.shape} "
            "has no row for each of them; use a model whose batch is free"
        )
    return value[row : row + 1]


def divide_images(count: int, spec: TensorSpec, where: str) -> Division:
    """Return how ``count`` images are divided into feeds of an input.

    Raises:
        InputError: They make no batch.
    """
    batch = image_batch(spec)
    if count < batch:
        raise InputError(
            f"{where}: has {several(count, 'image')}, and the input {spec} takes {batch} at once; "
            "give as many, or a model whose first axis is free"
        )
    left = count % batch
    note = (
        f"{where}: {left} of {several(count, 'image')} were not used; they make no batch of {batch}"
    )
    return Division(count // batch, batch, notes=(note,) if left else ())
