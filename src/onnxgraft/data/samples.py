"""Samples: feeds made from images or arrays by one recorded preprocessing recipe."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from onnxgraft.data.arrays import read_array_header
from onnxgraft.data.image_header import Form, stored_form
from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file, release_pages
from onnxgraft.files.archives import check_archive
from onnxgraft.files.limits import AXES, IMAGE_BYTES, IMAGE_PIXELS, UNPACKED_BYTES
from onnxgraft.run.engine import Array, TensorSpec

__all__ = [
    "Preprocess", "Sample", "Samples", "arrange", "open_samples", "overlap", "read_image",
]  # fmt: skip

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# A label image stands beside its photograph under the same stem, without loss.
LABEL_SUFFIX = ".png"
LABELS_KEY = "labels"
# Of an image file, so much is looked at for its size.
_HEADER = 1 << 20


class Preprocess(BaseModel):
    """From a decoded image to the array that the network was trained on.

    In this order: resize, crop, colour order, float32, minus ``mean``, times ``scale``, layout.

    Attributes:
        resize: (height, width) in pixels; None keeps the image's.
        interpolation: Of the resize.
        crop: (top, left, height, width) in pixels after the resize; None keeps all.
        color: Order of the channels that the network wants.
        mean: Per channel in that order, or one for all, in 0..255.
        scale: Factor after the mean, per channel or one for all.
        layout: ``auto`` takes what fits the model's input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: tuple[PositiveInt, PositiveInt] | None = None
    interpolation: Literal["nearest", "bilinear", "area"] = "bilinear"
    crop: tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt] | None = None
    color: Literal["bgr", "rgb", "gray"] = "bgr"
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    layout: Literal["auto", "nhwc", "nchw"] = "auto"

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the recipe, as hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def image(self, path: Path) -> Array:
        """Return the image file as (height, width, channels) float32."""
        pixels = read_image(path, gray=self.color == "gray")
        try:
            pixels = self._geometry(pixels, self.interpolation)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if self.color == "rgb":
            pixels = pixels[:, :, ::-1]
        channels = pixels.shape[2]
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"the recipe's {name} has {len(values)} values, the image {channels} channels"
                )
        centred = pixels.astype(np.float32) - np.asarray(self.mean, np.float32)
        if self.scale != (1.0,):
            centred *= np.asarray(self.scale, np.float32)
        return centred

    def label(self, path: Path) -> Array:
        """Return the label image as (height, width) uint8, resized and cropped as the image is."""
        return self._geometry(read_image(path, gray=True), "nearest")[:, :, 0]

    def notes(self, forms: Mapping[Form, int]) -> list[str]:
        """Return a sentence on each way in which images differ from what the recipe expects.

        Args:
            forms: How many images are stored in which form.
        """
        total = sum(forms.values())
        sizes = Counter[tuple[int, int]]()
        for form, count in forms.items():
            sizes[form.width, form.height] += count
        notes = []
        if len(sizes) > 1:
            (usual, _), *others = sizes.most_common()
            told = ", ".join(f"{w}x{h} ({count})" for (w, h), count in others[:4])
            told += ", ..." if len(others) > 4 else ""
            done = "took them as they are"
            if self.resize is not None:
                done = f"resized all to {self.resize[1]}x{self.resize[0]}"
            elif self.crop is not None:
                done = "cropped all by the same rows and columns, without a resize"
            notes.append(
                f"{sum(count for _, count in others)} of {total} images are not {usual[0]}x"
                f"{usual[1]} (width x height) as most are, but {told}; the recipe {done}"
            )
        gray = sum(n for form, n in forms.items() if form.channels < 3 and self.color != "gray")
        alpha = sum(n for form, n in forms.items() if form.channels in (2, 4))
        deep = sum(n for form, n in forms.items() if form.bits > 8)
        for count, what in (
            (gray, f"gray; the recipe wants {self.color}, so the channel was repeated"),
            (alpha, "partly transparent; transparency was ignored"),
            (deep, "stored with more than 8 bits a channel; they were reduced to 8"),
        ):
            if count:
                notes.append(f"{count} of {total} images are {what}")
        return notes

    def _geometry(self, pixels: Array, interpolation: str) -> Array:
        if self.resize is not None:
            import cv2

            modes = {
                "nearest": cv2.INTER_NEAREST,
                "bilinear": cv2.INTER_LINEAR,
                "area": cv2.INTER_AREA,
            }
            height, width = self.resize
            pixels = cv2.resize(pixels, (width, height), interpolation=modes[interpolation])
            pixels = pixels.reshape(height, width, -1)
        if self.crop is not None:
            top, left, height, width = self.crop
            if top + height > pixels.shape[0] or left + width > pixels.shape[1]:
                raise InputError(
                    f"the recipe crops rows {top}..{top + height - 1} and columns "
                    f"{left}..{left + width - 1} from an image of {pixels.shape[0]}x"
                    f"{pixels.shape[1]} (height x width)"
                )
            pixels = pixels[top : top + height, left : left + width]
        return pixels


