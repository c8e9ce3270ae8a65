"""What an engine is in a model repository of NVIDIA's Triton Inference Server: its config.pbtxt.

The fields are those of the message ModelConfig in Triton's model_config.proto, in protobuf's text
format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.run.v2 import datatype_of
from onnxgraft.stages.engine.passport import Passport
from onnxgraft.targets import find_target
from onnxgraft.targets.devices import CPU_PROVIDER, PROVIDERS, find_provider

__all__ = ["BEGINNING", "Configuration", "configuration"]

# How a configuration begins that was written here.
BEGINNING = "# onnxgraft export: "
# So many requests are joined where nothing says otherwise.
_LARGEST = 16


class _Word(str):
    """A value of an enumeration, which has no quotes."""


@dataclass(frozen=True)
class Configuration:
    """What stands beside a model's versions.

    Attributes:
        text: Of config.pbtxt.
        labels: The names of the classes of the output that has them.
        notes: Sentences that whoever runs the server should read.
    """

    text: str
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def configuration(
    passport: Passport,
    name: str,
    version: int = 1,
    *,
    largest: int | None = None,
    instances: int = 1,
    delay: int = 0,
    threads: int | None = None,
    labels: Sequence[str] = (),
    file: str = "labels.txt",
) -> Configuration:
    """Return the configuration of an engine.

    Args:
        passport: Of the engine.
        name: Of the model, and of its folder.
        version: That is served.
        largest: How many requests are joined at most; None takes what the engine was built for.
        instances: That run side by side.
        delay: Microseconds that a request waits for others.
        threads: Of the CPU, for an instance; None takes what the engine was built for.
        labels: Names of classes.
        file: That has them, beside the configuration.

    Raises:
        InputError: The engine takes no batches, or not so large ones, or has a tensor that Triton
            has no type for.
    """
    triton = find_target(passport.target).triton
    batch = _batch(passport, largest)
    notes = list(_notes(passport))
    fixed = passport.flags.shapes
    labelled = next((spec.name for spec in passport.outputs if _fits(spec, labels)), None)
    message: dict[str, Any] = {
        "name": name,
        "backend": triton.backend,
        **({"platform": triton.platform} if triton.platform else {}),
        "max_batch_size": batch,
        "input": [_tensor(spec, batch, fixed.get(spec.name)) for spec in passport.inputs],
        "output": [
            _tensor(spec, batch) | ({"label_filename": file} if spec.name == labelled else {})
            for spec in passport.outputs
        ],
        "version_policy": {"specific": {"versions": [version]}},
        "instance_group": [_instances(passport, instances)],
        "default_model_filename": triton.file,
    }
    optimization: dict[str, Any] = _accelerated(passport)
    if triton.as_it_is is not None and passport.precision == "int8":
        optimization["graph"] = {"level": triton.as_it_is}
    if optimization:
        message["optimization"] = optimization
    if batch > 1:
        message["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    told = _settings(passport, batch, threads or passport.flags.threads) | _facts(passport)
    message["parameters"] = [
        {"key": key, "value": {"string_value": value}} for key, value in told.items()
    ]
    head = f"{BEGINNING}{passport.name}\n"
    return Configuration(
        head + "".join(_lines(message)), tuple(labels) if labelled else (), tuple(notes)
    )


def _batch(passport: Passport, largest: int | None) -> int:
    """Return the largest batch that requests are joined to; 0 where clients make batches."""
    firsts = {spec.shape[0] if spec.shape else 1 for spec in (*passport.inputs, *passport.outputs)}
    free = len(firsts) == 1 and isinstance(next(iter(firsts)), str) and not passport.flags.shapes
    if largest is not None and largest < 1:
        raise InputError(f"--max-batch {largest}: a batch is a whole number from 1 on")
    if not free:
        if largest is not None:
            told = ", ".join(map(str, (*passport.inputs, *passport.outputs)))
            raise InputError(
                f"--max-batch {largest}: requests can't be joined, as not all of {told} have the "
                "same free first axis; leave it out"
            )
        return 0
    most = max(
        (shapes[-1][0] for profile in passport.flags.profiles for shapes in profile.values()),
        default=None,
    )
    if most is None:
        usual = _LARGEST if find_target(passport.target).triton.joins else 0
        return usual if largest is None else largest
    if largest is not None and largest > most:
        raise InputError(f"--max-batch {largest}: the engine was built for batches up to {most}")
    return most if largest is None else largest


def _tensor(spec: TensorSpec, batch: int, fixed: Sequence[int] | None = None) -> dict[str, Any]:
    shape = [
        -1 if isinstance(dim, str) else dim for dim in (spec.shape if fixed is None else fixed)
    ]
    about = {"name": spec.name, "data_type": _Word(f"TYPE_{datatype_of(spec)}")}
    dims = shape[1:] if batch else shape
    # Triton has no shape without axes: clients send one value, and the model gets a number.
    return about | ({"dims": dims} if dims else {"dims": [1], "reshape": {"shape": []}})


def _fits(spec: TensorSpec, labels: Sequence[str]) -> bool:
    return bool(labels) and len(spec.shape) == 2 and spec.shape[1] == len(labels)


def _instances(passport: Passport, count: int) -> dict[str, Any]:
    if count < 1:
        raise InputError(f"--instances {count}: instances are whole numbers from 1 on")
    given = passport.flags.provider
    provider, which = find_provider(given) if given else (CPU_PROVIDER, "")
    on_gpu = provider.triton == "gpu" or not find_target(passport.target).on_cpu
    group: dict[str, Any] = {"count": count, "kind": _Word("KIND_GPU" if on_gpu else "KIND_CPU")}
    if provider.triton == "gpu":
        group["gpus"] = [int(which)]
    if passport.flags.profiles:
        group["profile"] = [str(number) for number in range(len(passport.flags.profiles))]
    return group


def _accelerated(passport: Passport) -> dict[str, Any]:
    """Return what Triton's onnxruntime backend calls the provider of an engine.

    Raises:
        InputError: It has no such provider.
    """
    if not passport.flags.provider:
        return {}
    provider, which = find_provider(passport.flags.provider)
    if not provider.triton or (provider.triton == "cpu" and which != "CPU"):
        *known, last = (other.name for other in PROVIDERS if other.triton)
        raise InputError(
            f"Triton's onnxruntime backend has no provider {passport.flags.provider}: it has "
            f"{', '.join(known)}, and {last} on the CPU"
        )
    # It has words of its own for some of them.
    options = dict(provider.options) if provider.triton == "gpu" else {}
    if provider.int8 and passport.precision == "int8":
        options["precision_mode"] = "INT8"
    accelerator = {
        "name": provider.name,
        "parameters": [{"key": key, "value": value} for key, value in options.items()],
    }
    return {"execution_accelerators": {f"{provider.triton}_execution_accelerator": [accelerator]}}


def _settings(passport: Passport, batch: int, threads: int | None) -> dict[str, str]:
    """Return what a backend is told of how the engine was built, where it has a name for that."""
    flags = passport.flags
    wanted = {
        "threads": str(threads or ""),
        "hint": flags.hint.upper(),
        "bf16": "YES" if passport.floats == "bf16" else "",
        "shapes": "YES" if flags.shapes else "",
        "pads": "YES" if batch else "",
        "device": flags.device,
    }
    names = find_target(passport.target).triton.parameters
    return {name: wanted[key] for key, name in names.items() if wanted[key]}


def _facts(passport: Passport) -> dict[str, str]:
    """Return what the passport says, under names of our own; no backend reads them."""
    proven = {None: "", True: "yes", False: "no"}[passport.proven]
    facts = {
        "precision": passport.label,
        "built_with": ", ".join(f"{name} {which}" for name, which in passport.versions.items()),
        "built_for": passport.runs_on,
        "proven": proven,
        "engine_sha256": passport.engine,
        "graph_sha256": passport.graph,
        "source_sha256": passport.source.sha256,
        **{f"{name}_sha256": value for name, value in passport.hashes.items()},
        **{f"accuracy_{name}": f"{value:.6g}" for name, value in passport.accuracy.items()},
        **{
            name: json.dumps({key: value for key, value in table.items() if key != "function"})
            for name, table in passport.recipe.items()
            if table
        },
    }
    return {f"onnxgraft.{name}": value for name, value in facts.items() if value}


def _notes(passport: Passport) -> Iterator[str]:
    """Yield what whoever runs the server should know."""
    triton, built = find_target(passport.target).triton, passport.versions
    library = find_target(passport.target)
    if triton.engine and library.package in built:
        yield (
            f"Triton has to bring {library.title} {built[library.package]}, which built the engine"
        )
    if not triton.engine:
        yield (
            f"Triton's {library.title} backend compiles the graph itself, on the machine that it "
            "runs on; what was proven here is the engine of this machine"
        )
    if not triton.engine and passport.notes:
        yield (
            "the engine was built in another form than its graph, which Triton reads as it is: "
            + "; ".join(passport.notes)
        )
    if not triton.engine and passport.floats not in ("fp32", *triton.parameters):
        yield (
            f"Triton's {library.title} backend has no setting for {passport.floats}: it decides "
            "what float layers run in"
        )
    if passport.flags.version_compatible:
        yield "start Triton with --backend-config=tensorrt,version-compatible=true"
    if passport.recipe.get("preprocess"):
        yield "clients send what [preprocess] makes of a picture: ServedEngine.prepare does it"


def _lines(message: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yield a message in protobuf's text format."""
    for key, value in message.items():
        for entry in value if isinstance(value, list) and not _plain(value) else [value]:
            if isinstance(entry, Mapping):
                yield f"{indent}{key} {{\n"
                yield from _lines(entry, f"{indent}  ")
                yield f"{indent}}}\n"
            else:
                yield f"{indent}{key}: {_value(entry)}\n"


def _plain(value: Sequence[Any]) -> bool:
    return not any(isinstance(entry, Mapping) for entry in value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str) and not isinstance(value, _Word):
        return '"' + "".join(_escaped(byte) for byte in value.encode()) + '"'
    return str(value)


def _escaped(byte: int) -> str:
    plain = 32 <= byte < 127 and byte not in b'"\\'
    return chr(byte) if plain else f"\\{byte:03o}"
