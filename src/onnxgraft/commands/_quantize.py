"""`quantize`: the INT8 or FP8 graph that a target wants, or one with weights alone as integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxgraft.commands._arguments import Names, RangesGiven, names
from onnxgraft.commands._arguments import ranges as ranges_of
from onnxgraft.commands._assumed import assumed, of_images
from onnxgraft.commands._budget import Budget, check_budget, read_budget
from onnxgraft.commands._defaults import only_target
from onnxgraft.commands._int8 import Int8Graph, QuantizeOptions, check_weights, int8_graph
from onnxgraft.commands._opening import ModelGiven, Place, to_run
from onnxgraft.commands._order import MODEL, check_order
from onnxgraft.commands._outputs import ONNX, check_beside, check_output
from onnxgraft.commands._recipe import (
    PostprocessGiven,
    PreprocessGiven,
    class_names,
    given_tables,
)
from onnxgraft.data.labels import Labels, check_labels, read_labels
from onnxgraft.data.ranges import Ranges, read_overrides
from onnxgraft.data.samples import Data, as_samples
from onnxgraft.errors import InputError, nearest
from onnxgraft.files.trust import Trust
from onnxgraft.graph.foreign import CACHE, JSON, RANGES
from onnxgraft.graph.model import Model
from onnxgraft.stages import quantize as stage
from onnxgraft.stages.quantize import IMPROVEMENTS, Placement
from onnxgraft.stages.quantize.place.half import OnOverflow
from onnxgraft.targets import FORMATS, Floats, Format, WeightType, find_target
from onnxgraft.targets.cpu import find_cpu

__all__ = ["Quantized", "quantize"]


@dataclass
class Quantized:
    """An INT8 graph, and what was decided on the way to it; or a target's placement table.

    Attributes:
        done: The graph and its reports; None where the table was asked for.
        out: Where the graph was written; empty if nowhere.
        notes: Sentences that the user should read.
        unknown: What the calibration cache has and the graph does not, with the reason.
        placement: The table, if that was asked for.
        cache_out: Where TensorRT's calibration cache was written; empty if nowhere.
        assumed: What was assumed of the images, where no preprocessing was given.
    """

    done: Int8Graph | None = None
    out: str = ""
    notes: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    placement: str = ""
    cache_out: str = ""
    assumed: str = ""

    @property
    def model(self) -> Model:
        """The INT8 graph.

        Raises:
            InputError: Only the table was asked for.
        """
        if self.done is None:
            raise InputError("the placement table was asked for, and no graph was made")
        return self.done.model

    @property
    def passed(self) -> bool:
        """Whether the budget is kept, if there is one."""
        return self.done is None or self.done.passed

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as plain values."""
        if self.done is None:
            return {"placement": self.placement}
        made = self.done
        return {
            "out": self.out,
            "passed": made.passed,
            **asdict(made.report),
            "search": None if made.search is None else made.search.to_json(),
            "fp16": None if made.half is None else asdict(made.half),
            "explain": [asdict(remark) for remark in made.remarks],
            "notes": self.notes,
            "unknown": self.unknown,
            "cache": self.cache_out,
            "assumed": self.assumed,
        }


