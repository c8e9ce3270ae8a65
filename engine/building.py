"""Model -> Engine: builds it, runs it beside its graph, and writes its passport beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import InputError, NotSupportedError, nearest
from onnxgraft.files import sha256, together, write_json
from onnxgraft.graph.half import computes_in_half, to_half
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import DYNAMIC_LSTM, MICROSOFT, QUANTIZERS, is_op, op_of
from onnxgraft.graph.quantized import in_float8, stored_weights
from onnxgraft.graph.tensors import Feeds, TensorSpec
from onnxgraft.graph.walk import nodes_within
from onnxgraft.run.depth import depths
from onnxgraft.run.layer_nodes import layer_precisions
from onnxgraft.run.layers import LayerPrecision
from onnxgraft.run.proof import trials, wide_trials
from onnxgraft.run.providers import shares
from onnxgraft.stages.engine.loading import backend_of
from onnxgraft.stages.engine.options import BuildOptions
from onnxgraft.stages.engine.passport import Flags, Passport, passport_json, passport_path
from onnxgraft.stages.engine.proving import Builder, mend
from onnxgraft.stages.engine.tensorrt.bundle import Bundle, Program, pack
from onnxgraft.targets import FORMATS, TARGETS, Floats, Precision, Target, find_target
from onnxgraft.targets.cpu import Cpu
from onnxgraft.targets.tensorrt import TENSORRT

__all__ = ["Evidence", "build", "bundle", "check", "graph_hash", "graph_precision"]

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
    work: Mapping[str, float] | None = None,
) -> Passport:
    """Build an engine for ``target`` and write it to ``path`` with its passport.

    Where the engine can run here it is run beside the exact reference of its graph. Where it
    computes something else, it is built from another form of the graph; see `proving`. What was
    seen, and whether it passes, stands in the passport.

    Args:
        model: A float graph, or one that `quantize` made for this target.
        path: Of the engine; the passport is ``path`` with ``.json`` appended.
        target: The name of one of `onnxgraft.targets.TARGETS`.
        precision: None takes the graph as it is; ``fp32``, ``int8`` and ``fp8`` say what the graph
            has to be; ``tf32``, ``fp16`` and ``bf16`` are what its float layers will run in.
        shapes: For inputs with free dimensions, the shape to optimize for.
        options: How, beyond that.
        evidence: What the passport shall say of data, ranges and recipe.
        ranges: Of the float graph: what FP16 does not hold of them stays in float32 (TensorRT).
        samples: Feeds of batch 1 that the engine is run on; drawn at random if there are none.
        cpu: That the engine is for; None is this machine's. One for another is not run here.
        prove: Whether to run it.
        work: The part of all multiplications that each layer does, by its name: so it is told what
            part of them runs where, if the library divides the graph.

    Raises:
        InputError: The precision is not the graph's, or the target refuses the graph, or its device
            or provider is not here.
        MissingDependencyError: The target's library is not installed.
    """
    aim, backend = find_target(target), backend_of(target)
    options = options or BuildOptions()
    if shapes is not None:
        options = replace(options, shapes=shapes)
    actual, options = _resolved(model, precision, options)
    _check(aim, options)
    _check_format(aim, actual, model)
    inputs = _with_shapes(model, options)
    graph, halved = _written(model, aim, options, ranges)
    floats = _floats_of(graph, options)
    if cpu is not None and aim.on_cpu and not options.on_cpu:
        raise InputError(
            f"--cpu names another processor, and the engine is for "
            f"{options.device or options.provider}; leave it out"
        )
    here = aim.cpu() if options.on_cpu else Cpu()
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
            depths=depths(model) if graph_precision(model) in FORMATS or weights else {},
            weights=weights or "",
        )
        builder = Builder(backend, made, options, passport)
        if prove and backend.runs_here() and passport.cpu == here:
            most = max(options.batches) if "batches" in aim.options else _BATCH
            feeds = trials(graph, inputs, samples, min(most, _BATCH))
            proven = mend(graph, feeds, builder, forms=aim.forms, floats=floats)
            notes = list(proven.notes)
            if proven.passed:
                wide = wide_trials(graph, inputs)
                wrong = builder.where_wrong(graph, wide, floats) if wide else None
                notes += [] if wrong is None else [_digits(wrong, target)]
            passport = replace(
                passport, proof=tuple(proven.proofs), notes=tuple(notes),
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
            cpu=passport.cpu if built.flags.on_cpu else Cpu(),
            divided=shares(built.placed, _by_any_name(graph, work or {})),
        )
        write_json(beside, passport_json(passport))
    return passport


def _digits(power: int, target: str) -> str:
    return (
        f"with whole numbers of about 2^{power} as inputs, {target} computes something else than "
        "its graph says: it was proven on small ones; validate it on data with the largest that "
        "you expect"
    )


def _by_any_name(graph: Model, work: Mapping[str, float]) -> dict[str, float]:
    """Return what layers do by their names and by those of what they make."""
    made = {
        tensor.name: work[node.name]
        for node in nodes_within(graph.graph)
        for tensor in node.outputs
        if node.name in work
    }
    return made | dict(work)


def _told(layers: Sequence[LayerPrecision]) -> tuple[LayerPrecision, ...]:
    """Return what a passport says of layers: nothing, where it would become too large by them."""
    return tuple(layers) if sum(len(one.layer) for one in layers) < _LAYER_NAMES else ()


def check(model: Model, target: str, options: BuildOptions) -> None:
    """Raise InputError if options are not for a target, or do not fit the inputs of a graph."""
    _check(find_target(target), options)
    backend_of(target).check(_with_shapes(model, options), options)


def bundle(
    model: Model,
    path: str | os.PathLike[str],
    *,
    precision: Precision | None = None,
    float_model: Model | None = None,
    options: BuildOptions | None = None,
    evidence: Evidence | None = None,
    ranges: Ranges | None = None,
    dla: int | None = None,
    program: Program | None = None,
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
        dla: The core of a DLA that runs what it can of a float graph; ``float_model`` if there is
            one, else ``model``. TensorRT 10 builds that.
        program: Makes the files of a program; see `tensorrt.bundle`.
    """
    if dla is not None:
        model, precision, options = _for_dla(float_model or model, precision, options, dla)
    actual, options = _resolved(model, precision, options or BuildOptions())
    _check(TENSORRT, options)
    _check_format(TENSORRT, actual, model)
    graph, halved = model, Flags()
    if dla is None:
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
    return pack(
        graph, path, passport, float_model=float_model, options=options, dla=dla, program=program
    )


