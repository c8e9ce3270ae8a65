"""The passport of an engine: what it was built from, with what, and for whom."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files import claimed, existing_file, read_json, sha256, write_json
from onnxgraft.files.limits import PASSPORT_BYTES
from onnxgraft.files.typed import check_types, misread
from onnxgraft.graph.source import Source
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.run.layers import LayerPrecision
from onnxgraft.run.providers import Share
from onnxgraft.run.seen import Proof
from onnxgraft.targets import FORMATS, find_target, target_names
from onnxgraft.targets.cpu import Cpu
from onnxgraft.targets.devices import find_provider, on_cpu

__all__ = [
    "Flags",
    "Passport",
    "own_passport",
    "passport_in",
    "passport_json",
    "passport_path",
    "pinned",
    "read_passport",
    "record",
    "refuse",
]

FORMAT = "onnxgraft.passport/1"


@dataclass(frozen=True)
class Flags:
    """What an engine was built with; each target sets what means something to it.

    Attributes:
        hint: What it is tuned for: ``latency`` or ``throughput`` (OpenVINO).
        floats: What the library was asked to compute float layers in (OpenVINO).
        threads: CPU threads; None takes all (OpenVINO, onnxruntime).
        shapes: Inputs whose free shape was fixed (OpenVINO).
        models: Compiled models in the engine file: two where one is for a single image (OpenVINO).
        profiles: For each profile, the smallest, usual and largest shape by input (TensorRT).
        workspace: Bytes of GPU memory for scratch; None is without limit (TensorRT).
        level: Of optimization (TensorRT).
        version_compatible: Whether it runs in later versions of the library (TensorRT).
        calibration: ``implicit`` where INT8 was made from a calibration cache (TensorRT 10).
        float32: Layers that FP16 does not hold, and why.
        unchecked: How many tensors had no range to check FP16 with.
        dla: The core of the DLA that runs what it can; None for the GPU alone (TensorRT 10).
        device: That it was compiled for; empty for the CPU (OpenVINO).
        chosen: What was asked for where the library chose that device, such as ``AUTO`` (OpenVINO).
        provider: That runs it, and on which device; empty for the CPU's own (onnxruntime).
    """

    hint: str = "latency"
    floats: str = "fp32"
    threads: int | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    models: int = 1
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]] = ()
    workspace: int | None = None
    level: int | None = None
    version_compatible: bool = False
    calibration: str = ""
    float32: Mapping[str, str] = field(default_factory=dict)
    unchecked: int = 0
    dla: int | None = None
    device: str = ""
    chosen: str = ""
    provider: str = ""

    @property
    def on_cpu(self) -> bool:
        """Whether the engine's answers depend on the processor."""
        return on_cpu(self.device, self.provider)

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults."""
        usual = Flags()
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(usual, name)}


@dataclass(frozen=True)
class Passport:
    """What an engine is.

    Attributes:
        target: The library that runs it.
        precision: ``fp32``, ``tf32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``.
        engine: SHA-256 of the engine file; empty for an engine that came without a passport.
        source: The original that it computes.
        inputs: Of the graph it was built from, in order.
        outputs: Likewise.
        versions: Of the libraries that built it.
        graph: SHA-256 of the graph that it was built from.
        floats: What the layers that are not INT8 run in.
        flags: That it was built with.
        machine: That it was built for: processor, or GPU, compute capability and driver.
        hashes: SHA-256 of ``ranges``, ``data`` and ``recipe``, as far as they were told, and of the
            ``validation`` data once accuracy was measured.
        recipe: The tables ``preprocess`` and ``postprocess`` of the recipe; with `--bake` what is
            left of them, and ``inside``: what the engine itself makes of a picture, where its
            outputs lie in that.
        cpu: The processor that it is for.
        proof: Of each output, whether the engine computes what its graph says; empty where it was
            not run when it was built.
        notes: What was built in another form than the graph's, and why.
        accuracy: What validation measured last, by name.
        accuracy_on: The same by the processor that it was measured on.
        direction: Where a metric in it is better: ``up`` or ``down``; empty where that is not said.
        latency: Rows that a benchmark measured.
        depths: By output, how many roundings to 8 bits are on the way to it; empty where that does
            not stand in the graph.
        weights: ``int8`` or ``int4`` where the graph stores weights so, and activations are float.
        layers: What each layer runs in, as the library told where the engine was run when it was
            built.
        serving: The settings that a search found best for many requests: instances, threads,
            streams and batch of each, with the rate, the limit and the processor.
        divided: What of it runs where, if its library divided it among several places.
    """

    target: str
    precision: str
    engine: str
    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: dict[str, str]
    graph: str = ""
    floats: str = "fp32"
    flags: Flags = field(default_factory=Flags)
    machine: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    cpu: Cpu = field(default_factory=Cpu)
    proof: tuple[Proof, ...] = ()
    notes: tuple[str, ...] = ()
    accuracy: dict[str, float] = field(default_factory=dict)
    accuracy_on: dict[str, dict[str, float]] = field(default_factory=dict)
    direction: str = "up"
    latency: list[dict[str, Any]] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)
    weights: str = ""
    layers: tuple[LayerPrecision, ...] = ()
    serving: dict[str, Any] = field(default_factory=dict)
    divided: tuple[Share, ...] = ()

    @property
    def proven(self) -> bool | None:
        """Whether the engine computes what its graph says; None where that was not tried."""
        return all(output.passed for output in self.proof) if self.proof else None

    @property
    def runs_on(self) -> str:
        """What it was built for, in words: the processor, or else the device."""
        if self.cpu.name:
            return str(self.cpu)
        where = self.flags.device or self.flags.provider
        told = ", ".join(
            self.machine[key] for key in ("gpu", "npu", "device") if self.machine.get(key)
        )
        return f"{where} ({told})" if where and told else where or told

    def here(self) -> str:
        """Return what runs it on this machine, as figures of it are kept: processor or device."""
        target = find_target(self.target)
        return str(target.cpu()) if target.on_cpu and self.flags.on_cpu else self.runs_on

    def served(self, cpu: str) -> dict[str, int]:
        """Return the settings that were found best for many requests on a processor, by name."""
        if self.serving.get("cpu") != cpu:
            return {}
        known = {key: self.serving.get(key) for key in ("instances", "threads", "streams", "batch")}
        return {key: number for key, number in known.items() if number is not None}

    @property
    def label(self) -> str:
        """The precision in a word: ``int8``, ``int8+bf16`` for both, ``int4 weights``."""
        if self.weights:
            floats = "" if self.floats == "fp32" else f"+{self.floats}"
            return f"{self.weights} weights{floats}"
        mixed = self.precision in FORMATS and self.floats != "fp32"
        return f"{self.precision}+{self.floats}" if mixed else self.precision

    @property
    def name(self) -> str:
        """What the engine is called in tables: ``openvino int8``, ``openvino GPU int8``."""
        where = self.flags.provider or self.flags.device
        return " ".join(filter(None, (self.target, where, self.label)))


def passport_path(engine: str | os.PathLike[str]) -> Path:
    """Return where the passport of an engine is."""
    return Path(f"{os.fspath(engine)}.json")


def passport_json(passport: Passport) -> dict[str, Any]:
    """Return what is written beside an engine."""
    return {
        "format": FORMAT,
        **asdict(passport),
        "flags": passport.flags.to_json(),
        "cpu": passport.cpu.to_json(),
        "proof": [output.to_json() for output in passport.proof],
    }


def record(
    engine: str | os.PathLike[str],
    *,
    accuracy: Mapping[str, float] | None = None,
    latency: list[dict[str, Any]] | None = None,
    hashes: Mapping[str, str] | None = None,
    direction: str = "up",
    serving: Mapping[str, Any] | None = None,
    cpu: str | None = None,
) -> Passport:
    """Write what was measured of an engine into its passport, and return it.

    Args:
        engine: Has a passport.
        accuracy: In place of what it says of accuracy.
        latency: In place of what it says of latency.
        hashes: Beside those that it has, such as that of the data on which accuracy was measured.
        direction: Of the metrics in ``accuracy``.
        serving: In place of what it says of serving.
        cpu: The processor of another machine, where accuracy was measured on one; what it says of
            accuracy on this one stays.
    """
    with claimed(engine):
        passport = read_passport(engine)
        if hashes is not None:
            passport = replace(passport, hashes={**passport.hashes, **hashes})
        if accuracy is not None:
            here = cpu or passport.here()
            passport = replace(
                passport,
                accuracy=dict(accuracy) if cpu is None else passport.accuracy,
                accuracy_on={**passport.accuracy_on, here: dict(accuracy)},
                direction=direction,
            )
        if latency is not None:
            passport = replace(passport, latency=latency)
        if serving is not None:
            passport = replace(passport, serving=dict(serving))
        write_json(passport_path(engine), passport_json(passport))
    return passport


def read_passport(engine: str | os.PathLike[str]) -> Passport:
    """Read the passport beside ``engine``.

    Raises:
        InputError: There is none, or it is damaged.
    """
    file = passport_path(engine)
    if not file.exists():
        raise InputError(
            f"{engine}: has no passport ({file.name}); loading an engine runs native code, so only "
            "one that onnxgraft build wrote is loaded, or one that you --trust"
        )
    return passport_in(file)


def own_passport(engine: str | os.PathLike[str]) -> Passport:
    """Read the passport beside ``engine``, which has to be the file that it was written for.

    Raises:
        InputError: There is none, or it is damaged, or of another file.
    """
    file = existing_file(engine, "the engine")
    passport = read_passport(file)
    if sha256(file) != passport.engine:
        raise InputError(f"{file}: is not the file that its passport describes; build it again")
    return passport


def passport_in(file: Path) -> Passport:
    """Read a passport, whatever it is called.

    Raises:
        InputError: It is none, or is damaged.
    """
    existing_file(file, "the passport", PASSPORT_BYTES)
    try:
        document = read_json(file)
        if document.pop("format") != FORMAT:
            raise ValueError("an unknown format")
        document["source"] = Source(**document["source"])
        for side in ("inputs", "outputs"):
            document[side] = tuple(
                TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"]))
                for entry in document[side]
            )
        document["flags"] = _flags(document.get("flags", {}))
        document["cpu"] = Cpu.from_json(document.get("cpu", {}))
        document["proof"] = tuple(map(Proof.from_json, document.get("proof", [])))
        document["notes"] = tuple(map(str, document.get("notes", [])))
        document["layers"] = tuple(
            LayerPrecision(*(str(entry[key]) for key in ("layer", "precision", "graph")))
            for entry in document.get("layers", [])
        )
        # What was no number when it was measured is null in JSON, and no value.
        document["accuracy"] = _numbers(document.get("accuracy", {}))
        document["accuracy_on"] = {
            cpu: _numbers(found) for cpu, found in document.get("accuracy_on", {}).items()
        }
        document["divided"] = tuple(map(Share.from_json, document.get("divided", [])))
        passport = Passport(**document)
        check_types(vars(passport), Passport)
        for part in (passport.source, *passport.inputs, *passport.outputs):
            check_types(vars(part), type(part))
        for key in ("instances", "threads", "streams", "batch"):
            number = passport.serving.get(key)
            if number is not None and (type(number) is not int or number < 1):
                raise ValueError(f"serving: {key} is {number!r}")
        for key, known in {**_WORDS, "target": target_names()}.items():
            if getattr(passport, key) not in known:
                raise ValueError(f"{key} is {getattr(passport, key)!r:.100}")
        if min(passport.depths.values(), default=0) < 0:
            raise ValueError(f"depths is {passport.depths!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: not a passport that onnxgraft wrote ({misread(error)})"
        ) from error
    return passport


# What some of its texts may be.
_FLOATS = ("fp32", "tf32", "fp16", "bf16")
_WORDS = {
    "precision": (*_FLOATS, *FORMATS), "floats": _FLOATS, "weights": ("", "int8", "int4"),
    "direction": ("", "up", "down"),
}  # fmt: skip


def _numbers(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if value is not None}


def _flags(stored: dict[str, Any]) -> Flags:
    """Return flags as they were written, by earlier versions too."""
    named = {
        name.replace("optimization level", "level").replace(" ", "_"): value
        for name, value in stored.items()
    }
    flags = Flags(**named)
    for entry in fields(flags):
        value, usual = getattr(flags, entry.name), entry.default
        if isinstance(usual, str | bool) and not isinstance(value, type(usual)):
            raise ValueError(f"the flag {entry.name} is {value!r}")
        if entry.name == "provider" and value:
            try:
                find_provider(value)
            except InputError as error:
                raise ValueError(str(error)) from error
        number = isinstance(value, int) and not isinstance(value, bool)
        if entry.name in ("threads", "workspace", "level", "models", "unchecked", "dla") and not (
            number or value is None
        ):
            raise ValueError(f"the flag {entry.name} is {value!r}")
    return flags


def pinned(passport: Passport, package: str) -> str:
    """Return what pip installs to get the version of a package that built an engine."""
    wanted, named = [package], package
    if passport.flags.provider and package == find_target(passport.target).package:
        provider, _ = find_provider(passport.flags.provider)
        if provider.package in passport.versions:  # a plug-in
            wanted.append(provider.package)
        else:
            named = provider.whole or provider.package
    found = []
    for name in wanted:
        number = re.match(r"\d+(\.\d+)+", str(passport.versions.get(name, "")))
        shown = named if name == package else name
        found.append(f"{shown}=={number[0]}" if number else shown)
    return " ".join(found)


def refuse(
    path: str | os.PathLike[str], passport: Passport, package: str, name: str, here: str
) -> None:
    """Raise InputError if another version of a library built the engine than the one ``here``."""
    built = passport.versions.get(package)
    if built is not None and built != here:
        raise InputError(
            f"{os.fspath(path)}: was built with {name} {built}, here is {here}; build it again "
            f"from its graph with onnxgraft build --target {passport.target}, or pip install "
            f"{pinned(passport, package)}"
        )
