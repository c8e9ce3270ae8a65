"""Data as Python gives them: arrays, datasets, loaders, generators, read once into one file.

What was read is stored in a temporary file that has no name: it is gone with the process, however
that ends. So whatever shuffles, augments or can be read only once gives the same samples in every
pass and in every process, each with a hash of its own.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgraft.errors import InputError, OnnxgraftError, nearest
from onnxgraft.files.limits import SPOOLED_BYTES
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.words import several

__all__ = ["Column", "Stream", "arrays_of", "is_data", "read_stream", "rows_of", "title_of"]

_LABELS = ("labels", "label")
_ALIGNED = 64


class Column:
    """Arrays of any shapes in a file that is mapped, one after the other.

    Attributes:
        ndim: Axes of an entry, and one for the entries.
    """

    def __init__(self, store: _Store, places: Sequence[_Place], ndim: int) -> None:
        self._store, self._places = store, list(places)
        self.ndim = ndim

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._places)

    def __getitem__(self, index: int) -> Array:
        """Return an entry: a view of the file."""
        return self._store.view(self._places[index])

    @property
    def base(self) -> mmap.mmap | None:
        """What is mapped, whose pages can be given back."""
        return self._store.mapped


@dataclass(frozen=True)
class Stream:
    """What was read.

    Attributes:
        arrays: By input; of each an entry a sample.
        labels: As many for each sample; None where there are none.
        notes: Sentences that the user should read.
    """

    arrays: dict[str, Any]
    labels: Any | None
    notes: tuple[str, ...] = ()


def is_data(data: object) -> bool:
    """Tell whether data are objects of Python, and no path."""
    return not isinstance(data, str | os.PathLike)


def title_of(data: Any) -> str:
    """Return what messages call data of Python."""
    if isinstance(data, np.ndarray | dict | tuple | list):
        return "the data"
    return str(getattr(data, "__name__", None) or type(data).__name__)


def arrays_of(
    data: object, inputs: Sequence[TensorSpec]
) -> tuple[dict[str, Array], Array | None] | None:
    """Return the arrays of inputs and the labels, where data are whole arrays; None where not.

    An array feeds the only input; a mapping has an array for each, and ``labels``; a tuple is
    either of them, and the labels, as Keras' ``fit`` takes them.
    """
    if isinstance(data, tuple) and len(data) == 2 and _is_array(data[1]):
        values, labels = data
        if not (_is_array(values) or _is_arrays(values)):
            return None
        labels = _array(labels, "the labels")
    elif _is_array(data) or _is_arrays(data):
        values, labels = data, None
    else:
        return None
    named, found = _named(values, inputs, "the arrays")
    labels = found if labels is None else labels
    return named, labels


def rows_of(
    arrays: Mapping[str, Array], labels: Array | None
) -> Callable[[], Iterator[Mapping[str, Array]]]:
    """Return a function that yields the entries of whole arrays, along axis 0."""
    lengths = {name: len(value) for name, value in arrays.items()}
    if labels is not None:
        lengths["labels"] = len(labels)
    if len(set(lengths.values())) != 1:
        raise InputError(f"the arrays differ in length: {lengths}")

    def rows() -> Iterator[Mapping[str, Array]]:
        for index in range(next(iter(lengths.values()))):
            row = {name: np.asarray(value[index]) for name, value in arrays.items()}
            yield row if labels is None else {**row, "labels": np.asarray(labels[index])}

    return rows


def read_stream(
    data: object,
    inputs: Sequence[TensorSpec],
    where: str,
    *,
    function: Callable[[Any], Any] | None = None,
    images: int | None = None,
) -> Stream:
    """Read data into a file: each entry is a sample or a batch of them.

    An entry is an array, a mapping by input, or a tuple of arrays and a label. An array with the
    axes of its input is a batch, one with an axis less is a sample.

    Args:
        data: An iterable, a ``tf.data.Dataset``, a torch ``DataLoader`` or dataset, or a function
            that returns one.
        inputs: To be fed.
        where: What messages call the data.
        function: Makes what is fed of each entry, without its label.
        images: Stop after so many samples; None reads to the end.

    Raises:
        InputError: An entry does not fit, or can't be made; the message tells its number.
    """
    reader = _Reader(inputs, where)
    notes = []
    for number, entry in enumerate(_entries(data, where, images)):
        reader.add(number, entry, function)
        if images is not None and reader.rows >= images:
            read = several(images, "sample was", "samples were")
            notes.append(f"{where}: the first {read} read, and no more")
            break
    found = reader.done(images)
    return Stream(found.arrays, found.labels, (*notes, *found.notes))


def _entries(data: Any, where: str, images: int | None) -> Iterator[Any]:
    """Yield the entries of whatever can be gone through; an error in it is told by its number."""
    number = 0
    try:
        if callable(data) and not hasattr(type(data), "__iter__"):
            data = data()
        if hasattr(data, "as_numpy_iterator"):
            if int(data.cardinality()) == -1 and images is None:
                raise InputError(
                    f"{where}: the dataset never ends; leave repeat() out, add take(N), or say how "
                    "many samples with images="
                )
            source: Any = data.as_numpy_iterator()
        elif hasattr(type(data), "__iter__"):
            source = iter(data)
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
            source = (data[index] for index in range(len(data)))
        else:
            raise InputError(
                f"{where}: is no data that can be gone through; give arrays, an iterable, a "
                "tf.data.Dataset, a DataLoader, or a function that returns one"
            )
        for entry in source:
            yield entry
            number += 1
    except OnnxgraftError:
        raise
    except Exception as error:  # it is the user's own
        raise InputError(
            f"{where}: sample {number} can't be made ({type(error).__name__}: {error})"
        ) from error


@dataclass(frozen=True)
class _Place:
    """Where an array lies in the file."""

    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Store:
    """A temporary file without a name, written once and then mapped."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile(prefix="onnxgraft-samples-") as file:
            self._keep(os.dup(file.fileno()))
        self.size = 0
        self.mapped: mmap.mmap | None = None

    def _keep(self, descriptor: int) -> None:
        """Hold the file open as long as the store lives."""
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def put(self, value: Array, where: str) -> _Place:
        """Write an array."""
        if value.nbytes:  # or the file would end before its size
            self.size += -self.size % _ALIGNED
        SPOOLED_BYTES.check(self.size + value.nbytes, where, "give fewer with images=")
        place = _Place(self.size, value.shape, value.dtype)
        left, begin = memoryview(value.tobytes()), self.size
        try:
            while left:
                count = os.pwrite(self._descriptor, left, begin)
                left, begin = left[count:], begin + count
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(
                f"{where}: samples are kept in {folder}, which has no room for more "
                f"({error.strerror}; {shutil.disk_usage(folder).free >> 20} MB free); give fewer "
                "with images=, or name another folder with TMPDIR"
            ) from error
        self.size += value.nbytes
        return place

    def view(self, place: _Place) -> Array:
        """Return an array of the file."""
        if not np.prod(place.shape, dtype=np.int64):
            return np.zeros(place.shape, place.dtype)
        if self.mapped is None:
            self.mapped = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return np.ndarray(place.shape, place.dtype, self.mapped, place.begin)

    def __getstate__(self) -> dict[str, Any]:
        """Tell another process of this machine where the file is to be found."""
        return {
            "path": f"/proc/{os.getpid()}/fd/{self._descriptor}",
            "size": self.size,
            "file": _file_of(self._descriptor),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file of the process that wrote it."""
        self.size, self.mapped = state["size"], None
        try:
            self._keep(os.open(state["path"], os.O_RDONLY))
            if _file_of(self._descriptor) != state["file"]:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError as error:
            raise InputError(
                "samples that Python gave are in a file of its process, which this one can't open "
                f"({error.strerror}): use one worker, or write them into an .npz"
            ) from error


def _file_of(descriptor: int) -> tuple[int, int]:
    """Return what tells a file from others: its device and its number."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class _Reader:
    """Takes in entries, and makes samples of them: rows, as many as the model takes at once."""

    def __init__(self, inputs: Sequence[TensorSpec], where: str) -> None:
        self.inputs, self.where = inputs, where
        self.store = _Store()
        # Of a fixed first axis so many rows make a sample; of any other one does.
        self.batch = {spec.name: _batch(spec) for spec in inputs}
        self.waiting: dict[str, deque[tuple[Array, int]]] = {spec.name: deque() for spec in inputs}
        self.places: dict[str, list[_Place]] = {spec.name: [] for spec in inputs}
        self.labels: list[_Place] = []
        self.label_axes = 0
        self.waiting_labels: deque[Array] = deque()
        self.per_sample = 0
        self.rows = self.entries = 0

    def add(self, number: int, entry: Any, function: Callable[[Any], Any] | None) -> None:
        """Take in an entry."""
        where = f"{self.where}: sample {number}"
        given, label = _parts(entry, self.inputs, where)
        if function is not None:
            try:
                given = function(given)
            except OnnxgraftError:
                raise
            except Exception as error:  # it is the user's own
                raise InputError(
                    f"{where}: the preprocessing {function} failed ({type(error).__name__}: "
                    f"{error})"
                ) from error
        named, found = _named(given, self.inputs, where)
        if label is None and found is not None:
            label = found
        rows, feeds, batched = {}, {}, False
        for spec in self.inputs:
            pieces, many = _pieces(named[spec.name], spec, where)
            batched |= many
            self.waiting[spec.name] += pieces
            rows[spec.name] = sum(count for _, count in pieces)
            feeds[spec.name] = rows[spec.name] / self.batch[spec.name]
        if len(set(feeds.values())) != 1:
            raise InputError(
                f"{where}: the inputs have rows for different numbers of samples: {rows}"
            )
        count = max(rows.values())
        self._label(label, count, round(next(iter(feeds.values()))), batched, where)
        self.rows += count
        self.entries += 1
        self._write(where)

    def _label(self, label: Array | None, rows: int, feeds: int, batched: bool, where: str) -> None:
        """Take in the label of an entry, or of each of its rows or samples."""
        if label is None:
            if self.labels or self.waiting_labels:
                raise InputError(f"{where}: has no label, and those before it have")
            return
        if self.entries and not (self.labels or self.waiting_labels):
            raise InputError(f"{where}: has a label, and those before it have none")
        most = max(self.batch.values())
        length = len(label) if label.ndim else 0
        if batched and length == rows:
            found, each = list(label), most
        elif batched and length == feeds > 1:
            found, each = list(label), 1
        elif rows == 1:
            found, each = [label], most
        elif feeds == 1 and rows == most:
            found, each = [label], 1
        else:
            raise InputError(f"{where}: {rows} rows have labels of the shape {label.shape}")
        if self.per_sample and each != self.per_sample:
            raise InputError(f"{where}: a label for each row, or for each sample: not both")
        self.per_sample = each
        self.waiting_labels += [np.asarray(one) for one in found]

    def _write(self, where: str) -> None:
        """Write every sample of which all rows are there."""
        while all(
            sum(count for _, count in self.waiting[name]) >= batch
            for name, batch in self.batch.items()
        ):
            for spec in self.inputs:
                taken, count = [], 0
                while count < self.batch[spec.name]:
                    piece, more = self.waiting[spec.name].popleft()
                    taken.append(piece)
                    count += more
                if len({piece.shape[1:] for piece in taken}) > 1:
                    raise InputError(f"{where}: rows of one batch differ in shape")
                value = taken[0] if len(taken) == 1 else np.concatenate(taken)
                self.places[spec.name].append(self.store.put(value, where))
            for _ in range(self.per_sample if self.waiting_labels else 0):
                label = self.waiting_labels.popleft()
                self.label_axes = label.ndim
                self.labels.append(self.store.put(label, where))

    def done(self, images: int | None) -> Stream:
        """Return what was read."""
        total = len(next(iter(self.places.values())))
        most = max(self.batch.values())
        if not total and self.rows:
            raise InputError(
                f"{self.where}: has {several(self.rows, 'sample')}, and the model takes {most} at "
                "once; give as many, or a model whose first axis is free"
            )
        if not total:
            raise InputError(
                f"{self.where}: gave no samples; an iterator can be read only once: give the "
                "function that makes it, or a list"
            )
        if images is not None:
            total = min(total, max(images // most, 1))
        notes = []
        left = sum(count for _, count in next(iter(self.waiting.values())))
        if left:
            notes.append(
                f"{self.where}: {left} of {self.rows} rows were not used; they make no batch of "
                f"{most}"
            )
        arrays = {
            spec.name: Column(self.store, self.places[spec.name][:total], len(spec.shape) + 1)
            for spec in self.inputs
        }
        labels = self.labels[: total * self.per_sample]
        column = Column(self.store, labels, self.label_axes + 1) if labels else None
        return Stream(arrays, column, tuple(notes))


def _batch(spec: TensorSpec) -> int:
    first = spec.shape[0] if spec.shape else 1
    return max(first, 1) if isinstance(first, int) else 1


def _pieces(value: Array, spec: TensorSpec, where: str) -> tuple[list[tuple[Array, int]], bool]:
    """Return the rows in an array, or several at once with their number; whether it is a batch."""
    axes, batch = len(spec.shape), _batch(spec)
    fixed = bool(axes) and isinstance(spec.shape[0], int)
    if value.ndim == axes + 1:
        return [(np.asarray(one), batch) for one in value], True
    if value.ndim == axes:
        channels_first = axes == 3 and spec.accepts(value.transpose(2, 0, 1).shape)
        if not axes or (fixed and (spec.accepts(value.shape) or channels_first)):
            return [(value, batch)], batch > 1
        return [(value[row : row + 1], 1) for row in range(len(value))], True
    if axes and value.ndim == axes - 1:
        return [(value[np.newaxis], 1)], False
    raise InputError(f"{where}: an array of {value.shape} does not fit the input {spec}")


def _parts(entry: Any, inputs: Sequence[TensorSpec], where: str) -> tuple[Any, Array | None]:
    """Return what an entry holds for the inputs, and its label."""
    if isinstance(entry, Mapping):
        found = {str(name): value for name, value in entry.items()}
        label = next((found.pop(key) for key in _LABELS if key in found), None)
        plain = len(inputs) == len(found) == 1
        return (
            _array(next(iter(found.values())), where) if plain else found,
            None if label is None else _array(label, f"{where}: the label"),
        )
    if not isinstance(entry, tuple | list) or _is_numbers(entry):
        return _array(entry, where), None
    count, first = len(inputs), entry[0] if entry else None
    several = isinstance(first, Mapping | tuple) or (
        isinstance(first, list) and not _is_numbers(first)
    )
    if several and len(entry) in (1, 2):
        given, label = _parts(first, inputs, where)
        if len(entry) == 2:
            label = _array(entry[1], f"{where}: the label")
        return given, label
    if len(entry) not in (count, count + 1):
        raise InputError(
            f"{where}: is a tuple of {len(entry)}; {count} for the "
            f"inputs ({', '.join(spec.name for spec in inputs)}) are wanted, and a label if there "
            "is one"
        )
    label = _array(entry[count], f"{where}: the label") if len(entry) > count else None
    if count == 1:
        return _array(first, where), label
    return dict(zip((spec.name for spec in inputs), entry, strict=False)), label


def _named(
    given: Any, inputs: Sequence[TensorSpec], where: str
) -> tuple[dict[str, Array], Array | None]:
    """Return the array of each input, and the label if there is one among them."""
    if not isinstance(given, Mapping):
        if isinstance(given, tuple) and len(given) == len(inputs) > 1:
            given = dict(zip((spec.name for spec in inputs), given, strict=True))
        elif len(inputs) != 1:
            raise InputError(
                f"{where}: the model has {len(inputs)} inputs "
                f"({', '.join(spec.name for spec in inputs)}); give a mapping with an array for "
                "each"
            )
        else:
            return {inputs[0].name: _array(given, where)}, None
    stored = {str(name): value for name, value in given.items()}
    label = next((stored.pop(key) for key in _LABELS if key in stored), None)
    arrays = {}
    for spec in inputs:
        names = [spec.name, spec.name.removesuffix(":0")]
        if len(inputs) == len(stored) == 1:
            names += stored
        name = next((name for name in names if name in stored), None)
        if name is None:
            raise InputError(
                f"{where}: nothing for the input {spec.name!r}; {nearest(spec.name, stored)}"
            )
        arrays[spec.name] = _array(stored[name], f"{where}: {name!r}")
    return arrays, None if label is None else _array(label, f"{where}: the label")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (
        not isinstance(value, Mapping | list | tuple | str)
        and hasattr(value, "__array__")
        and hasattr(value, "shape")
    )


def _is_arrays(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_array, value.values()))


def _is_numbers(value: Sequence[Any]) -> bool:
    """Tell whether a list is one of plain numbers, or of such lists: an array."""
    return bool(value) and all(
        isinstance(one, bool | int | float | np.generic)
        or (isinstance(one, list) and _is_numbers(one))
        for one in value
    )


def _array(value: Any, where: str) -> Array:
    """Return an array of numpy, of whatever framework it is."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
        if hasattr(value, "numpy") and callable(value.numpy):
            value = value.numpy()
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: is no array ({error})") from error
    if found.dtype.kind not in "biuf" and found.dtype.name != "bfloat16":
        raise InputError(f"{where}: holds {found.dtype}, numbers are needed")
    return found
