"""Model -> Engine: what is deployed, with its passport beside it.

One file a target: what a target can't do, and how its versions differ, is written there alone.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import (
    EngineWarning,
    InputError,
    MissingDependencyError,
    NotSupportedError,
    nearest,
)  # fmt: skip
from onnxgraft.files import existing_file, sha256, together, write_json
from onnxgraft.graph.half import computes_in_half, to_half
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.operators import DYNAMIC_LSTM, MICROSOFT, QUANTIZERS, is_op
from onnxgraft.graph.quantized import stored_weights
from onnxgraft.graph.tensors import Feeds, TensorSpec
from onnxgraft.graph.walk import nodes_within
from onnxgraft.run.depth import depths
from onnxgraft.run.engine import Engine
from onnxgraft.run.layer_nodes import LayerPrecision, layer_precisions
from onnxgraft.run.layers import Layer, LayerTimes, Timing
from onnxgraft.run.proof import trials
from onnxgraft.stages.engine.options import Backend, BuildOptions
from onnxgraft.stages.engine.passport import (
    Flags,
    Passport,
    passport_json,
    passport_path,
    read_passport,
    record,
)
from onnxgraft.stages.engine.proving import Builder, mend
from onnxgraft.stages.engine.tensorrt.bundle import Bundle, pack, unpacked
from onnxgraft.stages.engine.unknown import is_engine, target_of
from onnxgraft.targets import TARGETS, Floats, Precision, Target, find_target
from onnxgraft.targets.cpu import Cpu
from onnxgraft.targets.tensorrt import TENSORRT

__all__ = [
    "BuildOptions",
    "Bundle",
    "Evidence",
    "Layer",
    "LayerTimes",
    "Passport",
    "build",
    "bundle",
    "check",
    "check_layers",
    "default_target",
    "graph_hash",
    "graph_precision",
    "is_engine",
    "layers",
    "load",
    "read_passport",
    "record",
    "runs_here",
    "target_of",
    "time_layers",
    "unpacked",
]

Shape = Sequence[int]
# An engine with a free batch is proven on a batch of so many, too.
_BATCH = 4
# Characters in the names of all layers that a passport has place for.
_LAYER_NAMES = 1 << 19


@dataclass(frozen=True)
class Evidence:
    """What a passport says of how the graph came about.

    Attributes:
        hashes: SHA-256 of ``ranges``, ``data`` and ``recipe``.
        recipe: The tables ``preprocess`` and ``postprocess``, for whoever runs the engine.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def default_target() -> str:
    """Return the target of this machine: the first that can run here."""
    for target in TARGETS:
        if _backend(target.name).runs_here():
            return target.name
    raise MissingDependencyError(
        "no target can run here: pip install 'onnxgraft[openvino]', or name one with --target"
    )


def runs_here(target: str) -> bool:
    """Tell whether engines of ``target`` can run on this machine."""
    return _backend(target).runs_here()


