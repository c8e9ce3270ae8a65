"""What data on a disk list: a folder of images, one by class, a list as text, CSV or JSON."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from onnxgraft.data.images import IMAGE_SUFFIXES
from onnxgraft.errors import InputError, nearest
from onnxgraft.files import check_json, existing_file, parse_json, read_json
from onnxgraft.files.limits import COLUMNS, DOCUMENT_BYTES, ROWS
from onnxgraft.files.remote import File, Remote, is_url
from onnxgraft.graph.tensors import TensorSpec

__all__ = ["Entry", "Listing", "list_data"]

# A label image stands beside its photograph under the same stem, without loss.
LABEL_SUFFIX = ".png"
_IMAGE, _LABEL = "image", "label"


class Entry(NamedTuple):
    """The image files of one row, and its label.

    Attributes:
        images: One for each input.
        label: A label image, a class, or None.
    """

    images: tuple[File, ...]
    label: File | int | None = None


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
        entries: In order.
        notes: Sentences that the user should read.
        classes: The names of the classes that the listing itself numbers; empty where it does not.
        rows: In place of entries: of a JSON list of values, a mapping for each row.
    """

    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    rows: tuple[Mapping[str, object], ...] = ()

    @property
    def files(self) -> list[File]:
        """Every file that is listed."""
        return [
            file
            for entry in self.entries
            for file in (*entry.images, entry.label)
            if isinstance(file, File)
        ]


def list_data(path: File, inputs: Sequence[TensorSpec] = (), names: Sequence[str] = ()) -> Listing:
    """Return what a folder or a list file lists.

    Args:
        path: A folder of images, or of a folder of images for each class; a ``.txt``, ``.csv``,
            ``.json`` or ``.jsonl``. By a URL a folder, or a ``.txt``.
        inputs: Of the model, whose names head the columns of a list; none takes any.
        names: Of the classes in the network's order, where they are known.

    Raises:
        InputError: It is none of them, or lists what is not there.
    """
    if isinstance(path, Remote):
        if path.is_dir():
            return _folder(path, names)
        if path.suffix != ".txt":
            raise InputError(
                f"{path}: is not a folder of images or a .txt; copy it here: a list may name "
                "images by URLs"
            )
        return Listing(tuple(_text(path)))
    if os.path.isdir(path):
        return _folder(path, names)
    file = existing_file(path, "the data", DOCUMENT_BYTES)
    if file.suffix == ".csv":
        return _table(file, _csv_rows(file, inputs), inputs, names)
    if file.suffix in (".json", ".jsonl"):
        return _table(file, _json_rows(file), inputs, names)
    return Listing(tuple(_text(file)))


def _folder(folder: File, names: Sequence[str]) -> Listing:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        return _by_class(folder, names)
    photographs = {p.stem for p in found if p.suffix.lower() != LABEL_SUFFIX}
    labels = {p.stem: p for p in found if p.suffix.lower() == LABEL_SUFFIX}
    return Listing(
        tuple(
            Entry((p,), None if p is labels.get(p.stem) else labels.get(p.stem))
            for p in found
            if p.suffix.lower() != LABEL_SUFFIX or p.stem not in photographs
        )
    )


def _by_class(folder: File, names: Sequence[str]) -> Listing:
    """Return the images in the folders of a folder, each labelled with its folder's number."""
    inside: list[File] = sorted(folder.iterdir())
    found = {
        entry.name: images
        for entry in inside
        if entry.is_dir()
        and (images := sorted(p for p in entry.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES))
    }
    numbers, notes, own = _numbered(found, names, folder, "folders")
    return Listing(
        tuple(Entry((p,), numbers[kind]) for kind, images in found.items() for p in images),
        notes, own,
    )  # fmt: skip


def _numbered(
    kinds: Iterable[str], names: Sequence[str], where: File, what: str
) -> tuple[dict[str, int], tuple[str, ...], tuple[str, ...]]:
    """Return the number of each class: its place among ``names``, or else in alphabetical order."""
    found = sorted(set(kinds))
    if names and found:
        numbers = {name: number for number, name in reversed([*enumerate(names)])}
        for kind in found:
            if kind not in numbers:
                raise InputError(
                    f"{where}: {kind!r} is none of the {len(names)} classes that are named; "
                    f"{nearest(kind, names)}"
                )
        return {kind: numbers[kind] for kind in found}, (), ()
    if not found:
        return {}, (), ()
    told = ", ".join(f"{kind} = {number}" for number, kind in enumerate(found[:4]))
    note = (
        f"{where}: the {len(found)} {what} are classes in the order of their names, as Keras and "
        f"torchvision number them ({told}{', ...' if len(found) > 4 else ''}); name the classes "
        "where the network has another order"
    )
    return {kind: number for number, kind in enumerate(found)}, (note,), tuple(found)


def _text(path: File) -> list[Entry]:
    entries = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        image, _, label = line.partition("\t")
        where = f"{path}, line {number}"
        found = _there(path, image, where)
        entries.append(Entry((found,), _there(path, label, where) if label.strip() else None))
    return entries


def _there(path: File, text: str, where: str) -> File:
    """Return a file that a list names, beside the list, by its whole path, or by a URL.

    Whether one is there that has a URL is told when it is read: asking for each takes long.
    """
    if is_url(text.strip()):
        return Remote.of(text.strip())
    if isinstance(path, Remote):
        return path.parent / text.strip()
    found = path.parent / text.strip()
    if not os.path.isfile(found):
        raise InputError(f"{where}: {found} does not exist")
    return found


def _lines(path: File) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not a folder, an .npz or a text file with one image path a line"
        ) from error
    ROWS.check(len(lines), f"{path}: the data")
    return lines


