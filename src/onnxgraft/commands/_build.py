"""`build` and `bundle`: an engine with its passport, here or on the machine that will run it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxgraft.commands._arguments import Names, Numbers, ShapesGiven, names, numbers
from onnxgraft.commands._arguments import shapes as _shapes
from onnxgraft.commands._assumed import assumed
from onnxgraft.commands._bundle_program import BundleProgram
from onnxgraft.commands._defaults import target_of_graph
from onnxgraft.commands._evidence import evidence, work_of
from onnxgraft.commands._opening import ModelGiven, Place, to_run
from onnxgraft.commands._outputs import TIMINGS, check_beside, check_output
from onnxgraft.commands._recipe import read_tables
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, write_json
from onnxgraft.files.limits import CACHE_BYTES
from onnxgraft.files.trust import Trust
from onnxgraft.graph.foreign import BUNDLE, ENGINE, JSON
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds
from onnxgraft.stages import engine as stage
from onnxgraft.stages import quantize
from onnxgraft.stages.engine import BuildOptions, Bundle, Layer, Passport
from onnxgraft.stages.engine.options import Hint
from onnxgraft.stages.engine.passport import passport_json
from onnxgraft.targets import Precision
from onnxgraft.targets.cpu import find_cpu

__all__ = ["BuiltEngine", "build", "bundle"]

Tables = tuple[Preprocess, Postprocess]
# Pictures on which a recipe in a graph is held against the recipe.
_LOOKED_AT = 3


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built.

    Attributes:
        out: Where it is.
        passport: What stands beside it.
        size: Of the engine, in bytes.
        layers: As the library fused them, if that was asked for.
        layers_out: Where they were written.
        chosen: Why it is for this target, where none was named.
        notes: What was seen of the recipe that is in it.
    """

    out: str
    passport: Passport
    size: int
    layers: tuple[Layer, ...] = ()
    layers_out: str = ""
    chosen: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the engine computes what its graph says, as far as that was tried."""
        return self.passport.proven is not False

    def to_json(self) -> dict[str, Any]:
        """Return the passport, where the engine is, and why it is for this target."""
        told: dict[str, Any] = {"chosen": self.chosen} if self.chosen else {}
        told |= {"baked": [*self.notes]} if self.notes else {}
        return {"out": self.out, "passed": self.passed, **told, **passport_json(self.passport)}


def build(
    model: ModelGiven,
    out: Place,
    *,
    target: str | None = None,
    precision: Precision | None = None,
    shapes: ShapesGiven = None,
    min_shapes: ShapesGiven = None,
    max_shapes: ShapesGiven = None,
    batches: Numbers = "1,16",
    hint: Hint = "latency",
    device: str | None = None,
    provider: str | None = None,
    threads: int | None = None,
    workspace: int | None = None,
    level: int | None = None,
    timing_cache: Place | None = None,
    version_compatible: bool = False,
    calibration: Place | None = None,
    ranges: Place | None = None,
    data: Place | None = None,
    recipe: Place | None = None,
    trust: Trust = False,
    cpu: str | None = None,
    bake: Names = None,
    picture: str | tuple[int, int] | None = None,
    prove: bool = True,
    layers: Place | None = None,
    force: bool = False,
) -> BuiltEngine:
    """Build an engine with its passport beside it, and prove that it computes what its graph says.

    Args:
        model: A float ONNX file, or one that `quantize` made for the target; or such a model.
        out: Where to write the engine; the passport is ``OUT.json``.
        target: The library; None takes that which the graph was made for, and for another graph
            the first that can run here.
        precision: What the graph has to be (``fp32``, ``int8``), or what float layers run in.
        shapes: The shapes of free inputs, such as ``a:0[1,8,8,3]``.
        min_shapes: The smallest of them (TensorRT).
        max_shapes: The largest of them (TensorRT).
        batches: For a free batch, the batches to tune for; up to the largest can be run (TensorRT).
        hint: What to be fast at (OpenVINO).
        device: What to build for, such as ``GPU``, ``GPU.1``, ``NPU``, ``AUTO``, ``AUTO:GPU,CPU``
            or ``HETERO:GPU,CPU``; None is the CPU (OpenVINO).
        provider: Execution provider that runs the graph, such as ``cuda``, ``cuda:1``,
            ``tensorrt``, ``openvino:GPU``, ``dml`` or ``qnn``; None is the CPU's (onnxruntime).
        threads: CPU threads; None takes all (OpenVINO, onnxruntime).
        workspace: GPU memory for scratch, in MiB (TensorRT).
        level: Of optimization, 0 to 5 (TensorRT).
        timing_cache: Where timings of layers are kept (TensorRT).
        version_compatible: The engine runs in later versions of the library (TensorRT).
        calibration: A calibration cache, for INT8 of a float graph (TensorRT 10).
        ranges: The ranges that were used: for the passport, and to check FP16 for overflow.
        data: Calibration data: the engine is run on some of it, and the passport names it.
        recipe: A recipe, whose preprocessing makes samples of images; `infer` will use it too.
        trust: Run the functions that the recipe names: True, or their names.
        cpu: The processor that the engine is for; None is this machine's.
        bake: Parts of the recipe that the engine itself shall do: ``preprocess``, so that it takes
            (batch, height, width, channels) uint8 pictures in RGB, and ``postprocess``, so that it
            gives the class of each pixel, or a detector's boxes.
        picture: Height and width of all pictures, such as ``720x1280``, where what the recipe does
            depends on it.
        prove: Whether to run the engine, if it can run here, beside the exact answer of its graph.
        layers: Where to list the layers as the library fused them.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: The target refuses the graph, or an option is not for it, or the device or the
            provider is not here.
        MissingDependencyError: The target's library is not installed.
    """
    check_output(out, ENGINE, force=force)
    check_output(layers, JSON, force=force)
    if timing_cache is not None:
        check_beside(timing_cache, TIMINGS, force=force)
    graph = to_run(model)
    aim, why = (target, "") if target is not None else target_of_graph(graph)
    if layers is not None:
        stage.check_layers(aim, provider)
    options = BuildOptions(
        shapes=_shapes("--shapes", shapes),
        smallest=_shapes("--min-shapes", min_shapes),
        largest=_shapes("--max-shapes", max_shapes),
        batches=tuple(numbers(batches)),
        hint=hint,
        device=device,
        provider=provider,
        threads=threads,
        workspace=_bytes(workspace),
        level=level,
        timing_cache=None if timing_cache is None else Path(timing_cache),
        version_compatible=version_compatible,
        calibration=_cache(calibration),
    )
    tables = None if recipe is None else read_tables(recipe, trust)
    told: list[str] = []
    sees = None
    if names(bake):
        baked, told = _baked(graph, names(bake), tables, size_of(picture), data)
        graph, tables, sees = baked.model, (baked.preprocess, baked.postprocess), baked.sees
    elif picture is not None:
        raise InputError("--picture is for --bake preprocess")
    used = evidence(
        ranges=ranges or calibration, data=data, recipe=recipe, tables=tables, sees=sees
    )
    samples: Iterable[Feeds] = ()
    if data is not None and prove:
        preprocess, _ = assumed(tables and tables[0], data, graph.metadata, graph.inputs)
        samples = (sample.feeds for sample in open_samples(data, graph.inputs, preprocess))
    passport = stage.build(
        graph, out, aim,
        precision=precision, options=options, evidence=used, ranges=_ranges(ranges, precision),
        samples=samples, cpu=None if cpu is None else find_cpu(cpu), prove=prove,
        work=work_of(graph, options),
    )  # fmt: skip
    fused: Sequence[Layer] = ()
    if layers is not None:
        with stage.load(out) as built:
            fused = stage.layers(built)
        write_json(layers, [asdict(layer) for layer in fused])
    size = Path(out).stat().st_size
    return BuiltEngine(str(out), passport, size, tuple(fused), str(layers or ""), why, tuple(told))


def _baked(
    graph: Model, parts: Sequence[str], tables: Tables | None, picture: tuple[int, int] | None,
    data: Place | None,
) -> tuple[stage.Baked, list[str]]:  # fmt: skip
    """Return a graph that does parts of a recipe, and what was seen of that."""
    if tables is None:
        raise InputError("--bake: the recipe's tables say what is to be done; give --recipe")
    recipe, how = tables
    baked = stage.bake(graph, parts, recipe, how, picture)
    feeds: list[Feeds]
    if data is not None:
        found = open_samples(data, baked.model.inputs, baked.preprocess, images=_LOOKED_AT)
        feeds = [sample.feeds for sample in found]
    else:
        feeds = stage.drawn(baked, _LOOKED_AT)
    return baked, stage.checked(baked, recipe, how, feeds)


def size_of(given: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width; a text is written as ``720x1280``.

    Raises:
        InputError: It is no such text.
    """
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"\s*([1-9]\d{0,5})\s*x\s*([1-9]\d{0,5})\s*", given)
    if found is None:
        raise InputError(f"--picture {given}: write height and width, such as 720x1280")
    return int(found[1]), int(found[2])


