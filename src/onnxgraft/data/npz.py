"""An ``.npz`` of samples: its arrays mapped, so that only the rows in use take memory."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal

import numpy as np

from onnxgraft.data.arrays import read_array_header
from onnxgraft.errors import InputError, nearest, reason_in
from onnxgraft.files import existing_file
from onnxgraft.files.archives import DAMAGED, check_archive
from onnxgraft.files.limits import AXES, UNPACKED_BYTES
from onnxgraft.graph.tensors import Array, TensorSpec

__all__ = ["read_npz"]

LABELS_KEY = "labels"


def read_npz(path: Path, inputs: Sequence[TensorSpec]) -> tuple[dict[str, Array], Array | None]:
    """Return the array of each input, and the labels if there are any.

    Raises:
        InputError: It is no ``.npz``, or has no array for an input, or one that is not of numbers.
    """
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
    except (*DAMAGED, LookupError, ValueError) as error:
        raise InputError(f"{file}: not a readable .npz ({reason_in(error)})") from error
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
    for name, value in known.items():
        if value.dtype.kind not in "biuf":
            raise InputError(f"{file}: {name!r} holds {value.dtype}, numbers are needed")
    return arrays, labels


def _member(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    """Return an array of an ``.npz`` as a mapped file, so that only the rows in use take memory.

    What is compressed is unpacked into a temporary file first, piece by piece.
    """
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
        with archive.open(entry) as whole:
            while whole.read(1 << 24):  # whose end is checked by the checksum
                pass
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