def build(
    model: Model,
    path: str | os.PathLike[str],
    target: str,
    *,
    precision: Precision | None = None,
    shapes: Mapping[str, Shape] | None = None,
    options: BuildOptions | None = None,
    evidence: Evidence | None = None,
    ranges: Ranges | None = None,
    samples: Iterable[Feeds] = (),
    cpu: Cpu | None = None,
    prove: bool = True,
) -> Passport:
    """Build an engine for ``target`` and write it to ``path`` with its passport.

    Where the engine can run here it is run beside the exact reference of its graph. Where it
    computes something else, it is built from another form of the graph; see `proving`. What was
    seen, and whether it passes, stands in the passport.

    Args:
        model: A float graph, or one that `quantize` made for this target.
        path: Of the engine; the passport is ``path`` with ``.json`` appended.
        target: The name of one of `onnxgraft.targets.TARGETS`.
        precision: None takes the graph as it is; ``fp32`` and ``int8`` say what the graph has to
            be; ``tf32``, ``fp16`` and ``bf16`` are what its float layers will run in.
        shapes: For inputs with free dimensions, the shape to optimize for.
        options: How, beyond that.
        evidence: What the passport shall say of data, ranges and recipe.
        ranges: Of the float graph: what FP16 does not hold of them stays in float32 (TensorRT).
        samples: Feeds of batch 1 that the engine is run on; drawn at random if there are none.
        cpu: That the engine is for; None is this machine's. One for another is not run here.
        prove: Whether to run it.

    Raises:
        InputError: The precision is not the graph's, or the target refuses the graph.
        MissingDependencyError: The target's library is not installed.
    """
    aim, backend = find_target(target), _backend(target)
    options = options or BuildOptions()
    if shapes is not None:
        options = replace(options, shapes=shapes)
    actual, options = _resolved(model, precision, options)
    _check(aim, options)
    inputs = _with_shapes(model, options)
    graph, halved = _written(model, aim, options, ranges)
    floats = _floats_of(graph, options)
    here = aim.cpu()
    weights = stored_weights(model)
    with together(path, passport_path(path)) as (made, beside):
        passport = Passport(
            target=target,
            precision=actual,
            engine="",
            source=model.source,
            inputs=inputs,
            outputs=model.outputs,
            versions={},
            floats=floats,
            cpu=here if cpu is None else cpu,
            hashes=dict(evidence.hashes) if evidence else {},
            recipe=dict(evidence.recipe) if evidence else {},
            depths=depths(model) if graph_precision(model) == "int8" or weights else {},
            weights=weights or "",
        )
        builder = Builder(backend, made, options, passport)
        if prove and backend.runs_here() and passport.cpu == here:
            most = max(options.batches) if "batches" in aim.options else _BATCH
            feeds = trials(graph, inputs, samples, min(most, _BATCH))
            proven = mend(graph, feeds, builder, forms=aim.forms, floats=floats)
            passport = replace(
                passport, proof=tuple(proven.proofs), notes=tuple(proven.notes),
                layers=_told(layer_precisions(graph, builder.layers)),
            )  # fmt: skip
        else:
            builder.build(graph)
        built = builder.built
        passport = replace(
            passport,
            engine=sha256(made),
            versions=built.versions,
            graph=graph_hash(model),
            flags=replace(built.flags, float32=halved.float32, unchecked=halved.unchecked),
            machine=built.machine,
        )
        write_json(beside, passport_json(passport))
    return passport


def _told(layers: Sequence[LayerPrecision]) -> tuple[LayerPrecision, ...]:
    """Return what a passport says of layers: nothing, where it would become too large by them."""
    return tuple(layers) if sum(len(one.layer) for one in layers) < _LAYER_NAMES else ()


def check(model: Model, target: str, options: BuildOptions) -> None:
    """Raise InputError if options are not for a target, or do not fit the inputs of a graph."""
    _check(find_target(target), options)
    _backend(target).check(_with_shapes(model, options), options)


def bundle(
    model: Model,
    path: str | os.PathLike[str],
    *,
    precision: Precision | None = None,
    float_model: Model | None = None,
    options: BuildOptions | None = None,
    evidence: Evidence | None = None,
    ranges: Ranges | None = None,
) -> Bundle:
    """Pack what builds a TensorRT engine on another machine: see `tensorrt.bundle`.

    Args:
        model: A float graph, or one that `quantize` made for TensorRT.
        path: Of the archive, usually ending in ``.pyz``.
        precision: As of `build`.
        float_model: For TensorRT 10, which makes INT8 of it and ``options.calibration``.
        options: How the target builds.
        evidence: What the passport shall say of data, ranges and recipe.
        ranges: As of `build`.
    """
    actual, options = _resolved(model, precision, options or BuildOptions())
    _check(TENSORRT, options)
    graph, halved = _written(model, TENSORRT, options, ranges)
    passport = Passport(
        target=TENSORRT.name,
        precision=actual,
        engine="",
        source=model.source,
        inputs=_with_shapes(model, options),
        outputs=model.outputs,
        versions={},
        graph=graph_hash(model),
        floats=_floats_of(graph, options),
        flags=halved,
        hashes=dict(evidence.hashes) if evidence else {},
        recipe=dict(evidence.recipe) if evidence else {},
        weights=stored_weights(model) or "",
    )
    return pack(graph, path, passport, float_model=float_model, options=options)


