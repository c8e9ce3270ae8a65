"""What is wrong with a recipe, told by key and line: what the key wants, and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onnxgraft.commands._recipe_build import Misfit
from onnxgraft.commands._recipe_keys import Key, find_key, recipe_keys, tables
from onnxgraft.errors import InputError, nearest
from onnxgraft.files.toml import Place, key_lines, toml_text

__all__ = ["at_key", "not_valid", "title_of", "unknown_key", "where"]

# So many problems are told at once, and a value with so many characters.
_MOST, _LONGEST = 3, 60


def at_key(file: Path, place: Place, told: str) -> InputError:
    """Return an error at a key of a recipe."""
    return InputError(f"{where(file, place)}: {told}")


def where(file: Path, place: Place) -> str:
    """Return the file, the line and the key, with which a sentence begins."""
    line = _line(key_lines(file.read_text(encoding="utf-8-sig")), place)
    return f"{file}{f', line {line}' if line else ''}: {title_of(place)}"


def unknown_key(file: Path, name: str) -> InputError:
    """Return the error at a key at the top of a recipe that is none."""
    return at_key(file, (name,), _no_key((name,), recipe_keys()))


def not_valid(
    file: Path,
    document: Mapping[str, Any],
    error: ValidationError,
    *,
    at: Place = (),
    table: Sequence[str] = (),
) -> InputError:
    """Return what pydantic found as an error that names each key, its line and what it wants.

    Args:
        file: That was read.
        document: What it holds.
        error: Of validating it, or the table at ``at``.
        at: Where in the document that table is.
        table: Which of the recipe's it is, where the document is that table alone.
    """
    grouped: dict[Place, list[Any]] = {}
    for problem in error.errors(include_url=False):
        grouped.setdefault(_place(problem, document, at), []).append(problem)
    lines = key_lines(file.read_text(encoding="utf-8-sig"))
    told: list[str] = []
    for place in sorted(grouped, key=lambda place: _line(lines, place))[:_MOST]:
        shown, words = _told((*table, *place), grouped[place], _whole(document, place))
        line = _line(lines, _named_in(place, words, document))
        told.append(f"{f'line {line}: ' if line else ''}{shown}{words}")
    more = f"; and {len(grouped) - _MOST} more" if len(grouped) > _MOST else ""
    begin = ", " if told[0].startswith("line ") else ": "
    return InputError(f"{file}{begin}{'; '.join(told)}{more}")


def title_of(place: Place) -> str:
    """Return what a key is called: ``[calibrate] images``, or ``[calibrate]`` of a table."""
    names = [str(name) for name in place if isinstance(name, str)]
    key = find_key(names)
    if len(names) == 1 or (key is not None and key.keys):
        alone = key is None or not key.keys
        return names[0] if len(names) == 1 and alone else f"[{'.'.join(names)}]"
    # A table within a key, such as [quantize] float, is written behind it.
    depth = 1
    while depth < len(names) - 1 and (inner := find_key(names[: depth + 1])) and inner.keys:
        depth += 1
    return f"[{'.'.join(names[:depth])}] {'.'.join(names[depth:])}"


def _place(problem: Mapping[str, Any], document: Mapping[str, Any], at: Place) -> Place:
    """Return where in the document a problem is: what pydantic adds of its own is left out."""
    misfit = problem.get("ctx", {}).get("error")
    if isinstance(misfit, Misfit):
        return (*at, *misfit.place)
    place, value = at, _value(document, at)
    for part in problem["loc"]:
        missing = problem["type"] == "missing" and part == problem["loc"][-1]
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif not missing:
            break
        place = (*place, part)
    return place


def _value(document: Any, place: Place) -> Any:
    """Return what stands at a place, or None."""
    value: Any = document
    for part in place:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _whole(document: Any, place: Place) -> Any:
    """Return what stands at a place; of a value in a list, the list."""
    while place and isinstance(place[-1], int):
        place = place[:-1]
    return _value(document, place)


def _line(lines: Mapping[Place, int], place: Place) -> int:
    """Return the line of a place, or of the table that lacks it; 0 at the top."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 0)


def _named_in(place: Place, words: str, document: Mapping[str, Any]) -> Place:
    """Return the key that a sentence on a whole table names first."""
    value = _value(document, place)
    if isinstance(value, Mapping):
        for word in re.findall(r"\w+", words):
            if word in value:
                return (*place, word)
    return place


def _told(place: Place, problems: Sequence[Mapping[str, Any]], value: Any) -> tuple[str, str]:
    """Return what is called how, and what is wrong with it."""
    names = tuple(name for name in place if isinstance(name, str))
    kinds = {problem["type"] for problem in problems}
    shown = title_of(place) if names else "the recipe"
    key = find_key(names)
    if "extra_forbidden" in kinds:
        holder = find_key(names[:-1]) if len(names) > 1 else recipe_keys()
        return shown, f": {_no_key(names, holder)}"
    if "missing" in kinds and key is not None:
        return shown, f" is missing: {_purpose(key)}"
    for problem in problems:
        if problem["type"] in ("value_error", "assertion_error"):
            said = problem["msg"].removeprefix("Value error, ")
            # What is wrong with a table as a whole begins with the name of one of its keys.
            misfit = isinstance(problem.get("ctx", {}).get("error"), Misfit)
            whole = key is not None and key.keys and not misfit
            return shown, f" {said}" if whole else f": {said}"
    if key is None:
        return shown, f": {problems[0]['msg'].lower()}"
    if key.keys:
        return shown, f" is a table, and {_short(value)} is none"
    wrong = "" if value is None else f" = {_short(value)}"
    close = _nearest_value(key, value)
    return shown, f"{wrong}: wants {key.wants}{close}, such as {key.example}"


def _no_key(names: Sequence[str], holder: Key | None) -> str:
    """Return why a name is no key, and which one was meant."""
    known = () if holder is None else tuple(holder.keys)
    elsewhere = [
        table for table in tables() if names[-1] in table.keys and table.place != tuple(names[:-1])
    ]
    hint = nearest(names[-1], known)
    if elsewhere and not hint.startswith("did you"):
        where = " or ".join(f"[{'.'.join(table.place)}]" for table in elsewhere if table.place)
        hint = f"it is a key of {where}" if where else (
            "it stands at the top of a recipe, above the first table"
        )  # fmt: skip
    return f"there is no such key; {hint}"


def _purpose(key: Key) -> str:
    """Return what a key that is missing is for, and how it is written."""
    described = key.description.rstrip(".")
    described = described[:1].lower() + described[1:]
    if not key.keys:
        return f"{described}; for example {key.example}"
    needed = [inner.example for inner in key.keys.values() if inner.required]
    return f"{described}; for example {' and '.join((f'[{key.name}]', *needed))}"


def _nearest_value(key: Key, value: Any) -> str:
    """Return which of the texts that a key takes was probably meant."""
    listed = list(_texts(key.schema))
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text not in listed:
            hint = nearest(text, listed) if listed else ""
            return f" ({hint})" if hint.startswith("did you") else ""
    return ""


def _texts(node: Any) -> Iterator[str]:
    """Yield the texts that a schema lists."""
    if isinstance(node, dict):
        yield from (value for value in node.get("enum", ()) if isinstance(value, str))
        for word in ("anyOf", "items"):
            yield from _texts(node.get(word))
    elif isinstance(node, list):
        for each in node:
            yield from _texts(each)


def _short(value: Any) -> str:
    text = toml_text(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
