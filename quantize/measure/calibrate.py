"""Calibration: one pass, memory for two samples, the same bits however the data is split.

What the shards counted is kept in a folder beside the result until it is there, so that a run that
was killed can go on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from onnxgraft.data.ranges import BY_HAND, UNSEEN, Histogram, Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, ModelError, nearest
from onnxgraft.graph.model import Model
from onnxgraft.progress import track
from onnxgraft.stages.quantize.measure.checkpoint import Checkpoint
from onnxgraft.stages.quantize.measure.inside import opened, shut
from onnxgraft.stages.quantize.measure.measurer import (
    Job,
    Tally,
    last_quarter,
    numbered,
    quarter_last,
    shards_of,
)
from onnxgraft.stages.quantize.measure.observers import every_tensor, find_sites
from onnxgraft.stages.quantize.measure.shards import run_shards
from onnxgraft.stages.quantize.measure.thresholds import Method, choose_range
from onnxgraft.stages.quantize.place.placement import activations, placed_in, placement
from onnxgraft.stages.quantize.place.ready import fingerprint, measurable
from onnxgraft.stages.quantize.place.recurrent import recurrent_layers
from onnxgraft.stages.quantize.place.shapes import shapes_of
from onnxgraft.targets import target_names
from onnxgraft.words import several

__all__ = ["calibrate", "rechoose"]

Tensors = Literal["targets", "all"]


def calibrate(
    model: Model,
    samples: Samples,
    method: Method = "entropy",
    *,
    tensors: Tensors = "targets",
    targets: Sequence[str] = (),
    per_channel: Sequence[str] = (),
    workers: int = 1,
    ray: str | None = None,
    skip_bad: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Ranges:
    """Run ``model`` over ``samples`` and choose the range of every tensor that a target wants.

    The counts are exact: any split over threads, processes, machines and runs gives the same bits.

    Args:
        model: A float graph, cleaned.
        samples: What the network will meet.
        method: How ranges are chosen; `rechoose` changes it afterwards.
        tensors: ``targets``: what some target's placement needs; ``all``: every float tensor, as
            TensorRT's implicit quantization wants them.
        targets: Those whose placements count; none means all. Ranges for fewer cost less.
        per_channel: Tensors that get a range per channel (axis 1) too.
        workers: Processes on this machine; with ``ray`` actors, 0 for all of the cluster's CPUs.
        ray: Address of a Ray cluster whose machines see the data under the same paths.
        skip_bad: Leave out samples that can't be read, don't fit, or make a tensor NaN or infinite.
        checkpoint: Keeps what was counted so far; to be cleared when the ranges are saved.

    Raises:
        InputError: There is nothing to quantize, or a sample can't be used.
    """
    if workers < (0 if ray else 1):
        raise InputError(f"--workers {workers}: at least 1 is needed")
    model = measurable(model)
    wanted = list(activations(model.graph, targets))
    if tensors == "all":
        wanted = list(dict.fromkeys([*wanted, *every_tensor(model)]))
    if not wanted and not _without_ranges(model, targets):
        raise ModelError(
            f"{model.file}: there is no layer that could run in INT8; where weights are computed "
            "from constants, run onnxgraft surgery first"
        )
    for name in per_channel:
        if name not in wanted:
            raise InputError(
                f"--per-channel {name}: no such tensor is measured; {nearest(name, wanted)}"
            )
    sites = find_sites(model.graph, wanted)
    sites |= {name: (name,) for name in per_channel}
    closed = shut(model.graph, {site for found in sites.values() for site in found})
    sites = {name: found for name, found in sites.items() if closed.isdisjoint(found)}
    needed = tuple(dict.fromkeys(site for found in sites.values() for site in found))
    proto = opened(model, needed).to_onnx()
    job = Job(
        proto.SerializeToString(), needed, tuple(per_channel), quarter_last(samples), skip_bad,
        _size(model, needed),
    )  # fmt: skip
    identity = fingerprint(model)
    early, late = _count(job, identity, checkpoint, workers, ray)
    whole = Tally.from_bytes(early.to_bytes())
    if late.count or late.skipped:
        whole.merge(late.to_bytes())
    if not whole.count:
        name, reason = next(iter(whole.skipped.items()))
        raise InputError(
            f"{samples.source}: none of the {len(whole.skipped)} samples can be used; "
            f"the first is {name}: {reason}"
        )
    ranges = Ranges(
        method=method,
        images=whole.count,
        model=identity,
        preprocess=samples.preprocess.fingerprint,
        data=samples.source,
        tensors={},
        sites={name: list(found) for name, found in sites.items()},
        samples=_in_order(samples, whole.samples),
        skipped=_in_order(samples, whole.skipped),
        seed=samples.seed,
        targets=sorted(targets),
        notes=_notes(samples, whole),
        histograms={site: whole.histograms[site] for site in needed},
        early={site: early.histograms[site] for site in needed if site in early.histograms},
        channel_histograms={name: whole.channels[name] for name in per_channel},
    )
    return _chosen(ranges, method)


def rechoose(ranges: Ranges, method: Method) -> Ranges:
    """Return the ranges that another method chooses from the same histograms.

    Args:
        ranges: Loaded with their histograms. Those set by hand stay as they are.
        method: How ranges are chosen.
    """
    if not ranges.histograms and ranges.sites:
        raise InputError(f"{ranges.file}: has no histograms beside it, so nothing can be chosen")
    return _chosen(ranges, method)


def _without_ranges(model: Model, targets: Sequence[str]) -> bool:
    """Tell whether some target has INT8 for a layer that needs no range."""
    return any(
        recurrent_layers(part, table)
        for table in map(placement, targets or target_names())
        for part in placed_in(model.graph, table)
    )


def _size(model: Model, sites: Sequence[str]) -> int | None:
    """Return the bytes of the sites' values at batch 1, None where a shape is not known."""
    shapes = shapes_of(model)
    if not all(site in shapes for site in sites):
        return None
    return 4 * sum(math.prod(shapes[site]) for site in sites)


