"""Values as the command line writes them, and as Python gives them: both are taken everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxgraft.errors import InputError
from onnxgraft.graph.tensor_option import parse_tensors

__all__ = ["Names", "Numbers", "RangesGiven", "ShapesGiven", "names", "numbers", "ranges", "shapes"]

Names = str | Sequence[str] | None
Numbers = str | Sequence[int]
ShapesGiven = str | Mapping[str, Sequence[int]] | None
RangesGiven = Sequence[str] | Mapping[str, tuple[float, float]]


def names(given: Names) -> list[str]:
    """Return a list of names; a text has commas between them.

    >>> names("a, b"), names(["a"]), names(None)
    (['a', 'b'], ['a'], [])
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return list(given)


def numbers(given: Numbers) -> list[int]:
    """Return a list of whole numbers; a text has commas between them.

    Raises:
        InputError: A part of the text is none.
    """
    if not isinstance(given, str):
        return list(given)
    try:
        return [int(part) for part in names(given)]
    except ValueError as error:
        raise InputError(f"{given!r} is not a list of whole numbers such as 1,4,16") from error


def shapes(option: str, given: ShapesGiven) -> dict[str, tuple[int, ...]]:
    """Return shapes by input; a text is written as ``a:0[1,8,8,3],b:0[1,4]``.

    Raises:
        InputError: A name in the text has no shape.
    """
    if given is not None and not isinstance(given, str):
        return {name: tuple(shape) for name, shape in given.items()}
    found = {}
    for entry in parse_tensors(given):
        if entry.shape is None:
            raise InputError(f"{option} {entry.name}: write its shape, {entry.name}[1,3,224,224]")
        found[entry.name] = entry.shape
    return found


def ranges(given: RangesGiven) -> dict[str, tuple[float, float]]:
    """Return ranges by tensor; texts are ``T=LOW:HIGH``, or ``T=AMAX`` for -AMAX to AMAX.

    Raises:
        InputError: A text is not written so, or a range is empty.
    """
    pairs = given.items() if isinstance(given, Mapping) else map(_range, given)
    found = dict(pairs)
    for name, (low, high) in found.items():
        if not low < high:
            raise InputError(f"--set-range {name}={low:g}:{high:g}: the range is empty")
    return found


def _range(item: str) -> tuple[str, tuple[float, float]]:
    name, sign, text = item.rpartition("=")
    low, colon, high = text.partition(":")
    try:
        if not (name and sign):
            raise ValueError
        return name, ((float(low), float(high)) if colon else (-float(low), float(low)))
    except ValueError as error:
        raise InputError(f"--set-range {item}: write T=LOW:HIGH or T=AMAX") from error
