"""Tables of recipes without pydantic: the same declarations, read by a few lines of our own.

It knows what the declarations in this room use, and takes what JSON and TOML hold: texts are no
numbers here. Beyond that it takes and refuses what pydantic does, which a test compares.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

__all__ = [
    "BaseModel",
    "ConfigDict",
    "Field",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "ValidationError",
    "WithJsonSchema",
    "field_validator",
    "model_validator",
]

ConfigDict = dict


class ValidationError(ValueError):
    """A table is not what its declaration says; a sentence for each key."""


@dataclass(frozen=True)
class Field:
    """What is declared of a key, or of a number."""

    default: Any = None
    gt: float | None = None
    ge: float | None = None
    le: float | None = None
    description: str = ""
    examples: Any = ()

    def check(self, value: Any) -> None:
        """Raise ValueError if a number is out of bounds."""
        if value is None:
            return
        for bound, holds, told in (
            (self.gt, operator.gt, "above"),
            (self.ge, operator.ge, "at least"),
            (self.le, operator.le, "at most"),
        ):
            if bound is not None and not holds(value, bound):
                raise ValueError(f"{value!r} is not {told} {bound}")


class WithJsonSchema:
    """What only a schema for editors says."""

    def __init__(self, schema: object) -> None: ...


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class _Validator:
    """A method that changes or refuses values; of the whole table where it names no keys."""

    method: Any
    mode: str
    keys: tuple[str, ...] = ()


def field_validator(*keys: str, mode: str = "after") -> Callable[[Any], Any]:
    """Return what makes a class method a validator of keys."""
    return lambda method: _Validator(method.__func__, mode, keys)


def model_validator(*, mode: str) -> Callable[[Any], Any]:
    """Return what makes a method a validator of the table."""
    return lambda method: _Validator(getattr(method, "__func__", method), mode)


class BaseModel:
    """A table: an object that can't be changed, with an attribute for each key."""

    model_fields_set: set[str]

    def __init__(self, **values: Any) -> None:
        self._fill(values)

    @classmethod
    def model_validate(cls, values: Any) -> Self:
        """Return a table of keys and values; a table itself is returned as it is."""
        if isinstance(values, cls):
            return values
        if not isinstance(values, Mapping):
            raise ValidationError(f"{values!r} is no table")
        return cls(**values)

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return the same with other values, which are not checked."""
        made = object.__new__(type(self))
        vars(made).update(vars(self), **update)
        vars(made)["model_fields_set"] = self.model_fields_set | set(update)
        return made

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def __eq__(self, other: object) -> bool:
        """Tell whether all values are equal, whichever of them were given."""
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        """Return the hash of the values."""
        return hash(tuple(self._values().items()))

    def __repr__(self) -> str:
        """Return the keys that were given."""
        told = ", ".join(f"{key}={getattr(self, key)!r}" for key in sorted(self.model_fields_set))
        return f"{type(self).__name__}({told})"

    def _values(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "model_fields_set"}

    def _fill(self, values: dict[str, Any]) -> None:
        validators = _validators(type(self))
        faults: list[str] = []
        try:
            for validator in validators:
                if not validator.keys and validator.mode == "before":
                    values = validator.method(type(self), values)
        except ValueError as error:
            raise ValidationError(str(error)) from error
        kinds = _kinds(type(self))
        faults += [f"{key}: there is no such key" for key in values if key not in kinds]
        for key, (kind, told) in kinds.items():
            try:
                given = told.default
                if key in values:
                    given = self._read(key, values[key], kind, told, validators)
                vars(self)[key] = given
            except ValueError as error:
                faults.append(f"{key}: {error}")
        if not faults:
            vars(self)["model_fields_set"] = set(values)
            try:
                for validator in validators:
                    if not validator.keys and validator.mode == "after":
                        validator.method(self)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValidationError("; ".join(faults))

    def _read(
        self, key: str, value: Any, kind: Any, told: Field, validators: tuple[_Validator, ...]
    ) -> Any:
        mine = [validator for validator in validators if key in validator.keys]
        for validator in mine:
            if validator.mode == "before":
                value = validator.method(type(self), value)
        value = _as(value, kind)
        told.check(value)
        for validator in mine:
            if validator.mode == "after":
                value = validator.method(type(self), value)
        return value


def _validators(table: type[BaseModel]) -> tuple[_Validator, ...]:
    return tuple(
        value
        for owner in reversed(table.__mro__)
        for value in vars(owner).values()
        if isinstance(value, _Validator)
    )


def _kinds(table: type[BaseModel]) -> dict[str, tuple[Any, Field]]:
    """Return what each key of a table holds, and what is declared of it."""
    hints = typing.get_type_hints(table, include_extras=True)
    return {
        key: (kind, getattr(table, key)) for key, kind in hints.items() if key != "model_fields_set"
    }


def _as(value: Any, kind: Any) -> Any:
    """Return a value as a type has it.

    Raises:
        ValueError: It is none of that type.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        value = _as(value, parts[0])
        for told in parts[1:]:
            if isinstance(told, Field):
                told.check(value)
        return value
    if origin is Literal:
        if not any(value == part and type(value) is type(part) for part in parts):
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, parts))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(value, parts)
    if origin is tuple:
        return _as_tuple(value, parts)
    if hasattr(kind, "read"):
        return kind.read(value)
    return _as_plain(value, kind)


def _as_one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    faults = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _as(value, kind)
        except ValueError as error:
            faults.append(str(error))
    raise ValueError(", and ".join(faults))


def _as_tuple(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is no list")
    kinds = (parts[0],) * len(value) if parts[1:] == (...,) else parts
    if len(kinds) != len(value):
        raise ValueError(f"{value!r} has not {len(kinds)} values")
    return tuple(map(_as, value, kinds))


def _as_plain(value: Any, kind: type) -> Any:
    """Return a text, truth value or number; a whole float is an int, and 0 and 1 are truths."""
    number = isinstance(value, int | float)
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and number and value in (0, 1):
        return bool(value)
    if kind is float and number:
        return float(value)
    if kind is int and number and value == value // 1 and abs(value) != float("inf"):
        return int(value)
    raise ValueError(f"{value!r} is no {kind.__name__}")