def load(
    path: str | os.PathLike[str], *, trust: bool = False, threads: int | None = None
) -> Engine:
    """Return the engine at ``path``, ready to infer.

    Loading an engine runs native code: only a file that its own passport describes is loaded.

    Args:
        path: Of the engine.
        trust: Load an engine that has no passport, too.
        threads: Of the CPU; None takes what the engine was built for.

    Raises:
        InputError: There is no passport, or the file is not the one that it describes, or it
            was built for another library or GPU.
    """
    file = existing_file(path, "the engine")
    if threads is not None and threads < 1:
        raise InputError(f"threads are whole numbers from 1 on, not {threads}")
    if trust and not passport_path(file).exists():
        passport = Passport(
            target_of(file).name, "", "", Source(str(file), "unknown", ""), (), (), {}
        )
    else:
        passport = read_passport(file)
        if sha256(file) != passport.engine:
            raise InputError(f"{file}: is not the file that its passport describes; build it again")
        for told in (*_other_cpu(file, passport), *_wrong(file, passport)):
            warnings.warn(told, EngineWarning, stacklevel=2)
    return _backend(passport.target).load(file, passport, threads)


def _other_cpu(file: Path, passport: Passport) -> list[str]:
    """Return what to say of an engine that was built for a CPU with other instructions."""
    here = find_target(passport.target).cpu()
    if not passport.cpu.name or passport.cpu.features == here.features:
        return []
    told = (
        f"{file}: was built for {passport.cpu}, and this is {here}: it may compute something else "
        f"here. {_measured(passport, passport.cpu)}; {_measured(passport, here)}. Build it again "
        "here, or validate it"
    )
    return [told]


def _wrong(file: Path, passport: Passport) -> list[str]:
    """Return what to say of an engine that is known not to compute what its graph says."""
    return [
        f"{file}: does not compute what its graph says; {proof}"
        for proof in passport.proof
        if not proof.passed
    ]


def _measured(passport: Passport, cpu: Cpu) -> str:
    found = passport.accuracy_on.get(str(cpu), {})
    listed = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name != "samples")
    return f"on {cpu.name} it was measured: {listed}" if listed else f"not validated on {cpu.name}"


def layers(engine: Engine) -> list[Layer]:
    """Return the layers of an engine as its library fused them.

    Raises:
        NotSupportedError: Its library does not say.
    """
    ask = getattr(engine, "layers", None)
    if ask is None:
        raise NotSupportedError(f"{engine.name} does not report its layers")
    found: list[Layer] = ask()
    return found


def time_layers(engine: Engine, feeds: Feeds, runs: int = 10) -> LayerTimes:
    """Return what the layers of an engine take, as its library counts it.

    Args:
        engine: Running.
        feeds: By name; each inference has the same.
        runs: How many are counted, after a few that warm up.

    Raises:
        NotSupportedError: Its library does not say.
    """
    if not isinstance(engine, Timing):
        raise NotSupportedError(f"{engine.name} does not report what its layers take")
    return engine.time_layers(feeds, runs)


def check_layers(target: str) -> None:
    """Raise InputError if an engine for ``target`` could not report its layers on this machine."""
    if not _backend(target).runs_here():
        aim = find_target(target)
        raise InputError(
            f"--layers: a {aim.title} engine reports its layers where there is {aim.needs} and "
            f"{aim.package} is installed, and that is not so here; leave it out"
        )


def graph_hash(model: Model) -> str:
    """Return the SHA-256 of a model's graph and weights."""
    return hashlib.sha256(model.to_onnx().SerializeToString(deterministic=True)).hexdigest()