def read_image(path: Path, *, gray: bool = False) -> Array:
    """Decode an image file to (height, width, 3) uint8 in BGR order, or (height, width, 1).

    Raises:
        InputError: The file is no image, or a damaged or an enormous one.
    """
    import cv2

    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(IMAGE_PIXELS.most))
    flag = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    try:
        if not path.is_file():
            raise InputError(f"{path}: is no file")
        IMAGE_BYTES.check(path.stat().st_size, f"{path}: the image")
        data = np.fromfile(path, np.uint8)
        form = stored_form(data[:_HEADER].tobytes())
        if form is not None:
            IMAGE_PIXELS.check(form.width * form.height, f"{path}: the image")
        # imdecode asserts on an empty buffer, and returns None for what it can't read.
        pixels = cv2.imdecode(data, flag) if data.size else None
    except (OSError, cv2.error) as error:
        raise InputError(f"{path}: the image can't be read ({error})") from error
    if pixels is None:
        raise InputError(f"{path}: not an image that can be decoded; remove or replace it")
    return np.asarray(pixels.reshape(pixels.shape[0], pixels.shape[1], -1))


@dataclass(frozen=True)
class Sample:
    """One feed of batch 1, its name and, where known, its label.

    Attributes:
        name: The image's path, or ``FILE.npz[17]``.
        feeds: By input name.
        label: (height, width) uint8 class indices, or a 0-d integer; None if unlabelled.
    """

    name: str
    feeds: dict[str, Array]
    label: Array | None


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

    def identity(self, position: int) -> tuple[str, Form | None]:
        """Return the SHA-256 of the sample as it is stored, and an image's form where known."""
        index = self.indices[position]
        if not self.files:
            digest = hashlib.sha256()
            for spec in self.inputs:
                digest.update(np.ascontiguousarray(self.arrays[spec.name][index]).tobytes())
            release_pages(self.arrays.values())
            return digest.hexdigest(), None
        path = self.files[index][0]
        try:
            IMAGE_BYTES.check(path.stat().st_size, f"{path}: the image")
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: the image can't be read ({error.strerror})") from error
        return hashlib.sha256(data).hexdigest(), stored_form(data)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the arrays of a file behind: another process opens them itself."""
        state = dict(vars(self))
        if self.arrays and Path(self.source).suffix == ".npz":
            state |= {"arrays": None, "labels": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the arrays of a file again."""
        if state["arrays"] is None:
            arrays, labels, _ = _read_npz(Path(state["source"]), state["inputs"])
            state = {**state, "arrays": arrays, "labels": labels}
        vars(self).update(state)

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        if self.files:
            return all(self.files[i][1] is not None for i in self.indices)
        return self.labels is not None

    def head(self, count: int) -> Samples:
        """Return the first ``count`` samples."""
        return replace(self, indices=self.indices[:count])

    def _image(self, index: int, labelled: bool) -> Sample:
        path, label = self.files[index]
        spec = self.inputs[0]
        pixels = self.preprocess.image(path)
        value = arrange(pixels[np.newaxis], spec, self.preprocess.layout)
        if value is None:
            raise InputError(
                f"{path}: the recipe makes an image of {'x'.join(map(str, pixels.shape))} (height "
                f"x width x channels), the model's input is {spec}; set resize, crop, color or "
                "layout in [preprocess]"
            )
        return Sample(
            str(path),
            {spec.name: value.astype(spec.dtype)},
            self.preprocess.label(label) if labelled and label is not None else None,
        )

    def _row(self, index: int) -> Sample:
        feeds = {}
        for spec in self.inputs:
            row = self.arrays[spec.name][index : index + 1].astype(spec.dtype)
            value = row if spec.accepts(row.shape) else None
            if value is None and row.ndim == 4:
                value = arrange(row, spec, "auto")
            if value is None:
                raise InputError(f"{self.source}: rows of {row.shape} do not fit the input {spec}")
            feeds[spec.name] = value
        release_pages(self.arrays.values())
        label = None if self.labels is None else np.asarray(self.labels[index])
        return Sample(f"{self.source}[{index}]", feeds, label)


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
        inputs: The inputs to feed.
        preprocess: The recipe for images.
        images: How many to take; None takes all.
        seed: Chooses which, when ``images`` is less than there are.

    Raises:
        InputError: Nothing there, nothing readable, or nothing that fits.
    """
    path = Path(data)
    recipe = preprocess or Preprocess()
    if path.suffix == ".npz":
        arrays, labels, total = _read_npz(path, inputs)
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
    return Samples(
        str(path), tuple(inputs), recipe, _choose(len(files), images, seed), tuple(files),
        seed=seed,
    )  # fmt: skip


def overlap(samples: Mapping[str, str], others: Samples) -> list[str]:
    """Return the names of the ``samples`` (SHA-256 by name) that are among ``others`` too."""
    known = {others.identity(position)[0] for position in range(len(others))}
    return [name for name, digest in samples.items() if digest in known]


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


def _read_npz(
    path: Path, inputs: Sequence[TensorSpec]
) -> tuple[dict[str, Array], Array | None, int]:
    file = existing_file(path, "the data")
    try:
        with open(file, "rb") as handle:
            if handle.read(6) == np.lib.format.MAGIC_PREFIX:
                raise ValueError("it is a single array, a .npy")
        with zipfile.ZipFile(file) as archive:
            check_archive(archive, file, growth=False)
            packed = [e for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
            UNPACKED_BYTES.check(sum(e.file_size for e in packed), f"{file}: the .npz")
            stored = {
                entry.filename.removesuffix(".npy"): _member(file, archive, entry)
                for entry in archive.infolist()
            }
    except (
        EOFError, LookupError, OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise InputError(f"{file}: not a readable .npz ({error})") from error
    labels = stored.pop(LABELS_KEY, None)
    arrays = {}
    for spec in inputs:
        plain = spec.name.removesuffix(":0")
        if spec.name in stored or plain in stored:
            arrays[spec.name] = stored[spec.name if spec.name in stored else plain]
        elif len(inputs) == len(stored) == 1:
            arrays[spec.name] = next(iter(stored.values()))
        else:
            raise InputError(
                f"{file}: no array for the input {spec.name!r}; {nearest(spec.name, stored)}"
            )
    known = arrays if labels is None else {**arrays, LABELS_KEY: labels}
    lengths = {name: len(value) if value.ndim else 0 for name, value in known.items()}
    for name, value in known.items():
        if value.dtype.kind not in "biuf":
            raise InputError(f"{file}: {name!r} holds {value.dtype}, numbers are wanted")
    if len(set(lengths.values())) != 1:
        raise InputError(f"{file}: the arrays differ in length: {lengths}")
    total = next(iter(lengths.values()))
    if total == 0:
        raise InputError(f"{file}: there are no samples in it")
    return arrays, labels, total


def _member(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    """Return an array of an ``.npz`` as a mapped file, so that only the rows in use take memory.

    What is compressed is unpacked into a temporary file first, piece by piece.
    """
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
        with open(file, "rb") as handle:
            handle.seek(entry.header_offset + 26)
            lengths = handle.read(4)
            name, extra = (int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
            handle.seek(entry.header_offset + 30 + name + extra)
            return _mapped(handle, entry.file_size)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if entry.file_size > free:
        raise ValueError(
            f"{entry.filename} needs {entry.file_size >> 20} MB unpacked, {tempfile.gettempdir()} "
            f"has {free >> 20} MB; save it with numpy.savez, not savez_compressed"
        )
    with tempfile.TemporaryFile() as unpacked:
        with archive.open(entry) as packed:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.seek(0)
        return _mapped(unpacked, entry.file_size)


def _mapped(handle: IO[bytes], size: int) -> Array:
    """Return the ``.npy`` of ``size`` bytes that begins where ``handle`` stands, mapped."""
    shape, fortran, dtype = read_array_header(handle, size)
    offset = handle.tell()
    if len(shape) > AXES.most:
        raise ValueError(f"an array of the shape {shape}")
    if 0 in shape:
        return np.zeros(shape, dtype)
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(handle, dtype, "r", offset, shape, order)
