"""One set of samples as two: some to calibrate on, and others to validate on."""

from __future__ import annotations

import random
from dataclasses import replace

from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError

__all__ = ["LEAST", "split", "without"]

# So many samples there have to be: one of four validates, and two at least, as one alone does not
# show whether a network tells samples apart.
LEAST = 4
_SHARE = 4


def split(
    samples: Samples, seed: int = 0, *, calibrate: int | None = None, validate: int | None = None
) -> tuple[Samples, Samples]:
    """Return samples to calibrate on, and a quarter of all to validate on.

    The same samples and seed give the same parts. Samples that are there several times are all in
    one of them.

    Args:
        samples: All of them.
        seed: Chooses.
        calibrate: How many to calibrate on at most.
        validate: How many to validate on at most.

    Raises:
        InputError: There are too few.
    """
    copies: dict[str, list[int]] = {}
    for position, index in enumerate(samples.indices):
        copies.setdefault(samples.identity(position), []).append(index)
    total = len(copies)
    if total < LEAST:
        many = f"{total} different samples" if total < len(samples) else f"{total} samples"
        raise InputError(
            f"{samples.source}: {many} are too few to calibrate on some and validate on others, "
            f"which takes {LEAST} at least; add some, or name other data to validate on with "
            "--validate-on, or data in [validate]"
        )
    order = list(copies.values())
    random.Random(seed).shuffle(order)
    held = max(total // _SHARE, 2)

    def part(groups: list[list[int]], most: int | None) -> Samples:
        chosen = [index for group in groups for index in group][:most]
        return replace(samples, indices=tuple(sorted(chosen)), seed=seed)

    return part(order[held:], calibrate), part(order[:held], validate)


def without(samples: Samples, others: Samples) -> Samples:
    """Return ``samples`` without those that are among ``others`` too, whatever their names are.

    Raises:
        InputError: None is left.
    """
    known = {others.identity(position) for position in range(len(others))}
    kept = tuple(
        index
        for position, index in enumerate(samples.indices)
        if samples.identity(position) not in known
    )
    if not kept:
        raise InputError(
            f"{samples.source}: each of the {len(samples)} samples to validate on is calibrated on "
            "too, and so proves nothing; leave the validation data out, so that the calibration "
            "data are split, or name others with --validate-on, or data in [validate]"
        )
    return replace(samples, indices=kept)