def graph_precision(model: Model) -> Precision:
    """Return the precision that stands in a graph: what it computes in, whatever it stores."""
    if any(
        is_op(node, "QuantizeLinear", domain=QUANTIZERS)
        or is_op(node, DYNAMIC_LSTM, domain=MICROSOFT)
        for node in nodes_within(model.graph)
    ):
        return "int8"
    kinds = halves(model)
    return "bf16" if "bfloat16" in kinds else "fp16" if kinds else "fp32"


def _floats_of(graph: Model, options: BuildOptions) -> Floats:
    """Return what float layers run in: what stands in the graph, or what the library is asked."""
    kinds = halves(graph)
    return "bf16" if "bfloat16" in kinds else "fp16" if kinds else options.floats


def _resolved(
    model: Model, precision: Precision | None, options: BuildOptions
) -> tuple[Precision, BuildOptions]:
    """Return the precision of the engine, and the options with that of its float layers."""
    actual = "int8" if options.calibration is not None else graph_precision(model)
    if precision in ("tf32", "fp16", "bf16") and precision != actual:
        if actual in ("fp16", "bf16"):
            raise InputError(f"{model.file}: the graph is {actual}; build from the float32 graph")
        options = replace(options, floats=precision)
        actual = "int8" if actual == "int8" else precision
    elif precision is not None and precision != actual:
        cure = "quantize it first" if precision == "int8" else "build from the float graph"
        stored = stored_weights(model)
        what = f"{actual} with {stored} weights" if stored else actual
        raise InputError(f"{model.file}: the graph is {what}, not {precision}; {cure}")
    return actual, options


def _written(
    model: Model, target: Target, options: BuildOptions, ranges: Ranges | None
) -> tuple[Model, Flags]:
    """Return the graph in which the precision stands, and what flags say of FP16 in it."""
    if target.floats.get(options.floats) != "graph" or computes_in_half(model):
        return model, Flags()
    graph, report = to_half(model, None if ranges is None else ranges.sizes())
    return graph, Flags(float32=report.single, unchecked=len(report.unchecked))


def _backend(name: str) -> Backend:
    module: Backend = importlib.import_module(find_target(name).backend)
    return module


def _check(target: Target, options: BuildOptions) -> None:
    """Refuse what a target does not take: an option without effect would mislead."""
    if options.threads is not None and options.threads < 1:
        raise InputError(f"--threads {options.threads}: from 1 on")
    if not options.batches or min(options.batches) < 1:
        raise InputError("batches are whole numbers from 1 on")
    usual = BuildOptions()
    for option in fields(BuildOptions):
        given = getattr(options, option.name) != getattr(usual, option.name)
        if given and option.name not in target.options and option.name != "floats":
            owners = [other.title for other in TARGETS if option.name in other.options]
            raise InputError(
                f"{option.metadata['flag']} is for {' and '.join(owners)}; leave it out for "
                f"{target.name}"
            )
    if options.floats != "fp32" and options.floats not in target.floats:
        taken = ", ".join(("fp32", *target.floats))
        raise NotSupportedError(
            f"{target.title} engines are not built in {options.floats} here; {target.name} takes "
            f"{taken}"
        )


def _with_shapes(model: Model, options: BuildOptions) -> tuple[TensorSpec, ...]:
    """Return the inputs as the engine will have them; the shapes are checked against them."""
    known = {spec.name: spec for spec in model.inputs}
    for option, shapes in (
        ("--shapes", options.shapes),
        ("--min-shapes", options.smallest),
        ("--max-shapes", options.largest),
    ):
        for name, shape in shapes.items():
            if name not in known:
                raise InputError(f"{option} {name}: no input has that name; {nearest(name, known)}")
            if not known[name].accepts(tuple(shape)) or min(shape, default=1) < 1:
                raise InputError(f"{option} {list(shape)} does not fit the input {known[name]}")
            if name not in options.shapes:
                raise InputError(f"{option} {name}: give its usual shape with --shapes too")
    bounded = {**options.smallest, **options.largest}
    return tuple(
        spec
        if spec.name in bounded
        else replace(spec, shape=tuple(options.shapes.get(spec.name, spec.shape)))
        for spec in model.inputs
    )