def bundle(
    model: ModelGiven,
    out: Place,
    *,
    precision: Precision | None = None,
    float_model: ModelGiven = None,
    calibration: Place | None = None,
    shapes: ShapesGiven = None,
    min_shapes: ShapesGiven = None,
    max_shapes: ShapesGiven = None,
    batches: Numbers = "1,16",
    ranges: Place | None = None,
    data: Place | None = None,
    recipe: Place | None = None,
    dla: int | None = None,
    program: bool = True,
    force: bool = False,
) -> Bundle:
    """Pack what builds a TensorRT engine on another machine, with TensorRT and Python alone.

    Args:
        model: A float ONNX file, or one that `quantize` made for TensorRT; or such a model.
        out: Where to write the archive, usually ending in ``.pyz``.
        precision: As of `build`.
        float_model: The float graph, for TensorRT 10 and a calibration cache.
        calibration: The calibration cache.
        shapes: As of `build`.
        min_shapes: As of `build`.
        max_shapes: As of `build`.
        batches: As of `build`.
        ranges: As of `build`.
        data: As of `build`.
        recipe: As of `build`.
        dla: The core of a DLA, Jetson's and DRIVE's accelerator: TensorRT 10 lets it run what it
            can of the float graph, in INT8 with a calibration cache and else in FP16, and the GPU
            the rest.
        program: Whether to pack a program in C++ too, with a sample and what the graph answers.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: Of float graph and calibration cache there is only one, or an option does not
            fit the model.
    """
    check_output(out, BUNDLE, force=force)
    options = BuildOptions(
        shapes=_shapes("--shapes", shapes),
        smallest=_shapes("--min-shapes", min_shapes),
        largest=_shapes("--max-shapes", max_shapes),
        batches=tuple(numbers(batches)),
        calibration=_cache(calibration),
    )
    graph = to_run(model)
    plain = None if float_model is None else to_run(float_model)
    tables = None if recipe is None else read_tables(recipe)
    made = None
    if program:
        rounded = None
        if dla is not None and calibration is not None:
            rounded = _in_int8(plain or graph, calibration)
        made = BundleProgram(out, tables and tables[0], rounded)
    found = stage.bundle(
        graph, out,
        precision=precision,
        float_model=plain,
        options=options,
        evidence=evidence(ranges=ranges or calibration, data=data, recipe=recipe, tables=tables),
        ranges=_ranges(ranges, precision), dla=dla, program=made,
    )  # fmt: skip
    return found if made is None else replace(found, notes=(*found.notes, *made.notes))


def _in_int8(model: Model, cache: Place) -> Model:
    """Return a float graph in INT8 by the ranges of a cache: nearly what the target makes of it."""
    ranges = quantize.ranges_from_cache(model, quantize.read_cache(cache)).ranges
    return quantize.quantize(model, ranges, "tensorrt")[0]


def _ranges(file: Place | None, precision: Precision | None) -> Ranges | None:
    """Return the ranges to look for FP16's overflow with, if that is to be done."""
    return Ranges.load(file) if file is not None and precision == "fp16" else None


def _bytes(mebibytes: int | None) -> int | None:
    if mebibytes is not None and mebibytes < 1:
        raise InputError(f"--workspace {mebibytes}: a number of MiB from 1 on")
    return None if mebibytes is None else mebibytes << 20


def _cache(file: Place | None) -> bytes | None:
    if file is None:
        return None
    return existing_file(file, "the calibration cache", CACHE_BYTES).read_bytes()
