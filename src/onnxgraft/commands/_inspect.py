"""`inspect`: what a file holds: a model, or what the other commands write."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.commands._opening import ModelGiven, Place
from onnxgraft.data.ranges import Ranges
from onnxgraft.files import existing_file, sha256
from onnxgraft.files.trust import Trust
from onnxgraft.graph.foreign import BUNDLE, ENGINE, PASSPORT, RANGES, kind_of
from onnxgraft.stages import engine as stage
from onnxgraft.stages.convert import Inspection, Original
from onnxgraft.stages.engine.passport import (
    Passport,
    passport_in,
    passport_json,
    passport_path,
    read_passport,
)
from onnxgraft.words import several

__all__ = ["Inspected", "inspect"]


@dataclass(frozen=True)
class Inspected:
    """What a file holds that is no model.

    Attributes:
        path: The file.
        kind: What it is, in words.
        summary: The same with what matters most.
        sections: Lines by title, for a person.
        details: Everything, for scripts.
    """

    path: str
    kind: str
    summary: str
    sections: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"path": self.path, "kind": self.kind, **self.details}


def inspect(
    model: ModelGiven,
    *,
    weights: Place | None = None,
    signature: str | None = None,
    trust: Trust = False,
) -> Inspection | Inspected:
    """Return what a file holds: of a model its inputs, outputs, operators, training leftovers.

    An engine is not loaded: its passport tells what it is.

    Args:
        model: A TensorFlow graph, SavedModel or checkpoint, a Keras or TFLite file, a PyTorch
            program (.pt2), a Caffe prototxt or an ONNX file; or a model as `convert` takes it; or
            an engine, a passport, ranges, or a bundle.
        weights: The weights of a Caffe network.
        signature: The signature of a SavedModel.
        trust: Load a Keras file or a .pt2 that brings code: True, or the names of what may.

    Raises:
        InputError: It can't be read.
    """
    if isinstance(model, str | os.PathLike) and os.path.isfile(model):
        file = existing_file(model, "the file")
        reader = _READERS.get(kind_of(file))
        if reader is not None:
            return reader(file)
    return Original.of(model, weights=weights, signature=signature, trust=trust).inspect()


def _engine(file: Path) -> Inspected:
    size = file.stat().st_size
    if not passport_path(file).is_file():
        target = stage.target_of(file)
        return Inspected(
            str(file), ENGINE, f"{ENGINE} of {target.title} without a passport, {_size(size)}",
            {"notes": [f"what it was built from stood in {passport_path(file).name}"]},
            {"target": target.name, "size": size, "passport": None},
        )  # fmt: skip
    passport = read_passport(file)
    whole = sha256(file) == passport.engine
    sections = _told(passport)
    if not whole:
        sections["notes"].append("it is not the file that its passport was written for")
    return Inspected(
        str(file), ENGINE, f"{ENGINE}: {passport.name}, {_size(size)}", sections,
        {"size": size, "as_built": whole, "passport": passport_json(passport)},
    )  # fmt: skip


def _passport(file: Path) -> Inspected:
    passport = passport_in(file)
    return Inspected(
        str(file), PASSPORT, f"{PASSPORT}: {passport.name}", _told(passport),
        {"passport": passport_json(passport)},
    )  # fmt: skip


def _ranges(file: Path) -> Inspected:
    ranges = Ranges.load(file)
    sections = {
        "data": [ranges.data],
        "skipped": [f"{name}: {why}" for name, why in ranges.skipped.items()],
        "tensors": [
            f"{name}: [{one.low:.6g}, {one.high:.6g}] by {one.origin}, "
            f"seen [{one.minimum:.6g}, {one.maximum:.6g}]"
            for name, one in ranges.tensors.items()
        ],
        "notes": [*ranges.notes, *(note for note in (ranges.choice, ranges.advice) if note)],
    }
    tensors, samples = several(len(ranges.tensors), "tensor"), several(ranges.images, "sample")
    summary = f"{ranges.method} ranges of {tensors}, {samples}"
    details = {
        "method": ranges.method, "images": ranges.images, "model": ranges.model,
        "data": ranges.data, "data_sha256": ranges.fingerprint, "skipped": ranges.skipped,
        "targets": ranges.targets, "notes": sections["notes"],
        "tensors": {name: asdict(one) for name, one in ranges.tensors.items()},
    }  # fmt: skip
    return Inspected(str(file), RANGES, summary, sections, details)


def _bundle(file: Path) -> Inspected:
    manifest, members = stage.unpacked(file)
    passport = manifest["passport"]
    source = passport.get("source")
    sections = {
        "files": [f"{name}, {_size(size)}" for name, size in members.items()],
        "profiles": [
            f"{name}: {low} to {high}, tuned for {usual}"
            for profile in manifest["profiles"]
            for name, (low, usual, high) in profile.items()
        ],
        "made from": [str(source.get("path", ""))] if isinstance(source, dict) else [],
        "use": [f"python3 {file.name} -o {file.stem}.engine"],
    }
    size = file.stat().st_size
    core = manifest.get("dla")
    aim = "TensorRT" if core is None else f"TensorRT 10 and core {core} of the DLA"
    summary = f"a bundle for {aim}, {passport.get('precision', '')}, {_size(size)}"
    details = {"size": size, "members": members, **manifest}
    return Inspected(str(file), BUNDLE, summary, sections, details)


def _told(passport: Passport) -> dict[str, list[str]]:
    """Return what a passport says, by title."""
    return {
        "inputs": [str(spec) for spec in passport.inputs],
        "outputs": [str(spec) for spec in passport.outputs],
        "made from": [f"{passport.source.path} ({passport.source.framework})"],
        "built with": _pairs(passport.versions) + _pairs(passport.flags.to_json()),
        "built for": [str(passport.cpu)] if passport.cpu.name else _pairs(passport.machine),
        "runs where": [str(share) for share in passport.divided],
        "held against its graph": [str(proof) for proof in passport.proof],
        "layers": _layers(passport),
        "accuracy": _pairs(passport.accuracy),
        "best settings for serving": _pairs(passport.serving),
        "latency": [", ".join(_measured(row)) for row in passport.latency if isinstance(row, dict)],
        "SHA-256": _pairs(passport.hashes),
        "recipe": [f"[{table}] {', '.join(_pairs(keys))}" for table, keys in _tables(passport)],
        "notes": list(passport.notes),
    }


def _layers(passport: Passport) -> list[str]:
    """Return how many layers run in what, and each that the graph has in something else."""
    counts = Counter(layer.precision or "not told" for layer in passport.layers)
    other = [
        f"{layer.layer}: {layer.precision}, where the graph has {layer.graph}"
        for layer in passport.layers
        if layer.precision not in ("", layer.graph)
    ]
    return [", ".join(_pairs(counts)), *other] if counts else []


def _tables(passport: Passport) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, keys) for name, keys in passport.recipe.items() if isinstance(keys, dict)]


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {value}" for name, value in values.items()]


def _measured(row: Mapping[str, Any]) -> list[str]:
    return _pairs({name: value for name, value in row.items() if not isinstance(value, list)})


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


_READERS: Mapping[str, Callable[[Path], Inspected]] = {
    ENGINE: _engine, PASSPORT: _passport, RANGES: _ranges, BUNDLE: _bundle,
}  # fmt: skip
