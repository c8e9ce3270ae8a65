"""Samples: feeds made from images or arrays by one recorded preprocessing recipe."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnxgraft.data.casting import cast, check_recipe
from onnxgraft.data.division import Division, divide, divide_images, image_batch
from onnxgraft.data.image_header import Form
from onnxgraft.data.images import IMAGE_SUFFIXES
from onnxgraft.data.listing import Entry, list_data
from onnxgraft.data.npz import read_npz
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.streams import Column, arrays_of, is_data, read_stream, rows_of, title_of
from onnxgraft.errors import InputError
from onnxgraft.files import release_pages, sha256
from onnxgraft.files.limits import IMAGE_BYTES
from onnxgraft.files.remote import File, Remote, contents, place_of
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.graph.training import is_flag
from onnxgraft.words import several

__all__ = [
    "Data",
    "Image",
    "Sample",
    "Samples",
    "arrange",
    "as_samples",
    "image_feed",
    "open_samples",
    "overlap",
    "picture_feed",
]

# A path, samples, or what Python has: arrays, an iterable, a dataset, a loader, or a function that
# returns one.
Data = Any
# Of a picture: gray or colours.
_CHANNELS = (1, 3)


class Image(NamedTuple):
    """An image of a sample.

    Attributes:
        path: Of the file.
        form: How it is stored, where that is known.
        size: (width, height) as it is to be seen.
    """

    path: File
    form: Form | None
    size: tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """One feed, its name and, where known, its label.

    It is of batch 1 where the model's batch is free, and of the batch that the model takes where
    that is fixed.

    Attributes:
        name: The image's path, or ``FILE.npz[17]``, or ``Dataset[17]``.
        feeds: By input name.
        label: (height, width) uint8 class indices, or a 0-d integer; None if unlabelled.
        images: Those that were fed to the first input, in their order.
        labels: Of each row, where there are several; ``label`` is None then.
    """

    name: str
    feeds: dict[str, Array]
    label: Array | None
    images: tuple[Image, ...] = ()
    labels: tuple[Array, ...] = ()

    @property
    def turned(self) -> int:
        """How many of the images were turned as their EXIF orientation says."""
        return sum(image.form is not None and image.form.orientation != 1 for image in self.images)

    @property
    def picture(self) -> tuple[int, int] | None:
        """Height and width of what the network sees; None where that is no picture."""
        for value in self.feeds.values():
            shape = value.shape[1:] if value.ndim == 4 else value.shape
            if len(shape) == 3 and (shape[0] in _CHANNELS or shape[2] in _CHANNELS):
                first = shape[0] in _CHANNELS
                return (shape[1], shape[2]) if first else (shape[0], shape[1])
        return None

    def rows(self, output: Array) -> Iterator[tuple[Array, Array | None]]:
        """Yield an output as batches of 1, each with its label, or whole where there is one.

        Raises:
            InputError: The output has other rows than there are labels.
        """
        if not self.labels:
            yield output, self.label
            return
        if output.shape[:1] != (len(self.labels),):
            raise InputError(
                f"{self.name}: has {several(len(self.labels), 'label')}, one for each row of the "
                f"batch, and the output of {output.shape} has no such rows; name another one in "
                "[validate] or with --metric-output"
            )
        for row, label in enumerate(self.labels):
            yield output[row : row + 1], label

    def labelled(self, found: Sequence[Array]) -> Sample:
        """Return the sample with the labels of its rows."""
        if len(found) == 1:
            return replace(self, label=found[0])
        return replace(self, labels=tuple(found))


@dataclass(frozen=True)
class Samples:
    """An iterable of samples that can be run over again; nothing is kept in memory but names.

    Attributes:
        source: What the user named.
        inputs: The inputs that are fed.
        preprocess: The recipe of images (arrays of an ``.npz`` are fed as they are).
        files: Images and labels, for a folder or a list.
        arrays: Input name -> array, for an ``.npz`` and for data of Python; `division` says how
            it holds the samples.
        labels: Along axis 0, for an ``.npz``: of each sample, or of each row.
        indices: Which samples, in which order.
        seed: Chose them, if they are not all.
        told: What is to be said of how they were found.
        classes: The names of the classes that the data themselves number, such as folders.
        given: Whether Python gave the data, and ``source`` is no path.
    """

    source: str
    inputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    indices: tuple[int, ...]
    files: tuple[Entry, ...] = ()
    arrays: dict[str, Array] = field(default_factory=dict, compare=False)
    labels: Array | None = field(default=None, compare=False)
    seed: int = 0
    told: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    given: bool = False

    @cached_property
    def division(self) -> Division:
        """How files or arrays are divided into samples."""
        if self.files:
            return divide_images(len(self.files), self.inputs[0], self.source)
        return divide(self.arrays, self.inputs, self.source)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of how they were divided."""
        return (*self.told, *self.division.notes)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Sample]:
        """Decode and yield one sample after the other."""
        for position in range(len(self)):
            yield self.at(position)

    def at(self, position: int, *, labelled: bool = True) -> Sample:
        """Decode and return the sample at ``position``, without its label where not wanted."""
        return self._image(position, labelled) if self.files else self._row(self.indices[position])

    def name(self, position: int) -> str:
        """Return the name of the sample at ``position`` without decoding it."""
        index = self.indices[position]
        if not self.files:
            return f"{self.source}[{index}]"
        (first, _), *others = self.files_at(position)
        return f"{first[0]} and {len(others)} more" if others else str(first[0])

    def files_at(self, position: int) -> tuple[Entry, ...]:
        """Return the images of the sample at ``position``, each with its label."""
        batch, index = self.division.batch, self.indices[position]
        return self.files[index * batch : (index + 1) * batch]

    def identity(self, position: int) -> str:
        """Return the SHA-256 of the sample as it is stored."""
        index, digest = self.indices[position], hashlib.sha256()
        if not self.files:
            for spec in self.inputs:
                value = self.division.take(spec.name, self.arrays[spec.name], index)
                digest.update(np.ascontiguousarray(value).tobytes())
            release_pages(self.arrays.values())
            return digest.hexdigest()
        for path in [path for entry in self.files_at(position) for path in entry.images]:
            try:
                digest.update(contents(path, IMAGE_BYTES, "the image"))
            except OSError as error:
                raise InputError(f"{path}: the image can't be read ({error.strerror})") from error
        return digest.hexdigest()

    def fingerprint(self, *, labelled: bool = False) -> str:
        """Return the SHA-256 of all that is fed, in which order, and of the labels if wanted."""
        digest = hashlib.sha256(f"{self.source}\0{self.preprocess.fingerprint}".encode())
        digest.update(repr((self.inputs, self.division.batch, self.classes)).encode())
        for position in range(len(self)):
            digest.update(f"\n{self.name(position)}\0{self.identity(position)}".encode())
            for _, label in self.files_at(position) if self.files and labelled else ():
                digest.update(f"\0{_stored(label)}".encode())
        if self.labels is not None and labelled:
            for label in self.labels:
                value = np.ascontiguousarray(label)
                digest.update(f"\n{value.dtype}{value.shape}".encode() + value.tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the arrays of a file behind: another process opens them itself."""
        state = dict(vars(self))
        mapped = any(isinstance(array, np.memmap) for array in self.arrays.values())
        if mapped and not self.given:
            state |= {"arrays": None, "labels": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the arrays of a file again."""
        if state["arrays"] is None:
            arrays, labels = read_npz(Path(state["source"]), state["inputs"])
            state = {**state, "arrays": arrays, "labels": labels}
        vars(self).update(state)

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        if self.files:
            pairs = (pair for at in range(len(self)) for pair in self.files_at(at))
            return all(label is not None for _, label in pairs)
        return self.labels is not None

    def fed_to(self, inputs: Sequence[TensorSpec]) -> Samples:
        """Return the samples for the inputs of another form of the model.

        Raises:
            InputError: The inputs can't hold them, or take batches that they do not fill.
        """
        made = replace(self, inputs=_fed(inputs))
        if self.files:
            check_recipe(self.preprocess, made.inputs[0])
        batch = made.division.batch
        if batch == self.division.batch:
            return made
        mine = self.division.batch
        rows = {index * mine + row for index in self.indices for row in range(mine)}
        filled = tuple(
            index
            for index in range(made.division.total)
            if rows.issuperset(range(index * batch, (index + 1) * batch))
        )
        if not filled:
            raise InputError(
                f"{self.source}: the {len(self)} samples that were chosen fill no batch of "
                f"{batch}, which {', '.join(map(str, made.inputs))} takes; choose them for this "
                "model"
            )
        return replace(made, indices=filled)

    def head(self, count: int) -> Samples:
        """Return the first ``count`` samples."""
        return replace(self, indices=self.indices[:count])

    def _image(self, position: int, labelled: bool) -> Sample:
        entries = self.files_at(position)
        feeds, images = {}, []
        for number, spec in enumerate(self.inputs):
            paths = [entry.images[number] for entry in entries]
            feeds[spec.name], found = image_feed(paths, spec, self.preprocess)
            images.append(found)
        sample = Sample(self.name(position), feeds, None, images[0])
        labels = [
            self._label(label, image.form)
            for (_, label), image in zip(entries, images[0], strict=True)
            if labelled and label is not None
        ]
        return sample.labelled(labels) if len(labels) == len(entries) else sample

    def _label(self, label: File | int, photograph: Form | None) -> Array:
        if not isinstance(label, int):
            return self.preprocess.sized(self.inputs[0]).label(label, photograph)
        return np.asarray(label, np.int64)

    def _row(self, index: int) -> Sample:
        feeds, division = {}, self.division
        for spec in self.inputs:
            taken = np.array(division.take(spec.name, self.arrays[spec.name], index))
            value = _fitting(taken, spec, "auto")
            if value is None:
                raise InputError(
                    f"{self.source}[{index}]: rows of {taken.shape} do not fit the input {spec}"
                )
            feeds[spec.name] = cast(
                value, spec, f"{self.source}[{index}]",
                "store the values that the model was trained with, in that type",
            )  # fmt: skip
        release_pages(self.arrays.values())
        sample = Sample(f"{self.source}[{index}]", feeds, None)
        if self.labels is None:
            return sample
        count = _labels_a_feed(self.labels, self.arrays, division, self.source)
        found = [np.asarray(self.labels[index * count + row]) for row in range(count)]
        return sample.labelled(found)


def _stored(label: File | int | None) -> object:
    """Return the SHA-256 of a label image, or else the label."""
    if isinstance(label, Remote):
        return hashlib.sha256(contents(label, IMAGE_BYTES, "the label")).hexdigest()
    return sha256(label) if isinstance(label, Path) and os.path.isfile(label) else label


def _labels_a_feed(
    labels: Array, arrays: Mapping[str, Array], division: Division, where: str
) -> int:
    """Return how many labels belong to a feed: one, or one a row.

    Raises:
        InputError: There are labels for other numbers of samples.
    """
    lengths = {name: len(value) for name, value in arrays.items() if value.ndim}
    length = len(labels) if labels.ndim else 0
    if length == division.total:
        return 1
    if isinstance(labels, Column):  # it has as many for each sample
        return length // division.total
    if length in {lengths[name] for name, rows in division.rows.items() if rows == division.batch}:
        return division.batch
    raise InputError(f"{where}: the arrays differ in length: {lengths | {'labels': length}}")


def image_feed(
    paths: Sequence[File], spec: TensorSpec, recipe: Preprocess
) -> tuple[Array, tuple[Image, ...]]:
    """Return image files as what an input takes, and how they are stored.

    Args:
        paths: As many as the input takes at once, see `image_batch`.
        spec: Of the input.
        recipe: Prepares them.

    Raises:
        InputError: An image can't be read, or the input can't hold what the recipe makes of it.
    """
    recipe = recipe.sized(spec)
    made, images = [], []
    for path in paths:
        pixels, form, size = recipe.picture(path)
        made.append((str(path), pixels))
        images.append(Image(path, form, size))
    return picture_feed(made, spec, recipe.layout), tuple(images)


def picture_feed(made: Sequence[tuple[str, Array]], spec: TensorSpec, layout: str) -> Array:
    """Return pictures that a recipe made as what an input takes.

    Args:
        made: As many as the input takes at once, with their names; any number of a free batch.
        spec: Of the input.
        layout: That the recipe says.

    Raises:
        InputError: The input can't hold them.
    """
    values = []
    one = spec if image_batch(spec) == 1 else replace(spec, shape=(1, *spec.shape[1:]))
    cure = "set mean and scale in [preprocess] so that pixels fit, or give the model a float input"
    for title, pixels in made:
        whole = pixels if pixels.ndim == len(spec.shape) else pixels[np.newaxis]
        value = _fitting(whole, one, layout)
        if value is None:
            raise InputError(
                f"{title}: the recipe makes an image of {'x'.join(map(str, pixels.shape))} (height "
                f"x width x channels), the model's input is {spec}; set resize, crop, color or "
                "layout in [preprocess], and name the recipe with --preprocess"
            )
        values.append(cast(value, spec, title, cure))
    if len(values) == 1:
        return values[0]
    if len({value.shape for value in values}) > 1:
        raise InputError(
            f"{made[0][0]}: it and the {several(len(made) - 1, 'image')} after it are of different "
            f"sizes, and the input {spec} takes them at once; set resize or crop in [preprocess]"
        )
    return np.concatenate(values)


def _fitting(value: Array, spec: TensorSpec, layout: str) -> Array | None:
    """Return an array as it fits an input: an image, in a batch or not, in either layout."""
    if value.ndim == 4:
        return arrange(value, spec, layout)
    image = value.ndim == len(spec.shape) == 3 and value.shape[2] in (1, 3)
    if image and spec.shape[0] == value.shape[2] and layout != "nhwc":
        first = np.ascontiguousarray(value.transpose(2, 0, 1))
        if spec.accepts(first.shape):
            return first
    return value if spec.accepts(value.shape) and not (image and layout == "nchw") else None


def arrange(batch: Array, spec: TensorSpec, layout: str = "auto") -> Array | None:
    """Return an (N, H, W, C) batch in the layout of ``spec``, or None if it fits in neither."""
    if layout != "nchw" and spec.accepts(batch.shape):
        return np.ascontiguousarray(batch)
    channels_first = batch.transpose(0, 3, 1, 2)
    if layout != "nhwc" and spec.accepts(channels_first.shape):
        return np.ascontiguousarray(channels_first)
    return None


def open_samples(
    data: Data,
    inputs: Sequence[TensorSpec],
    preprocess: Preprocess | None = None,
    *,
    images: int | None = None,
    seed: int = 0,
    names: Sequence[str] = (),
) -> Samples:
    """Find the samples in a folder, a list file, an ``.npz``, or what Python has.

    Args:
        data: A folder of images, or of a folder of images for each class; a ``.txt`` with one
            image path a line (relative to the file), each with a label image after a tab if there
            is one; a ``.csv``, ``.json`` or ``.jsonl`` with a column for each input (``image`` is
            the only one) and ``label``; or an ``.npz`` with an array per input and optionally
            ``labels``, samples along axis 0, see `divide`. A folder, a ``.txt`` and the images that
            a list names may have URLs, see `onnxgraft.files.remote`. Or arrays, an iterable, a
            dataset, a loader, or a function that returns one, see `read_stream`.
        inputs: The inputs to feed; training flags are none, see `onnxgraft.run.answers`.
        preprocess: The recipe for images; its function is for all data.
        images: How many to take; None takes all.
        seed: Chooses which, when ``images`` is less than there are.
        names: Of the classes in the network's order, where labels are names.

    Raises:
        InputError: Nothing there, nothing readable, or nothing that fits.
    """
    recipe = preprocess or Preprocess()
    inputs = _fed(inputs)
    if images is not None and images < 1:
        raise InputError(f"--images {images}: at least 1 is needed")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed {seed}: a whole number from 0 to {(1 << 63) - 1} is needed")
    if is_data(data):
        source = title_of(data)
        whole = arrays_of(data, inputs)
        if whole is not None:
            made = _of_arrays(source, *whole, inputs, recipe, images, seed)
        else:
            made = _streamed(source, data, inputs, recipe, images)
        return replace(made, given=True)
    path = place_of(data)
    if isinstance(path, Path) and path.suffix == ".npz":
        arrays, labels = read_npz(path, inputs)
        return _of_arrays(str(path), arrays, labels, inputs, recipe, images, seed)
    found = list_data(path, inputs, names)
    if found.rows:
        made = _streamed(str(path), found.rows, inputs, recipe, None)
        chosen = _choose(made.division, images, seed)
        return replace(
            made, indices=chosen, seed=seed, told=(*found.notes, *made.told), classes=found.classes
        )
    if not found.entries:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{path}: there are no images in it (looked for {kinds})")
    if len(inputs) != len(found.entries[0].images):
        raise InputError(
            f"{path}: images feed one input, the model has {len(inputs)} "
            f"({', '.join(spec.name for spec in inputs)}); use a .csv with a column of images for "
            "each, or an .npz with an array for each"
        )
    for spec in inputs:
        check_recipe(recipe, spec)
    if len({recipe.sized(spec) for spec in inputs}) == 1:
        recipe = recipe.sized(inputs[0])
    chosen = _choose(divide_images(len(found.entries), inputs[0], str(path)), images, seed)
    return Samples(
        str(path), tuple(inputs), recipe, chosen, found.entries, seed=seed, told=found.notes,
        classes=found.classes,
    )  # fmt: skip


def _of_arrays(
    source: str,
    arrays: Mapping[str, Array],
    labels: Array | None,
    inputs: tuple[TensorSpec, ...],
    recipe: Preprocess,
    images: int | None,
    seed: int,
) -> Samples:
    """Return the samples along axis 0 of whole arrays."""
    if recipe.function is not None:
        made = _streamed(source, rows_of(arrays, labels), inputs, recipe, None)
        return replace(made, indices=_choose(made.division, images, seed), seed=seed)
    division = divide(arrays, inputs, source)
    if labels is not None:
        _labels_a_feed(labels, arrays, division, source)
    chosen = _choose(division, images, seed)
    told = _unprepared(source, recipe)
    return Samples(source, inputs, recipe, chosen, (), dict(arrays), labels, seed, told)


def _streamed(
    source: str,
    data: object,
    inputs: tuple[TensorSpec, ...],
    recipe: Preprocess,
    images: int | None,
) -> Samples:
    """Return the samples of data that are read once, and kept in a file."""
    found = read_stream(data, inputs, source, function=recipe.function, images=images)
    told = (*found.notes, *_unprepared(source, recipe))
    total = len(next(iter(found.arrays.values())))
    return Samples(
        source, inputs, recipe, tuple(range(total)), (), found.arrays, found.labels, told=told
    )


def _unprepared(source: str, recipe: Preprocess) -> tuple[str, ...]:
    """Return the sentence that arrays are fed as they are, where a recipe says otherwise."""
    if recipe.function is not None or recipe.model_copy(update={"layout": "auto"}) == Preprocess():
        return ()
    return (
        f"{source}: arrays are fed as they are: of [preprocess] only a function is applied to them",
    )


def as_samples(
    data: Data,
    inputs: Sequence[TensorSpec],
    preprocess: Preprocess | None = None,
    *,
    images: int | None = None,
    seed: int = 0,
    names: Sequence[str] = (),
) -> Samples:
    """Return samples for ``inputs``: those that are given, or those that `open_samples` finds."""
    if isinstance(data, Samples):
        return data.fed_to(inputs)
    return open_samples(data, inputs, preprocess, images=images, seed=seed, names=names)


def overlap(samples: Mapping[str, str], others: Samples) -> list[str]:
    """Return the names of the ``samples`` (SHA-256 by name) that are among ``others`` too."""
    known = {others.identity(position) for position in range(len(others))}
    return [name for name, digest in samples.items() if digest in known]


def _fed(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in inputs if not is_flag(spec))


def _choose(division: Division, images: int | None, seed: int) -> tuple[int, ...]:
    total = division.total
    if images is None or images >= total * division.batch:
        return tuple(range(total))
    count = max(images // division.batch, 1)
    return tuple(sorted(random.Random(seed).sample(range(total), count)))
