"""`calibrate`: the ranges of a float graph's tensors, measured on representative data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from onnxgraft.commands._arguments import Names, names
from onnxgraft.commands._assumed import assumed
from onnxgraft.commands._opening import ModelGiven, Place, to_run
from onnxgraft.commands._order import DATA, IMAGE, MODEL, check_order
from onnxgraft.commands._outputs import check_output
from onnxgraft.commands._recipe import PreprocessGiven, given_tables
from onnxgraft.data.ranges import Ranges, check_overrides, read_overrides
from onnxgraft.data.samples import Data, Samples, as_samples, overlap
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.files.trust import Trust
from onnxgraft.graph.foreign import CACHE, RANGES
from onnxgraft.graph.model import Model
from onnxgraft.run.raising import raised
from onnxgraft.stages import quantize as stage
from onnxgraft.stages.quantize import Choice, Placement

__all__ = ["Calibrated", "calibrate", "measured"]


@dataclass
class Calibrated:
    """Ranges, and what was decided when they were measured.

    Attributes:
        ranges: One for each tensor.
        out: Where they were written; empty if nowhere.
        cache: Where TensorRT's calibration cache was written; empty if nowhere.
        trt_version: The TensorRT that the cache is for.
        notes: Sentences that the user should read.
        assumed: What was assumed of the images, where no preprocessing was given.
    """

    ranges: Ranges
    out: str = ""
    cache: str = ""
    trt_version: str = ""
    notes: list[str] = field(default_factory=list)
    assumed: str = ""

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return the ranges without their histograms, as plain values."""
        return {
            "out": self.out,
            "assumed": self.assumed,
            "images": self.ranges.images,
            "skipped": self.ranges.skipped,
            "notes": self.notes,
            "moved": self.ranges.moved,
            "tensors": {name: asdict(value) for name, value in self.ranges.tensors.items()},
        }