def _for_dla(
    model: Model, precision: Precision | None, options: BuildOptions | None, core: int
) -> tuple[Model, Precision, BuildOptions]:
    """Return the float graph that a DLA gets, its precision and options; refuse what it can't be.

    INT8 is made from the calibration cache on the target; all else runs in FP16.
    """
    options = options or BuildOptions()
    if core < 0:
        raise InputError(f"--dla {core}: a core of the DLA, from 0 on")
    if graph_precision(model) != "fp32":
        raise InputError(
            f"{model.file}: a DLA takes a float graph, in INT8 with a calibration cache: name the "
            "float one with --float, and the cache that onnxgraft calibrate --cache-out writes "
            "with --calibration"
        )
    actual: Precision = "fp16" if options.calibration is None else "int8"
    if precision not in (None, actual):
        cure = "give --calibration" if precision == "int8" else "leave --precision out"
        raise InputError(f"--dla runs this in {actual}, not in {precision}; {cure}")
    return model, actual, replace(options, floats="fp16")


def graph_hash(model: Model) -> str:
    """Return the SHA-256 of a model's graph and weights, wherever its file lies."""
    proto = model.to_onnx()
    del proto.metadata_props[:]
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def graph_precision(model: Model) -> Precision:
    """Return the precision that stands in a graph: what it computes in, whatever it stores."""
    quantizers = [
        node
        for node in nodes_within(model.graph)
        if is_op(node, "QuantizeLinear", domain=QUANTIZERS)
        or is_op(node, DYNAMIC_LSTM, domain=MICROSOFT)
    ]
    if quantizers:
        floats = any(op_of(node) == "QuantizeLinear" and in_float8(node) for node in quantizers)
        return "fp8" if floats else "int8"
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
        actual = actual if actual in FORMATS else precision
    elif precision is not None and precision != actual:
        cure = "build from the float graph"
        if precision in FORMATS:
            cure = f"quantize {'it' if actual not in FORMATS else 'the float graph'} first"
            cure += "" if precision == "int8" else f" with --precision {precision}"
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


def _check_format(target: Target, actual: Precision, model: Model) -> None:
    """Refuse a graph in FP8 for a target, or a GPU, that does not run it."""
    if actual != "fp8":
        return
    if target.fp8 is None:
        able = " and ".join(other.title for other in TARGETS if other.fp8 is not None)
        raise NotSupportedError(
            f"{model.file}: the graph is in FP8, which {target.title} does not run here; {able} "
            f"does; for {target.name} quantize the float graph to INT8"
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
