"""The keys of a recipe as data: its JSON schema, and what each key wants in words."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxgraft.commands._recipe_tables import Recipe
from onnxgraft.files.toml import toml_key, toml_text

__all__ = ["Key", "find_key", "in_words", "recipe_keys", "schema", "tables"]

Schema = dict[str, Any]
# Of JSON schema, what editors of TOML read; the later drafts they do not.
_DRAFT = "http://json-schema.org/draft-07/schema#"
_TITLE = "Recipe of onnxgraft"


@dataclass(frozen=True)
class Key:
    """A key of a recipe, or a table.

    Attributes:
        place: Its name, behind those of the tables that it is in.
        schema: Of its value.
        required: Whether a recipe has to have it.
        keys: Of a table: its own, in order.
    """

    place: tuple[str, ...]
    schema: Schema
    required: bool = False
    keys: Mapping[str, Key] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name without that of its tables."""
        return self.place[-1]

    @property
    def title(self) -> str:
        """Of a table: its name in a file, and ``recipe`` for the whole."""
        return ".".join(self.place) or "recipe"

    @property
    def description(self) -> str:
        """What it is for."""
        return str(self.schema.get("description", ""))

    @property
    def wants(self) -> str:
        """What it may hold, in words."""
        return in_words(self.schema)

    @property
    def example(self) -> str:
        """A line that sets it."""
        value = next(iter(self.schema.get("examples", ())), self.schema.get("default"))
        return f"{toml_key(self.name)} = {toml_text(value)}"

    @property
    def default(self) -> object:
        """Its value where it is not given; None where it has none."""
        return self.schema.get("default")


@functools.cache
def schema() -> Schema:
    """Return the JSON schema of a recipe, as draft 7 and without references."""
    found = Recipe.model_json_schema(by_alias=True)
    made = _plain(found, found.get("$defs", {}))
    return {"$schema": _DRAFT, "title": _TITLE, **made}


@functools.cache
def recipe_keys() -> Key:
    """Return the recipe as a table, with every key and table in it."""
    return _key((), schema(), True)


def find_key(place: Sequence[str | int]) -> Key | None:
    """Return the key at a place, or the one that holds the place; None where there is none."""
    key, names = recipe_keys(), list(place)
    while names and key.keys:
        found = key.keys.get(str(names.pop(0)))
        if found is None:
            return None
        key = found
    return key


def tables(key: Key | None = None) -> Iterator[Key]:
    """Yield the recipe and every table in it, in order."""
    key = key or recipe_keys()
    yield key
    for inner in key.keys.values():
        if inner.keys:
            yield from tables(inner)


def _key(place: tuple[str, ...], node: Schema, required: bool) -> Key:
    known = node.get("required", ())
    inner = node.get("properties", {}) if node.get("additionalProperties") is False else {}
    described = {name: each for name, each in inner.items() if "description" in each}
    keys = {name: _key((*place, name), each, name in known) for name, each in described.items()}
    return Key(place, node, required, keys)


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema of pydantic's without references, titles, nulls and newer words."""
    if isinstance(node, list):
        return [_plain(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if "$ref" in node:
        named = definitions[node.pop("$ref").rpartition("/")[2]]
        return _plain({**named, **node}, definitions)
    values = {key: node.pop(key) for key in ("default", "examples", "enum") if key in node}
    made: Schema = {
        key: {name: _plain(each, definitions) for name, each in value.items()}
        if key == "properties"
        else _plain(value, definitions)
        for key, value in node.items()
        if key not in ("title", "$defs")
    }
    made.update({key: value for key, value in values.items() if value is not None})
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "prefixItems" in made:
        made["items"], made["additionalItems"] = made.pop("prefixItems"), False
    if made.get("type") == "integer" and "exclusiveMinimum" in made:
        made["minimum"] = made.pop("exclusiveMinimum") + 1
    if "enum" in made.get("propertyNames", {}):
        names, value = made.pop("propertyNames")["enum"], made.get("additionalProperties")
        made |= {"properties": dict.fromkeys(names, value), "additionalProperties": False}
    if "anyOf" in made:
        made |= _either([each for each in made.pop("anyOf") if each != {"type": "null"}])
    return made


def _either(kinds: Sequence[Schema]) -> Schema:
    """Return the schema of one or another; lists of values become one."""
    listed = [value for kind in kinds for value in kind.get("enum", ())]
    others = [kind for kind in kinds if "enum" not in kind]
    if listed:
        others.append({"enum": listed})
    return others[0] if len(others) == 1 else {"anyOf": others}


def in_words(node: Schema) -> str:
    """Return what a schema wants.

    >>> in_words({"type": "array", "items": {"type": "integer", "minimum": 1}})
    'a list of whole numbers from 1 on'
    """
    return _words(node, several=False)


def _words(node: Schema, several: bool) -> str:
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_words(each, several) for each in node["anyOf"]))
    if "enum" in node:
        return _or([toml_text(value) for value in node["enum"]])
    kind = node.get("type")
    if kind == "array":
        return _list(node, several)
    if kind == "object":
        inner = node.get("additionalProperties") or next(iter(node["properties"].values()))
        return f"{'tables' if several else 'a table'} of {_words(inner, several=True)}"
    if kind == "string" and "pattern" in node:
        return "FILE.py:FUNCTION"
    one, many = {
        "boolean": ("true or false", "true or false"),
        "integer": ("a whole number", "whole numbers"),
        "number": ("a number", "numbers"),
        "string": ("a text", "texts"),
    }[str(kind)]
    return (many if several else one) + _bounds(node)


def _list(node: Schema, several: bool) -> str:
    items = node["items"]
    count = f"{len(items)} " if isinstance(items, list) else ""
    first = items[0] if isinstance(items, list) else items
    if isinstance(items, list) and any(each != first for each in items):
        first = {"type": first["type"]}  # each has bounds of its own
    return f"{'lists' if several else 'a list'} of {count}{_words(first, several=True)}"


def _bounds(node: Schema) -> str:
    low, high, above = (node.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
    if low is not None:
        return f" from {low:g} on" if high is None else f" from {low:g} to {high:g}"
    if above is not None:
        return f" above {above:g}" if high is None else f" above {above:g}, up to {high:g}"
    return "" if high is None else f" up to {high:g}"


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