def quantize(
    model: ModelGiven,
    target: str | None = None,
    out: Place | None = None,
    *,
    ranges: Place | Ranges | None = None,
    cache: Place | None = None,
    from_qdq: bool = False,
    set_range: RangesGiven = (),
    overrides: Place | None = None,
    keep_float: Names = None,
    precision: Format = "int8",
    floats: Floats = "fp32",
    int8: bool = True,
    weights: WeightType | None = None,
    block: int | None = None,
    on_overflow: OnOverflow = "keep",
    samples: Data = None,
    improve: Names = None,
    budget: str | Budget | None = None,
    data: Data = None,
    preprocess: PreprocessGiven = None,
    postprocess: PostprocessGiven = None,
    trust: Trust = False,
    labels: Place | None = None,
    classes: str | None = None,
    metric_output: str | None = None,
    trials: int = 24,
    resume: bool = False,
    fresh: bool = False,
    images: int | None = None,
    seed: int = 0,
    placement: Place | Placement | None = None,
    show_placement: bool = False,
    explain: bool = False,
    cpu: str | None = None,
    cache_out: Place | None = None,
    trt_version: str | None = None,
    force: bool = False,
) -> Quantized:
    """Return the quantized graph that a target wants, a mix within a budget, or stored weights.

    Args:
        model: A float ONNX file, or a model; with ``from_qdq`` one that is quantized.
        target: Whose form of graph; None takes the only target that can run here.
        out: Where to write the graph; None writes none.
        ranges: What `calibrate` wrote, or its ranges.
        cache: In their place, a TensorRT calibration cache.
        from_qdq: In their place, the model's own scales: it is quantized already.
        set_range: Ranges by tensor: ``T=LOW:HIGH`` or ``T=AMAX``, or a mapping to (low, high).
        overrides: A TOML file of ranges by hand: ``"tensor" = [low, high]``.
        keep_float: Layers to leave in float.
        precision: What layers are quantized to: ``int8``, or ``fp8`` where the target runs it.
        floats: What the layers that are not quantized run in.
        int8: False quantizes no layers at all.
        weights: In place of all that: ``int8`` or ``int4`` stores the weights of MatMul and Gemm
            so, and leaves activations in float; no ranges are needed.
        block: Of ``weights``, how many along the input axis share a scale, 16 to 256; None takes
            the target's.
        on_overflow: What becomes of tensors that FP16 does not hold.
        samples: Calibration data, as `calibrate` takes them, which the improvements and the
            rounding of ``weights`` look at.
        improve: Methods of `onnxgraft.stages.quantize.improve`; ``all`` or ``none``; None takes the
            usual ones where there are ``samples``.
        budget: ``METRIC=DROP``: what may be lost; or a `Budget` of a function.
        data: Validation data, on which the budget is measured.
        preprocess: A TOML file with a ``[preprocess]`` table, or the recipe itself; or the name of
            a preset, or a function.
        postprocess: A TOML file with a ``[postprocess]`` table, which says how boxes stand in the
            outputs, or the table itself, or a function; None takes that of the file ``preprocess``.
        trust: Run the functions that the TOML files name: True, or their names.
        labels: A file or folder of labels by image, for the budget; see `validate`.
        classes: The classes of ``miou`` and ``map``: ``camvid``, ``cityscapes`` or a file; None
            takes those of ``postprocess``, or counts them by the output's channels, and numbers
            them.
        metric_output: The output that the metric is computed on; None takes the first.
        trials: How many mixes a search may try.
        resume: Refuse to begin a search anew. What ``OUT.search`` has of the same search is taken
            over anyway, and what it has of another one never.
        fresh: Begin the search anew, whatever is there.
        images: How many samples of ``data``; None takes all.
        seed: Chooses samples, and positions in them.
        placement: A TOML file that changes the target's table, or a table.
        show_placement: Return the target's table as TOML, and do nothing.
        explain: Report why INT8 may not be faster.
        cpu: The processor that the graph is for; None is this machine's.
        cache_out: A TensorRT calibration cache to write of the model's scales.
        trt_version: The TensorRT that will read it, such as ``10.3.0``.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: Options contradict each other, or a file or name does not fit the model.
    """
    check_order((model, (MODEL,)), (ranges, (RANGES,)), "quantize {0} --ranges {1} -o INT8.onnx")
    target = target or only_target()
    aim = find_target(target)
    if precision not in FORMATS:
        raise InputError(f"--precision {precision}: {nearest(precision, FORMATS)}")
    made_for = aim.cpu() if cpu is None else find_cpu(cpu)
    if placement is None:
        table = stage.placement(target, made_for, precision)
    elif isinstance(placement, Placement):
        table = placement
    else:
        table = stage.read_placement(placement, target, made_for, precision)
    if show_placement:
        return Quantized(placement=stage.placement_text(table))
    check_weights(
        weights, block,
        {
            "--ranges": ranges is not None, "--cache": cache is not None,
            "--set-range": bool(set_range), "--overrides": overrides is not None,
            "--improve": improve is not None, "--cache-out": cache_out is not None,
            "--from-qdq": from_qdq, "--budget": budget is not None, "--no-int8": not int8,
            "--explain": explain, "--precision fp8": precision == "fp8",
        },
    )  # fmt: skip
    if precision == "fp8" and not int8:
        raise InputError("--precision fp8 quantizes and --no-int8 does not: leave one of them out")
    given = sum((ranges is not None, cache is not None, from_qdq))
    if given > 1 or (given == 0 and int8 and weights is None):
        raise InputError(
            "name one of three: the ranges that onnxgraft calibrate wrote with --ranges, a "
            "TensorRT cache with --cache, or --from-qdq for a graph that is quantized already; "
            "or store weights alone with --weights, which needs no ranges"
        )
    if from_qdq and (samples is not None or improve is not None):
        raise InputError(
            "--from-qdq keeps the graph's own scales and weights: leave --samples and --improve out"
        )
    _check_cache(cache_out, trt_version, target, from_qdq=from_qdq)
    wanted = read_budget(budget) if isinstance(budget, str) else budget
    if (wanted is None) != (data is None):
        raise InputError("--budget and --data go together: what is lost is measured on data")
    check_output(out, ONNX, force=force)
    check_output(cache_out, CACHE, force=force)
    if out is not None and wanted is not None:
        check_beside(f"{out}.search", JSON, force=force)
    graph = to_run(model)
    result = Quantized(out="" if out is None else str(out))
    taken = stage.retarget(graph, table) if from_qdq else None
    if taken is not None:
        graph, ranges = taken.model, taken.ranges
        result.notes += taken.notes
    known = _ranges(result, graph, ranges, cache, histograms=samples is not None)
    if known is not None:
        if overrides is not None:
            known = known.with_overrides(read_overrides(overrides), f"{overrides}:")
        known = known.with_overrides(ranges_of(set_range), "--set-range")
    recipe, after = given_tables(preprocess, postprocess, trust)
    for used in (samples, data):
        if used is not None and of_images(used):
            recipe, result.assumed = assumed(recipe, used, graph.metadata, graph.inputs)
            break
    classes = classes or (None if after is None else after.classes)
    names_known = class_names(classes, after)
    known_labels = Labels() if labels is None else read_labels(labels, names_known)
    validation = None
    if data is not None and wanted is not None:
        validation = as_samples(
            data, graph.inputs, recipe, images=images, seed=seed, names=names_known
        )
        if labels is not None:
            check_labels(validation, known_labels, labels)
        check_budget(
            graph, wanted, validation, classes=classes, output=metric_output, how=after,
            labels=known_labels,
        )  # fmt: skip
    result.notes += known_labels.notes
    options = QuantizeOptions(
        table=table,
        int8=int8,
        weights=weights,
        block=block,
        floats=floats,
        cpu=made_for,
        keep_float=tuple(names(keep_float)),
        given=taken,
        improvements=() if weights is not None else _methods(improve, samples),
        calibration=None if samples is None else as_samples(samples, graph.inputs, recipe),
        budget=wanted,
        validation=validation,
        classes=classes,
        metric_output=metric_output,
        postprocess=after,
        labels=known_labels,
        trials=trials,
        state=None if out is None else f"{out}.search",
        resume=resume,
        fresh=fresh,
        on_overflow=on_overflow,
        explain=explain,
        seed=seed,
    )
    if improve is None and samples is None and int8 and not from_qdq and weights is None:
        result.notes.append(
            f"the methods that make {precision.upper()} lose less "
            f"({', '.join(IMPROVEMENTS)}) were not applied: they look at what layers read; "
            "name the calibration data with --samples"
        )
    made = int8_graph(graph, known, options)
    if out is not None:
        made.model.save(out)
    if cache_out is not None and trt_version is not None and known is not None:
        result.notes += stage.write_cache(cache_out, graph, known, trt_version)
        result.cache_out = str(cache_out)
    result.done = made
    result.notes += made.notes
    return result


