"""The words in which tables of recipes are declared, once, with keys, bounds and descriptions.

They are pydantic's. Where it is not installed, as where engines are only run, `plain_tables` reads
the same declarations.
"""

from __future__ import annotations

try:
    from pydantic import (
        BaseModel,
        ConfigDict,
        Field,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        ValidationError,
        WithJsonSchema,
        field_validator,
        model_validator,
    )
except ModuleNotFoundError:
    from onnxgraft.data.plain_tables import (  # type: ignore[assignment, no-redef]
        BaseModel,
        ConfigDict,
        Field,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        ValidationError,
        WithJsonSchema,
        field_validator,
        model_validator,
    )

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
