"""One set of samples as two: some to calibrate on, and others to validate on."""

from __future__ import annotations

import random
from dataclasses import replace

from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError

__all__ = ["LEAST", "split", "without"]

# So many samples there have to be: one of four validates.
LEAST = 4
_SHARE = 4


def split(
    samples: Samples, seed: int = 0, *, calibrate: int | None = None, validate: int | None = None
) -> tuple[Samples, Samples]:
    """Return samples to calibrate on, and a quarter of all to validate on.

    The same samples and seed give the same parts. What is in both, because it is there twice, is
    left out of the second.

    Args:
        samples: All of them.
        seed: Chooses.
        calibrate: How many to calibrate on at most.
        validate: How many to validate on at most.

    Raises:
        InputError: There are too few, or they are all the same.
    """
    total = len(samples)
    if total < LEAST:
        raise InputError(
            f"{samples.source}: {total} samples are too few to calibrate on some and validate on "
            f"others, which takes {LEAST} at least; add some, or name other data to validate on "
            "with --validate-on, or data in [validate]"
        )
    order = list(samples.indices)
    random.Random(seed).shuffle(order)
    held = total // _SHARE
    first = replace(samples, indices=tuple(sorted(order[held:][:calibrate])), seed=seed)
    second = replace(samples, indices=tuple(sorted(order[:held][:validate])), seed=seed)
    return first, without(second, first)


def without(samples: Samples, others: Samples) -> Samples:
    """Return ``samples`` without those that are among ``others`` too, whatever their names are.

    Raises:
        InputError: None is left.
    """
    known = {others.identity(position)[0] for position in range(len(others))}
    kept = tuple(
        index
        for position, index in enumerate(samples.indices)
        if samples.identity(position)[0] not in known
    )
    if not kept:
        raise InputError(
            f"{samples.source}: each of the {len(samples)} samples to validate on is calibrated on "
            "too, and so proves nothing; leave the validation data out, so that the calibration "
            "data are split, or name others with --validate-on, or data in [validate]"
        )
    return replace(samples, indices=kept)
