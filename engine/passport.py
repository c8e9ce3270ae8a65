"""The passport of an engine: what it was built from, with what, and for whom."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files import write_json
from onnxgraft.model import Source
from onnxgraft.runtime import TensorSpec

__all__ = ["Passport", "passport_path", "read_passport", "write_passport"]


@dataclass(frozen=True)
class Passport:
    """What an engine is.

    Attributes:
        target: The library that runs it.
        precision: ``fp32`` or ``int8``.
        engine: SHA-256 of the engine file.
        source: The original that it computes.
        inputs: Of the graph it was built from, in order.
        outputs: Likewise.
        versions: Of the libraries that built it.
    """

    target: str
    precision: str
    engine: str
    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: dict[str, str]


def passport_path(engine: str | os.PathLike[str]) -> Path:
    """Return where the passport of an engine is."""
    return Path(f"{os.fspath(engine)}.json")


def write_passport(engine: str | os.PathLike[str], passport: Passport) -> None:
    """Write ``passport`` beside its engine."""
    write_json(passport_path(engine), {"format": "onnxgraft.passport/1", **asdict(passport)})


def read_passport(engine: str | os.PathLike[str]) -> Passport:
    """Read the passport beside ``engine``.

    Raises:
        InputError: There is none, or it is damaged.
    """
    file = passport_path(engine)
    if not file.is_file():
        raise InputError(
            f"{engine}: has no passport ({file.name}); loading an engine runs native code, so only "
            "one that onnxgraft build wrote is loaded"
        )
    try:
        document = json.loads(file.read_text())
        if document.pop("format") != "onnxgraft.passport/1":
            raise ValueError("an unknown format")
        document["source"] = Source(**document["source"])
        for side in ("inputs", "outputs"):
            document[side] = tuple(
                TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"]))
                for entry in document[side]
            )
        return Passport(**document)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a passport that onnxgraft wrote ({error})") from error
