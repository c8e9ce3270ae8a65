"""The program in C++ that a bundle carries: what it is fed, and what the graph answers to that.

The engine is built on the target, so the answers are the exact reference's. An engine rounds
otherwise than that: it may differ by twice as much as rounding moves the answers, for both are
rounded, or by what its precision explains, whichever is more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxgraft.commands._opening import Place
from onnxgraft.commands._program_sample import as_stored, ppm, sample, stored
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import picture_feed
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import float_twin, is_quantized
from onnxgraft.graph.tensors import Outputs
from onnxgraft.run.answers import answers
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.engine.cpp import SAMPLE, check_program, explained, program
from onnxgraft.stages.engine.passport import Passport

__all__ = ["BundleProgram"]


class BundleProgram:
    """Makes the files of the program.

    Args:
        out: The bundle, after which its engine is called.
        preprocess: How pictures are prepared; None feeds arrays.
        rounded: The network in INT8 where the target makes that itself, of a calibration cache.
    """

    def __init__(
        self, out: Place, preprocess: Preprocess | None, rounded: Model | None = None
    ) -> None:
        self._engine = Path(f"{Path(out).stem}.engine")
        self._preprocess = preprocess or Preprocess()
        self._rounded = rounded
        self.notes: list[str] = []

    def __call__(
        self, model: Model, passport: Passport, sizes: Mapping[str, Sequence[int]]
    ) -> dict[str, bytes]:
        """Return the files, by name.

        Args:
            model: The graph that the bundle carries.
            passport: Of the engine that will be built.
            sizes: The shapes that inputs have in the program.

        Raises:
            OnnxgraftError: There can be none, for example because it does not know an input's type.
        """
        check_program(passport, (*passport.inputs, *passport.outputs))
        specs = [
            replace(spec, shape=tuple(sizes.get(spec.name, spec.shape))) for spec in model.inputs
        ]
        taken, picture, why = sample(self._preprocess, specs)
        if taken is None or picture is None:
            feeds = random_feeds(specs, 1)
            self.notes.append(f"the program in it feeds stored arrays, and no pictures: {why}")
        else:
            pixels = picture[:, :, None] if picture.ndim == 2 else picture[:, :, ::-1]
            batch = specs[0].shape[0] if len(specs[0].shape) == 4 else 1
            made = [("the sample", taken.recipe.prepared(pixels))] * int(batch)
            value = picture_feed(made, specs[0], taken.recipe.layout)
            taken = replace(taken, planes=not as_stored(value, taken.recipe, picture))
            feeds = {specs[0].name: value}
        with exact(model) as reference:
            wanted = answers(reference, feeds)
        twin = self._rounded or (float_twin(model) if is_quantized(model) else None)
        moved = 0.0
        if twin is not None:
            with exact(twin) as other:
                moved = _moved(wanted, answers(other, feeds))
        inputs = {spec.name: f"input.{number}.npy" for number, spec in enumerate(specs)}
        outputs = {spec.name: f"output.{number}.npy" for number, spec in enumerate(model.outputs)}
        told = program(
            passport, self._engine, inputs, outputs, taken, max(explained(passport), 2 * moved)
        )
        files = {name: text.encode() for name, text in told.items()}
        for names, values in ((inputs, feeds), (outputs, wanted)):
            files |= {place: stored(values[name]) for name, place in names.items()}
        return files if picture is None else files | {SAMPLE: ppm(picture)}


def _moved(one: Outputs, other: Outputs) -> float:
    """Return the largest difference of float outputs, as a part of their ranges."""
    found = [0.0]
    for name, value in one.items():
        span = float(max(value.max(initial=0), 0) - min(value.min(initial=0), 0))
        if value.dtype.kind == "f" and span > 0 and other[name].shape == value.shape:
            found.append(float(abs(value - other[name]).max()) / span)
    return max(found)
