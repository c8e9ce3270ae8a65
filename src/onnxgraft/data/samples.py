"""Samples: feeds made from images or arrays by one recorded preprocessing recipe."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.data.casting import cast, check_recipe
from onnxgraft.data.image_header import Form
from onnxgraft.data.images import IMAGE_SUFFIXES
from onnxgraft.data.npz import read_npz
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, release_pages
from onnxgraft.files.limits import IMAGE_BYTES
from onnxgraft.graph.tensors import (
    Array,
    TensorSpec,
)
from onnxgraft.graph.training import is_flag

__all__ = ["Sample", "Samples", "arrange", "as_samples", "image_feed", "open_samples", "overlap"]

# A label image stands beside its photograph under the same stem, without loss.
LABEL_SUFFIX = ".png"


@dataclass(frozen=True)
class Sample:
    """One feed of batch 1, its name and, where known, its label.

    Attributes:
        name: The image's path, or ``FILE.npz[17]``.
        feeds: By input name.
        label: (height, width) uint8 class indices, or a 0-d integer; None if unlabelled.
        form: How an image is stored, where that is known.
    """

    name: str
    feeds: dict[str, Array]
    label: Array | None
    form: Form | None = None


@dataclass(frozen=True)
class Samples:
    """An iterable of samples that can be run over again; nothing is kept in memory but names.

    Attributes:
        source: What the user named.
        inputs: The inputs that are fed.
        preprocess: The recipe of images (arrays of an ``.npz`` are fed as they are).
        files: Image and label paths, for a folder or a list.
        arrays: Input name -> array with the samples along axis 0, for an ``.npz``.
        labels: Along axis 0, for an ``.npz``.
        indices: Which samples, in which order.
        seed: Chose them, if they are not all.
    """

    source: str
    inputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    indices: tuple[int, ...]
    files: tuple[tuple[Path, Path | None], ...] = ()
    arrays: dict[str, Array] = field(default_factory=dict, compare=False)
    labels: Array | None = field(default=None, compare=False)
    seed: int = 0

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Sample]:
        """Decode and yield one sample after the other."""
        for position in range(len(self)):
            yield self.at(position)

    def at(self, position: int, *, labelled: bool = True) -> Sample:
        """Decode and return the sample at ``position``, without its label where not wanted."""
        index = self.indices[position]
        return self._image(index, labelled) if self.files else self._row(index)

    def name(self, position: int) -> str:
        """Return the name of the sample at ``position`` without decoding it."""
        index = self.indices[position]
        return str(self.files[index][0]) if self.files else f"{self.source}[{index}]"

    def identity(self, position: int) -> str:
        """Return the SHA-256 of the sample as it is stored."""
        index = self.indices[position]
        if not self.files:
            digest = hashlib.sha256()
            for spec in self.inputs:
                digest.update(np.ascontiguousarray(self.arrays[spec.name][index]).tobytes())
            release_pages(self.arrays.values())
            return digest.hexdigest()
        path = self.files[index][0]
        try:
            IMAGE_BYTES.check(path.stat().st_size, f"{path}: the image")
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: the image can't be read ({error.strerror})") from error
        return hashlib.sha256(data).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the arrays of a file behind: another process opens them itself."""
        state = dict(vars(self))
        if self.arrays and Path(self.source).suffix == ".npz":
            state |= {"arrays": None, "labels": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the arrays of a file again."""
        if state["arrays"] is None:
            arrays, labels, _ = read_npz(Path(state["source"]), state["inputs"])
            state = {**state, "arrays": arrays, "labels": labels}
        vars(self).update(state)

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        if self.files:
            return all(self.files[i][1] is not None for i in self.indices)
        return self.labels is not None

    def fed_to(self, inputs: Sequence[TensorSpec]) -> Samples:
        """Return the samples for the inputs of another form of the model."""
        inputs = _fed(inputs)
        if self.files:
            check_recipe(self.preprocess, inputs[0])
        return replace(self, inputs=inputs)

    def head(self, count: int) -> Samples:
        """Return the first ``count`` samples."""
        return replace(self, indices=self.indices[:count])

    def _image(self, index: int, labelled: bool) -> Sample:
        path, label = self.files[index]
        spec = self.inputs[0]
        value, form = image_feed(path, spec, self.preprocess)
        return Sample(
            str(path), {spec.name: value},
            self.preprocess.label(label, form) if labelled and label is not None else None,
            form,
        )  # fmt: skip

    def _row(self, index: int) -> Sample:
        feeds = {}
        for spec in self.inputs:
            row = np.array(self.arrays[spec.name][index : index + 1])
            value = row if spec.accepts(row.shape) else None
            if value is None and row.ndim == 4:
                value = arrange(row, spec, "auto")
            if value is None:
                raise InputError(f"{self.source}: rows of {row.shape} do not fit the input {spec}")
            feeds[spec.name] = cast(
                value, spec, f"{self.source}[{index}]",
                "store the values that the model was trained with, in that type",
            )  # fmt: skip
        release_pages(self.arrays.values())
        label = None if self.labels is None else np.asarray(self.labels[index])
        return Sample(f"{self.source}[{index}]", feeds, label)


def image_feed(path: Path, spec: TensorSpec, recipe: Preprocess) -> tuple[Array, Form | None]:
    """Return an image file as the batch of 1 that an input takes, and how it is stored.

    Raises:
        InputError: The image can't be read, or the input can't hold what the recipe makes of it.
    """
    pixels, form = recipe.picture(path)
    value = arrange(pixels[np.newaxis], spec, recipe.layout)
    if value is None:
        raise InputError(
            f"{path}: the recipe makes an image of {'x'.join(map(str, pixels.shape))} (height "
            f"x width x channels), the model's input is {spec}; set resize, crop, color or "
            "layout in [preprocess], and name the recipe with --preprocess"
        )
    cure = "set mean and scale in [preprocess] so that pixels fit, or give the model a float input"
    return cast(value, spec, str(path), cure), form


def arrange(batch: Array, spec: TensorSpec, layout: str = "auto") -> Array | None:
    """Return an (N, H, W, C) batch in the layout of ``spec``, or None if it fits in neither."""
    if layout != "nchw" and spec.accepts(batch.shape):
        return np.ascontiguousarray(batch)
    channels_first = batch.transpose(0, 3, 1, 2)
    if layout != "nhwc" and spec.accepts(channels_first.shape):
        return np.ascontiguousarray(channels_first)
    return None


def open_samples(
    data: str | os.PathLike[str],
    inputs: Sequence[TensorSpec],
    preprocess: Preprocess | None = None,
    *,
    images: int | None = None,
    seed: int = 0,
) -> Samples:
    """Find the samples in a folder of images, a list file or an ``.npz``.

    Args:
        data: A folder; a ``.txt`` with one image path a line (relative to the file), each with a
            label image after a tab if there is one; or an ``.npz`` with an array per input and
            optionally ``labels``, samples along axis 0.
        inputs: The inputs to feed; training flags are none, see `onnxgraft.run.answers`.
        preprocess: The recipe for images.
        images: How many to take; None takes all.
        seed: Chooses which, when ``images`` is less than there are.

    Raises:
        InputError: Nothing there, nothing readable, or nothing that fits.
    """
    path = Path(data)
    recipe = preprocess or Preprocess()
    inputs = _fed(inputs)
    if path.suffix == ".npz":
        arrays, labels, total = read_npz(path, inputs)
        return Samples(
            str(path), tuple(inputs), recipe, _choose(total, images, seed), (), arrays, labels, seed
        )
    if os.path.isdir(path):
        files = _scan_folder(path)
    else:
        files = read_list(existing_file(path, "the data"))
    if not files:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{path}: there are no images in it (looked for {kinds})")
    if len(inputs) != 1:
        raise InputError(
            f"{path}: images feed one input, the model has {len(inputs)} "
            f"({', '.join(spec.name for spec in inputs)}); use an .npz with an array for each"
        )
    check_recipe(recipe, inputs[0])
    return Samples(
        str(path), tuple(inputs), recipe, _choose(len(files), images, seed), tuple(files),
        seed=seed,
    )  # fmt: skip


def as_samples(
    data: str | os.PathLike[str] | Samples,
    inputs: Sequence[TensorSpec],
    preprocess: Preprocess | None = None,
    *,
    images: int | None = None,
    seed: int = 0,
) -> Samples:
    """Return samples for ``inputs``: those that are given, or those that `open_samples` finds."""
    if isinstance(data, Samples):
        return data.fed_to(inputs)
    return open_samples(data, inputs, preprocess, images=images, seed=seed)


def overlap(samples: Mapping[str, str], others: Samples) -> list[str]:
    """Return the names of the ``samples`` (SHA-256 by name) that are among ``others`` too."""
    known = {others.identity(position) for position in range(len(others))}
    return [name for name, digest in samples.items() if digest in known]


def _fed(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in inputs if not is_flag(spec))


def _choose(total: int, images: int | None, seed: int) -> tuple[int, ...]:
    if images is not None and images < 1:
        raise InputError(f"--images {images}: at least 1 is needed")
    if images is None or images >= total:
        return tuple(range(total))
    return tuple(sorted(random.Random(seed).sample(range(total), images)))


def _scan_folder(folder: Path) -> list[tuple[Path, Path | None]]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    photographs = {p.stem for p in found if p.suffix.lower() != LABEL_SUFFIX}
    labels = {p.stem: p for p in found if p.suffix.lower() == LABEL_SUFFIX}
    return [
        (p, None if p is labels.get(p.stem) else labels.get(p.stem))
        for p in found
        if p.suffix.lower() != LABEL_SUFFIX or p.stem not in photographs
    ]


def read_list(path: Path) -> list[tuple[Path, Path | None]]:
    """Return the images of a list file, each with its label image if there is one."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not a folder, an .npz or a text file with one image path a line"
        ) from error
    files: list[tuple[Path, Path | None]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image, _, label = line.partition("\t")
        entry = path.parent / image.strip()
        answer = path.parent / label.strip() if label.strip() else None
        for wanted in (entry, answer):
            if wanted is not None and not os.path.isfile(wanted):
                raise InputError(f"{path}, line {number}: {wanted} does not exist")
        files.append((entry, answer))
    return files