def _count(
    job: Job, model: str, checkpoint: Checkpoint | None, workers: int, ray: str | None
) -> tuple[Tally, Tally]:
    """Return what was counted in three quarters of the samples, and in that kept apart."""
    quarter = last_quarter(len(job.samples))
    parts = Tally(), Tally()
    pending = numbered(shards_of(len(job.samples)))
    if checkpoint is not None:
        for name, packed in checkpoint.begin(job, model, pending).items():
            parts[pending.pop(name)[0] >= quarter].merge(packed)
    names = {shard: name for name, shard in pending.items()}
    try:
        results = run_shards(job, list(names), workers=workers, ray=ray)
        for shard, packed in track(results, "calibrating", len(names)):
            if checkpoint is not None:
                checkpoint.put(names[shard], packed)
            parts[shard[0] >= quarter].merge(packed)
    except BaseException as error:
        if checkpoint is not None and checkpoint.leave() and isinstance(error, InputError):
            raise InputError(
                f"{error}; what was counted is kept in {checkpoint.folder}, --resume goes on there"
            ) from error
        raise
    return parts


def _chosen(ranges: Ranges, method: Method) -> Ranges:
    """Return ``ranges`` with what ``method`` chooses, but for those set by hand."""
    tensors, moved = {}, {}
    for name, sites in track(ranges.sites.items(), "choosing ranges", len(ranges.sites)):
        seen = _together(ranges.histograms, sites)
        found = choose_range(seen, method)
        if not seen.counts.any():
            found = replace(found, reason=UNSEEN)
        before = choose_range(_together(ranges.early, sites), method)
        by_hand = ranges.tensors.get(name)
        tensors[name] = by_hand if by_hand and by_hand.origin == BY_HAND else found
        moved[name] = abs(found.amax - before.amax) / found.amax if found.amax else 0.0
    channels = {
        name: [choose_range(histogram, method) for histogram in histograms]
        for name, histograms in ranges.channel_histograms.items()
    }
    return replace(
        ranges, method=method, tensors=tensors, channels=channels, moved=moved, chosen_for="",
        tried={},
    )  # fmt: skip


def _together(histograms: Mapping[str, Histogram], sites: Sequence[str]) -> Histogram:
    """Return the histogram of all ``sites``; those of which nothing was counted are empty."""
    if len(sites) == 1:
        return histograms.get(sites[0], Histogram())
    joined = Histogram()
    for site in sites:
        if site in histograms:
            joined.merge(histograms[site])
    return joined


def _in_order(samples: Samples, entries: Mapping[str, str]) -> dict[str, str]:
    """Return what is known by sample, in the order of the samples and not of the shards."""
    names = (samples.name(position) for position in range(len(samples)))
    return {name: entries[name] for name in names if name in entries}


def _notes(samples: Samples, whole: Tally) -> list[str]:
    notes = [*samples.notes, *samples.preprocess.notes(whole.forms)]
    seen: set[str] = set()
    again = []
    for name in (samples.name(position) for position in range(len(samples))):
        digest = whole.samples.get(name)
        if digest in seen:
            again.append(name)
        if digest is not None:
            seen.add(digest)
    if again:
        notes.append(
            f"{len(again)} of {several(whole.count, 'sample')} occur more than once, such as "
            f"{again[0]}"
        )
    if whole.skipped:
        name, reason = next(iter(_in_order(samples, whole.skipped).items()))
        notes.append(
            f"{len(whole.skipped)} of {len(samples)} samples were skipped; the first is {name}: "
            f"{reason}"
        )
    return notes
