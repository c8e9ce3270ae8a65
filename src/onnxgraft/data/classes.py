"""The classes of a data set, with the colours they are drawn in: built in, or of a small file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file, read_json, read_toml
from onnxgraft.files.limits import SETTINGS_BYTES
from onnxgraft.files.typed import misread

__all__ = [
    "CAMVID", "CITYSCAPES", "CLASS_SETS", "Classes", "classes_of", "find_classes", "numbered",
    "palette",
]  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """The classes of a segmentation set, and the categories they belong to.

    Attributes:
        names: By label; labels beyond them are ignored.
        categories: Category -> names of its classes; empty where there are none.
        colors: (red, green, blue) of each class, for pictures; empty takes a palette.
    """

    names: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    colors: tuple[tuple[int, int, int], ...] = ()


# The 11-class split of SegNet (Badrinarayanan et al., 2017); the categories are Cityscapes'.
CAMVID = Classes(
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
     "bicyclist"),
    {
        "sky": ("sky",),
        "construction": ("building", "fence"),
        "object": ("pole", "sign"),
        "flat": ("road", "pavement"),
        "nature": ("tree",),
        "vehicle": ("car", "bicyclist"),
        "human": ("pedestrian",),
    },
    ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
     (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)  # fmt: skip
# The 19 evaluated classes (by trainId) and 7 categories of Cordts et al., 2016.
CITYSCAPES = Classes(
    ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
     "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
     "motorcycle", "bicycle"),
    {
        "flat": ("road", "sidewalk"),
        "construction": ("building", "wall", "fence"),
        "object": ("pole", "traffic light", "traffic sign"),
        "nature": ("vegetation", "terrain"),
        "sky": ("sky",),
        "human": ("person", "rider"),
        "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    },
    ((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
     (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
     (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
     (0, 80, 100), (0, 0, 230), (119, 11, 32)),
)  # fmt: skip
CLASS_SETS = {"camvid": CAMVID, "cityscapes": CITYSCAPES}


def classes_of(count: int) -> Classes | None:
    """Return the built-in set that has so many classes, if there is one."""
    return next((known for known in CLASS_SETS.values() if len(known.names) == count), None)


def numbered(count: int) -> Classes:
    """Return classes without names of their own: ``class 0``, ``class 1``, ..."""
    return Classes(tuple(f"class {index}" for index in range(count)), {})


def palette(count: int, known: Classes | None = None) -> NDArray[np.uint8]:
    """Return (count, 3) RGB: the published colours of a known set, and spread hues beyond them."""
    import cv2

    hsv = np.full((1, count, 3), 200, np.uint8)
    # Steps of the golden ratio: neighbours in number are far apart in hue.
    hsv[0, :, 0] = (np.arange(count) * 0.61803398875 % 1 * 180).astype(np.uint8)
    colors = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0], np.uint8)
    published = known.colors[:count] if known else ()
    if published:
        colors[: len(published)] = published
    return colors


def find_classes(name: str) -> Classes:
    """Return a built-in set of classes by its name, or that of a file.

    Args:
        name: ``camvid``, ``cityscapes``, or the path of a ``.toml`` or ``.json`` with ``names`` (a
            list), and optionally ``categories`` (a table of lists of names) and ``colors`` (a list
            of ``[red, green, blue]``), or of a ``.txt`` with a name a line.

    Raises:
        InputError: There is no such set or file, or the file says something else.
    """
    if name in CLASS_SETS:
        return CLASS_SETS[name]
    path = Path(name)
    if path.suffix not in (".json", ".toml", ".txt"):
        raise InputError(
            f"no classes are called {name!r}; {nearest(name, CLASS_SETS)}, or name a .toml, .json "
            "or .txt file"
        )
    file = existing_file(path, "the file of classes", SETTINGS_BYTES)
    try:
        if path.suffix == ".txt":
            lines = file.read_text("utf-8-sig").rstrip().splitlines()
            document: Any = {"names": _lines(lines)}
        else:
            document = read_json(file) if path.suffix == ".json" else read_toml(file)
        return _classes(document)
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{file}: not a file of classes ({misread(error)}); it needs names = [...] and, if "
            "there are any, [categories] with a list of names each"
        ) from error


def _lines(lines: list[str]) -> list[str]:
    """Return names, a line each; where one is left out, the numbers of the others would move."""
    names = [line.strip() for line in lines]
    if "" in names:
        raise ValueError(f"line {names.index('') + 1} is empty, and has no class's name")
    return names


def _classes(document: dict[str, Any]) -> Classes:
    unknown = set(document) - {"names", "categories", "colors"}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    names = tuple(map(str, document["names"]))
    if not names or len(set(names)) != len(names):
        raise ValueError("there are no names, or one of them occurs twice")
    categories = {
        str(key): tuple(map(str, members))
        for key, members in document.get("categories", {}).items()
    }
    held = [name for members in categories.values() for name in members]
    if categories and sorted(held) != sorted(names):
        raise ValueError("the categories do not hold every class once")
    colors = tuple((int(r), int(g), int(b)) for r, g, b in document.get("colors", ()))
    if colors and len(colors) != len(names):
        raise ValueError(f"{len(colors)} colors for {len(names)} classes")
    return Classes(names, categories, colors)
