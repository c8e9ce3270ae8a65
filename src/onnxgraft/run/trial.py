"""Feeds that a network takes: what is drawn for it is tried in several sizes until it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.graph.wants import Wants
from onnxgraft.run.feeds import PLAIN, Manner, Setting, batch_names, drawn, sizes_of

__all__ = ["Trial"]

# Runs a network on some feeds; raises InputError where it does not take one of them.
Run = Callable[[Sequence[Feeds]], list[Outputs]]

# Free axes of images and of sequences, tried until the network runs.
_SIZES = ((8, 8), (64, 64), (224, 512), (512, 2048), (512, 16384))
# Where neither 1 nor 2 is a batch that it takes.
_BATCHES = (2, 4, 8, 16, 3, 32)
# More numbers than that are not fed where others were refused.
_MOST_NUMBERS = 1 << 22


@dataclass
class Trial:
    """The settings in which a network runs, beginning with batch 1.

    Args:
        specs: The network's inputs.
        wants: What it says of them.
        image: What a free axis of an image begins with.
    """

    specs: Sequence[TensorSpec]
    wants: Wants
    image: int = 8

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.settings: list[Setting] = []
        self.notes: list[str] = []
        whole = any(spec.dtype.startswith(("int", "uint")) for spec in self.specs)
        self._whole = whole or bool(self.wants.indices)

    def begin(self, run: Run) -> list[Outputs]:
        """Find settings, and return what the network makes of each.

        Raises:
            InputError: It runs in none of them; or an input can't be drawn.
        """
        usual = self._usual()
        try:
            found = run([self.feeds(setting) for setting in usual])
            self.settings = usual
            return found
        except InputError as error:
            first, outputs = self._first(run, error)
        self.settings, found = [first], [outputs]
        for choices in self._others(first):
            for other in choices:
                try:
                    found += run([self.feeds(other)])
                except InputError:
                    continue
                self.settings.append(other)
                break
        self._tell()
        return found

    @property
    def first(self) -> Setting:
        """The first setting in which the network runs; what is tried first before `begin`."""
        return self.settings[0] if self.settings else self._usual()[0]

    @property
    def choices(self) -> bool:
        """Whether there is anything to try: free axes beside the batch, or whole numbers."""
        batches = batch_names(self.specs)
        return self._whole or any(
            isinstance(dim, str) and dim not in batches
            for spec in self.specs
            for dim in spec.shape[1:]
        )

    def feeds(self, setting: Setting, manner: Manner = PLAIN, seed: int = 0) -> dict[str, Array]:
        """Return the feeds of a setting."""
        return drawn(self.specs, setting, seed, manner=manner, wants=self.wants)

    def _usual(self) -> list[Setting]:
        first = Setting(1, self.image, _SIZES[0][1], caution=0)
        return [first, *(choices[0] for choices in self._others(first) if choices)]

    def _first(self, run: Run, error: InputError) -> tuple[Setting, Outputs]:
        """Return the first setting in which the network runs, and what it makes of it."""
        tried: set[tuple[object, ...]] = set()
        for setting in self._candidates():
            key = self._key(setting)
            if key in tried or (len(tried) and self._numbers(setting) > _MOST_NUMBERS):
                continue
            tried.add(key)
            try:
                return setting, run([self.feeds(setting)])[0]
            except InputError as refused:
                error = refused if setting.batch == 1 and setting.caution < 2 else error
        raise error

    def _candidates(self) -> Iterator[Setting]:
        ladder = [(max(image, self.image), row) for image, row in _SIZES]
        for cautions, batches, sizes in (
            ((0, 1), (1,), ladder),
            ((2, 3), (1,), ladder[:2]),
            ((0, 1), _BATCHES, ladder[:2]),
        ):
            for batch in batches:
                for image, row in sizes:
                    for caution in cautions:
                        yield Setting(batch, image, row, caution=caution)

    def _others(self, first: Setting) -> list[list[Setting]]:
        """Return what is tried beside the first setting: one of each list, the best first."""
        more = replace(first, batch=2 * first.batch, uneven=True, flags=True, turn=1)
        choices = [
            more,
            replace(more, flags=False),
            replace(more, uneven=False),
            replace(more, uneven=False, flags=False),
            replace(more, batch=first.batch),
            replace(more, batch=first.batch, flags=False),
            replace(more, batch=first.batch, uneven=False),
        ]
        seen = {self._key(first)}
        second = []
        for setting in choices:
            if self._key(setting) not in seen:
                seen.add(self._key(setting))
                second.append(setting)
        shapes, _ = sizes_of(self.specs, first, self.wants)
        few = any(math.prod(shapes[name]) < 3 for name in self.wants.indices if name in shapes)
        few = few or any(len(values) > 1 for values in self.wants.special.values())
        turns = [[replace(first, turn=turn)] for turn in (1, 2)] if few else []
        return [choices for choices in (second, *turns) if choices]

    def _key(self, setting: Setting) -> tuple[object, ...]:
        """Return what tells two settings apart in the feeds that they make."""
        shapes, _ = sizes_of(self.specs, setting, self.wants)
        flags = setting.flags and any(
            spec.dtype == "bool" and math.prod(shapes[spec.name]) == 1 for spec in self.specs
        )
        return *shapes.values(), setting.caution if self._whole else 0, flags

    def _numbers(self, setting: Setting) -> int:
        """Return how many numbers are fed in a setting."""
        shapes, _ = sizes_of(self.specs, setting, self.wants)
        return sum(map(math.prod, shapes.values()))

    def _tell(self) -> None:
        """Say in which sizes the network was run, where these are not the usual ones."""
        first = self.settings[0]
        shapes, _ = sizes_of(self.specs, first, self.wants)
        doubled, _ = sizes_of(self.specs, replace(first, batch=2 * first.batch), self.wants)
        if shapes != doubled and all(setting.batch == first.batch for setting in self.settings):
            self.notes.append(
                f"at batch {2 * first.batch} the original does not run: compared at batch "
                f"{first.batch} alone"
            )
        if (first.image, first.row) != (self.image, _SIZES[0][1]):
            sized = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            self.notes.append(
                f"in smaller sizes the original does not run: compared from {sized} on"
            )