def calibrate(
    model: ModelGiven,
    out: Place | None = None,
    *,
    data: Data = None,
    preprocess: PreprocessGiven = None,
    trust: Trust = False,
    method: Choice = "auto",
    target: Names = None,
    images: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    ray: str | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    per_channel: Names = None,
    validation: Data = None,
    ranges: Place | Ranges | None = None,
    overrides: Place | None = None,
    cache_out: Place | None = None,
    trt_version: str | None = None,
    force: bool = False,
) -> Calibrated:
    """Measure the ranges of a float graph's tensors on representative data.

    Args:
        model: An ONNX file, or a model.
        out: Where to write the ranges; None writes none.
        data: A folder of images, a list file or an ``.npz``; samples; or arrays, an iterable, a
            dataset, a loader, or a function that returns one: see `open_samples`.
        preprocess: A TOML file with a ``[preprocess]`` table, or the recipe itself; or the name of
            a preset, or a function.
        trust: Run the functions that the TOML file names: True, or their names.
        method: How ranges are chosen. ``auto`` tries every method, and takes the one with which the
            whole network loses least on samples of the data that were kept apart.
        target: Measure for these targets alone, which costs less; for all if None.
        images: How many samples; None takes all.
        seed: Chooses which.
        workers: Processes, or with ``ray`` actors; None takes one, or all of the cluster.
        ray: The address of a Ray cluster.
        resume: Go on with a run that was cut short; needs ``out``.
        skip_bad: Leave out samples that can't be used.
        per_channel: Tensors to measure per channel too.
        validation: Data of validation, to report what occurs in both.
        ranges: In place of ``data``: choose again from the histograms of these.
        overrides: A TOML file of ranges by hand: ``"tensor" = [low, high]``.
        cache_out: A TensorRT calibration cache to write.
        trt_version: The TensorRT that will read it, such as ``10.3.0``.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: Options contradict each other, or data or ranges do not fit the model.
    """
    check_order((model, (MODEL,)), (data, (DATA, IMAGE)), "calibrate {0} --data {1} -o RANGES.json")
    if (data is None) == (ranges is None):
        raise InputError(
            "name either the data with --data, or ranges to choose again with --ranges"
        )
    if (cache_out is None) != (trt_version is None):
        raise InputError("--cache-out and --trt-version go together: a cache is for one TensorRT")
    if resume and out is None:
        raise InputError("--resume goes on with the run that was to write -o; name it")
    if trt_version is not None:
        stage.header_version(trt_version)
    check_output(out, RANGES, force=force)
    check_output(cache_out, CACHE, force=force)
    by_hand = read_overrides(overrides) if overrides else {}
    graph = to_run(model)
    told = ""
    notes: list[str] = []
    if cache_out is None:  # what can't be quantized is told before the work
        graph, notes = raised(graph, stage.OLDEST_OPSET)
    check_overrides(by_hand, graph.graph.tensors().keys(), f"{overrides}:")
    checkpoint = None
    if ranges is not None:
        chosen = ranges if isinstance(ranges, Ranges) else Ranges.load(ranges, histograms=True)
        if chosen.model != stage.fingerprint(graph):
            raise InputError(f"{chosen.file}: was measured on another graph than {graph.file}")
        if method == stage.AUTO:
            raise InputError(
                "--method auto runs the network, and --ranges holds no samples: name a method "
                f"({', '.join(stage.METHODS)}), or --data in place of --ranges"
            )
        chosen = stage.rechoose(chosen, method)
    elif data is not None:
        recipe, told = assumed(
            given_tables(preprocess, None, trust)[0], data, graph.metadata, graph.inputs
        )
        samples = as_samples(data, graph.inputs, recipe, images=images, seed=seed)
        others = None if validation is None else as_samples(validation, graph.inputs, recipe)
        checkpoint = None if out is None else stage.Checkpoint(f"{out}.partial", resume=resume)
        chosen = measured(
            graph, samples, method, tensors="all" if cache_out else "targets",
            form=next(iter(names(target)), "tensorrt"), targets=names(target),
            per_channel=names(per_channel),
            workers=workers or (0 if ray else 1), ray=ray, skip_bad=skip_bad, checkpoint=checkpoint,
        )  # fmt: skip
        both = [] if others is None else overlap(chosen.samples, others)
        if others is not None and both:
            chosen.notes.append(
                f"{len(both)} of {chosen.images} samples are in {others.source} too, such as "
                f"{both[0]}; accuracy measured there is too good"
            )
    chosen = chosen.with_overrides(by_hand, f"{overrides}:")
    if out is not None:
        chosen.save(out)
    result = Calibrated(
        chosen, "" if out is None else str(out), notes=[*notes, *chosen.notes], assumed=told
    )
    result.notes += [note for note in (chosen.choice, chosen.advice) if note]
    if cache_out is not None and trt_version is not None:
        result.notes += stage.write_cache(cache_out, graph, chosen, trt_version)
        result.cache, result.trt_version = str(cache_out), trt_version
    if checkpoint is not None:
        checkpoint.clear()
    return result


def measured(
    graph: Model, samples: Samples, method: Choice, form: str | Placement = "tensorrt", **how: Any
) -> Ranges:
    """Return the ranges of `stage.calibrate`, by the best method where that is ``auto``.

    Args:
        graph: A float graph.
        samples: What the network will meet.
        method: How ranges are chosen.
        form: The target, or the table, in whose form ``auto`` judges the network.
        how: The other arguments of `stage.calibrate`.
    """
    if method != stage.AUTO:
        return stage.calibrate(graph, samples, method, **how)
    ranges = stage.calibrate(graph, samples, **how)
    try:
        return stage.settle(graph, ranges, samples, form)
    except NotSupportedError as error:  # a cache can be written all the same
        note = f"ranges by {ranges.method}: the methods can't be compared, {error}"
        return replace(ranges, notes=[*ranges.notes, note])