def _ranges(
    result: Quantized,
    graph: Model,
    ranges: Place | Ranges | None,
    cache: Place | None,
    *,
    histograms: bool,
) -> Ranges | None:
    """Return the ranges of a file, or of a cache; what does not fit goes into the result."""
    if cache is not None:
        mapped = stage.ranges_from_cache(graph, stage.read_cache(cache))
        result.unknown = dict(mapped.unknown)
        result.notes += mapped.ranges.notes
        result.notes += [f"{tensor!r} has no range in the cache" for tensor in mapped.missing]
        return mapped.ranges
    if ranges is None or isinstance(ranges, Ranges):
        return ranges
    return Ranges.load(ranges, histograms=histograms)


def _check_cache(
    cache_out: Place | None, trt_version: str | None, target: str, *, from_qdq: bool
) -> None:
    """Refuse a cache that can't be written."""
    if (cache_out is None) != (trt_version is None):
        raise InputError("--cache-out and --trt-version go together: a cache is for one TensorRT")
    if trt_version is None:
        return
    stage.header_version(trt_version)
    if not from_qdq:
        raise InputError(
            "--cache-out is for --from-qdq here; for a float model onnxgraft calibrate writes it"
        )
    if not find_target(target).caches:
        raise InputError(f"--cache-out: a cache is TensorRT's; --target is {target}")


def _methods(improve: Names, samples: object) -> tuple[str, ...]:
    """Return the methods to apply: the usual ones where there are samples and nothing is asked."""
    if improve is None:
        return IMPROVEMENTS if samples is not None else ()
    given: Sequence[str] = names(improve)
    if list(given) == ["all"]:
        given = IMPROVEMENTS
    elif list(given) == ["none"]:
        given = ()
    if given and samples is None:
        raise InputError(
            f"--improve {','.join(given)} looks at what layers read: name the calibration data "
            "with --samples"
        )
    return tuple(given)
