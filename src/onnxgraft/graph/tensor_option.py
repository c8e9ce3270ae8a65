"""The tensor lists of the command line: ``a:0,b:0[1,224,224,3]`` and ``is_training=false``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from onnxgraft.errors import InputError

__all__ = ["TensorOption", "parse_tensors", "parse_values"]

Value = bool | float | int


class TensorOption(NamedTuple):
    """A tensor that the user named, and the shape he gave for it (-1: free)."""

    name: str
    shape: tuple[int, ...] | None


def parse_tensors(text: str | None) -> tuple[TensorOption, ...]:
    """Read a comma-separated list of tensors with optional shapes.

    >>> parse_tensors("a:0,b:0[1,224,224,3]")
    (TensorOption(name='a:0', shape=None), TensorOption(name='b:0', shape=(1, 224, 224, 3)))

    Raises:
        InputError: It is no such list.
    """
    if text is None:
        return ()
    options = []
    for part in re.split(r",(?![^\[]*\])", text):
        match = re.fullmatch(r"\s*([^\[\]\s]+)\s*(?:\[([-\d,?\s]*)\])?\s*", part)
        if not match:
            raise InputError(f"{part!r} is not a tensor; write name or name[1,224,224,3]")
        name, dims = match.groups()
        try:
            sizes = [] if dims is None or not dims.strip() else dims.split(",")
            shape = None if dims is None else tuple(_dim(size) for size in sizes)
        except ValueError as error:
            raise InputError(
                f"{part!r}: the shape is not a list of whole numbers, -1 or ?"
            ) from error
        options.append(TensorOption(name, shape))
    return tuple(options)


def _dim(text: str) -> int:
    size = -1 if text.strip() == "?" else int(text)
    if size < -1:
        raise ValueError(text)
    return size


def parse_values(items: Iterable[str]) -> dict[str, Value]:
    """Read ``NAME=VALUE`` items; true and false in any case, else a number.

    >>> parse_values(["is_training=False", "keep_prob=1.0"])
    {'is_training': False, 'keep_prob': 1.0}

    Raises:
        InputError: An item is not of that form.
    """
    values: dict[str, Value] = {}
    for item in items:
        name, sign, text = item.partition("=")
        word = text.strip().lower()
        try:
            if not (name and sign):
                raise ValueError
            values[name.strip().removesuffix(":0")] = (
                word == "true"
                if word in ("true", "false")
                else (int(word) if re.fullmatch(r"[-+]?\d+", word) else float(word))
            )
        except ValueError as error:
            raise InputError(
                f"--set {item}: write NAME=VALUE with true, false or a number"
            ) from error
    return values