def _csv_rows(path: Path, inputs: Sequence[TensorSpec]) -> list[tuple[str, dict[str, object]]]:
    """Return the rows of a CSV by column; without a line of names they are an image and a label."""
    reader = csv.reader(_lines(path))
    try:
        rows = [
            (f"{path}, line {reader.line_num}", row) for row in reader if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: is no CSV ({error})") from error
    names = [_IMAGE, _LABEL]
    if rows:
        COLUMNS.check(len(rows[0][1]), f"{path}: the data")
        head = [cell.strip() for cell in rows[0][1]]
        known = {_IMAGE, _LABEL, *(_plain(spec.name) for spec in inputs)}
        if known & {_plain(name) for name in head} or not os.path.isfile(path.parent / head[0]):
            names, rows = head, rows[1:]
    found: list[tuple[str, dict[str, object]]] = []
    for where, row in rows:
        if len(row) > len(names):
            raise InputError(f"{where}: has {len(row)} cells under {len(names)} names of columns")
        found.append((where, {n: c.strip() for n, c in zip(names, row, strict=False)}))
    return found


def _json_rows(path: Path) -> list[tuple[str, dict[str, object]]]:
    try:
        document = read_json(path)
    except ValueError:
        try:
            lines = [line for line in _lines(path) if line.strip()]
            check_json("".join(lines))
            document = [parse_json(line) for line in lines]
        except ValueError as error:
            raise InputError(
                f"{path}: neither a JSON list nor a JSON object a line ({error})"
            ) from error
    if isinstance(document, dict):
        document = [document]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise InputError(
            f'{path}: a list of samples is a list of objects: {{"{_IMAGE}": "a.jpg", '
            f'"{_LABEL}": 3}}, with the names of inputs in place of "{_IMAGE}" where there are '
            "several"
        )
    ROWS.check(len(document), f"{path}: the data")
    COLUMNS.check(max(map(len, document), default=0), f"{path}: the data")
    return [(f"{path}, entry {number}", row) for number, row in enumerate(document)]


def _table(
    path: Path,
    rows: Sequence[tuple[str, Mapping[str, object]]],
    inputs: Sequence[TensorSpec],
    names: Sequence[str],
) -> Listing:
    columns = [_plain(spec.name) for spec in inputs]
    wanted = []  # by row: the values of the inputs, and the label
    for where, row in rows:
        left = {_plain(str(name)): value for name, value in row.items()}
        label = left.pop(_LABEL, None)
        if len(columns) <= 1 and _IMAGE in left and not set(columns) & set(left):
            left = {columns[0] if columns else _IMAGE: left.pop(_IMAGE), **left}
        values = [left.get(name) for name in columns or list(left)]
        if not values or any(value in (None, "") for value in values):
            missing = [name for name in columns if left.get(name) in (None, "")] or [_IMAGE]
            raise InputError(
                f"{where}: has nothing for {missing[0]!r}; {nearest(missing[0], left)}"
            )
        wanted.append((where, values, label))
    if not wanted:
        return Listing()
    paths = [all(isinstance(value, str) for value in values) for _, values, _ in wanted]
    kinds, notes, own = _numbered(
        {str(label) for _, _, label in wanted if label in names or _is_name(path, label)},
        names, path, "names",
    )  # fmt: skip
    labels = [_label(path, where, label, kinds) for where, _, label in wanted]
    if all(paths):
        return Listing(
            tuple(
                Entry(tuple(_there(path, str(value), where) for value in values), label)
                for (where, values, _), label in zip(wanted, labels, strict=True)
            ),
            notes, own,
        )  # fmt: skip
    if any(paths):
        where = wanted[paths.index(not paths[0])][0]
        raise InputError(f"{where}: image files and numbers are in one list; use one for each")
    found = []
    for (where, values, _), label in zip(wanted, labels, strict=True):
        if isinstance(label, File):
            raise InputError(f"{where}: an image can't be the label of numbers; give a class")
        row = dict(zip(columns, values, strict=False))
        found.append(row if label is None else {**row, "labels": label})
    return Listing((), notes, own, tuple(found))


def _plain(name: str) -> str:
    return name.strip().removesuffix(":0")


def _is_name(path: Path, label: object) -> bool:
    """Tell whether a label is the name of a class, and neither its number nor an image."""
    if not isinstance(label, str) or not label.strip() or _is_number(label):
        return False
    return not (
        is_url(label)
        or Path(label).suffix.lower() in IMAGE_SUFFIXES
        or os.path.isfile(path.parent / label.strip())
    )


def _is_number(text: str) -> bool:
    """Tell whether a text is a number, such as ``3``, and ``3.0``, which numbers no class."""
    return (
        re.fullmatch(r"[+-]?(\d[\d_]*(\.\d*)?|\.\d+)(e[+-]?\d+)?", text.strip(), re.I) is not None
    )


def _whole(text: str) -> int | None:
    try:
        number = int(text)
    except ValueError:
        return None
    return number if abs(number) < 1 << 62 else None


def _label(path: Path, where: str, label: object, kinds: Mapping[str, int]) -> File | int | None:
    if label is None or (isinstance(label, str) and not label.strip()):
        return None
    if isinstance(label, int) and not isinstance(label, bool) and abs(label) < 1 << 62:
        return label
    if isinstance(label, str):
        number = _whole(label)
        if number is not None:
            return number
        if label in kinds:
            return kinds[label]
        if not _is_number(label):
            return _there(path, label, where)
    raise InputError(
        f"{where}: the label is {label!r}; a class is a whole number (3, and not 3.0) or a name, a "
        "label image a path, and boxes go into a file of labels (--labels)"
    )
