"""A built engine with its recipe, in a program of the user's own: numpy and its library suffice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from onnxgraft.commands._engine_recipe import agreed, recipe_of, sees_of
from onnxgraft.data.casting import cast
from onnxgraft.data.division import image_batch, row_of
from onnxgraft.data.placement import Placement
from onnxgraft.data.postprocess import Postprocess, Seen, see
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import picture_feed
from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust, trusts
from onnxgraft.graph.tensors import Array, Outputs, TensorSpec
from onnxgraft.run.engine import Resource
from onnxgraft.stages.engine.loading import load
from onnxgraft.stages.engine.passport import passport_path, read_passport

__all__ = ["Hook", "ServedEngine", "feeds_of"]

Hook = Callable[[Array], Array]
Color = Literal["bgr", "rgb", "gray"]


class ServedEngine(Resource):
    """An engine as it was built, with the recipe that its passport holds.

    It may be used from several threads.

    Args:
        path: Of the engine; its passport is beside it.
        preprocess: Takes the place of the passport's table.
        postprocess: Likewise.
        trust: Load an engine that has no passport, and run the functions that a passport names:
            True, or names.
        threads: Of the CPU; None takes what `bench --p99` found best on this processor, or else
            what the engine was built for.

    Raises:
        InputError: There is no passport, or the file is not the one that it describes.
        MissingDependencyError: The engine's library is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        preprocess: Preprocess | None = None,
        postprocess: Postprocess | None = None,
        trust: Trust = False,
        threads: int | None = None,
    ) -> None:
        # A function that is not trusted is named, and refused when a picture would be fed to it.
        known = recipe_of(path, trust, preprocess is None and bool(trust), bool(trust))
        self.preprocess, self.postprocess = agreed(preprocess or known[0], postprocess or known[1])
        self._sees = sees_of(path) if preprocess is None else None
        trusted = trusts(trust, Path(path).name, os.fspath(path))
        found = {} if threads is not None else _found(path)
        self._engine = load(
            path, trust=trusted, threads=found.get("threads", threads), streams=found.get("streams")
        )
        self.name = self._engine.name
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

    def infer(self, feeds: Array | Mapping[str, Array]) -> Outputs:
        """Return the outputs, by name.

        Args:
            feeds: What the network takes, by input name, or one array where there is one input;
                samples along axis 0, or a single sample without it.
        """
        return self._engine.infer(feeds_of(self.name, self.inputs, feeds))

    def infer_into(self, feeds: Array | Mapping[str, Array], into: Mapping[str, Array]) -> None:
        """Write the outputs into arrays of the caller's: nothing is copied on the way.

        Args:
            feeds: As `infer` takes it; contiguous arrays of the inputs' types are read where they
                lie.
            into: By output name, each contiguous and of the output's shape and type; outputs that
                are not named are dropped.
        """
        self._engine.infer_into(feeds_of(self.name, self.inputs, feeds), into)

    def prepare(self, *pictures: Array, color: Color) -> Array:
        """Return what the network takes of pictures, by the recipe.

        Args:
            pictures: (height, width, channels) or (height, width) uint8, as they are to be seen.
            color: The order of their channels.

        Raises:
            InputError: The engine takes no pictures, or not so many at once, or not these.
        """
        return self.prepare_each(pictures, len(pictures), color=color)

    def prepare_each(
        self, pictures: Iterable[Array], count: int, *, color: Color, most: int | None = None
    ) -> Array:
        """Return what `prepare` does, of pictures that are there one at a time.

        Args:
            pictures: ``count`` of them; each is asked for when the one before it is prepared.
            count: How many there are.
            color: The order of their channels.
            most: Bytes that they may become, where the batch is free.

        Raises:
            InputError: As of `prepare`, or they would become more.
        """
        spec, recipe = self._picture()
        batch = image_batch(spec)
        free = isinstance(spec.shape[0], str) and len(spec.shape) == 4
        if not count or (count != batch and not free):
            raise InputError(
                f"{self.name}: the input {spec} takes {batch} at once, not the "
                f"{count} pictures that were given"
            )
        made: list[tuple[str, Array]] = []
        for number, picture in enumerate(pictures, 1):
            pixels = recipe.prepared(_pixels(picture, color, recipe.color))
            if most is not None and free and count > 1 and count * pixels.nbytes > most:
                raise InputError(
                    f"{self.name}: the {count} pictures become {count * pixels.nbytes:,} bytes "
                    f"for the input {spec}, at most {most:,} are fed; send fewer at once"
                )
            made.append((f"picture {number}", pixels))
        return picture_feed(made, spec, recipe.layout)

    def see(self, picture: Array, *, color: Color) -> Seen:
        """Return what the engine sees in a picture: classes, shares of a map, or boxes.

        Args:
            picture: As `prepare` takes it.
            color: The order of its channels.

        Raises:
            InputError: The recipe does not say what the outputs are, and their shapes do not tell.
        """
        found = self.look(picture, color=color, draw=False)[1]
        if found is None:
            told = ", ".join(map(str, self.outputs))
            raise InputError(
                f"{self.name}: what the outputs {told} mean can't be told; set kind in "
                "[postprocess], or use infer"
            )
        return found

    def look(
        self, picture: Array, *, color: Color, draw: bool = True
    ) -> tuple[Outputs, Seen | None]:
        """Return the outputs for a picture, and what they mean; None where that can't be told.

        Args:
            picture: As `prepare` takes it.
            color: The order of its channels.
            draw: Whether to draw what was seen, which needs OpenCV.
        """
        spec, recipe = self._picture()
        pixels = _pixels(picture, color, recipe.color)
        fed = self.prepare(*[picture] * image_batch(spec), color=color)
        outputs = {
            name: row_of(self.name, spec, name, value, 0)
            for name, value in self._engine.infer({spec.name: fed}).items()
        }
        placed = recipe.placement(pixels.shape[1], pixels.shape[0])
        shown = (self._sees or recipe).seen(pixels)
        if shown.shape[2] == 1:  # what is drawn has colours
            shown = np.repeat(shown, 3, 2)
        return outputs, see(outputs, self.postprocess, shown, placed, draw=draw)

    def placement(self, width: int, height: int) -> Placement:
        """Return where a picture of that size lies in what the network sees of it.

        Raises:
            InputError: The engine takes no pictures, or none so small.
        """
        return self._picture()[1].placement(width, height)

    def close(self) -> None:
        """Give back what the engine holds."""
        self._engine.close()

    def _picture(self) -> tuple[TensorSpec, Preprocess]:
        """Return the input that takes pictures, and the recipe for its size."""
        if len(self.inputs) != 1:
            names = ", ".join(spec.name for spec in self.inputs)
            raise InputError(f"{self.name}: has the inputs {names}; feed them with infer")
        if not self.preprocess.model_fields_set:
            raise InputError(
                f"{self.name}: its passport does not say how pictures are prepared; give "
                "preprocess, or feed arrays with infer"
            )
        return self.inputs[0], self.preprocess.sized(self.inputs[0])


def _found(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return the settings that were found best for one instance on this processor.

    Those of several are for processes beside each other, and this is one.
    """
    if not passport_path(path).is_file():
        return {}
    passport = read_passport(path)
    found = passport.served(passport.here())
    return found if found.get("instances") == 1 else {}


def feeds_of(
    name: str,
    inputs: Sequence[TensorSpec],
    feeds: Array | Mapping[str, Array],
    hooks: Mapping[str, Hook] | None = None,
) -> dict[str, Array]:
    """Return feeds by name, each in a batch and in the type of its input.

    Args:
        name: Of the engine.
        inputs: Its inputs.
        feeds: By name, or one array where there is one input; a single sample has no batch.
        hooks: Input -> a function of one sample.

    Raises:
        InputError: There are several inputs, or one can't hold the values.
    """
    if not isinstance(feeds, Mapping):
        if len(inputs) != 1:
            names = ", ".join(spec.name for spec in inputs)
            raise InputError(f"{name}: feed a dict, there are the inputs {names}")
        feeds = {inputs[0].name: feeds}
    known = {spec.name: spec for spec in inputs}
    given = {}
    for key, value in feeds.items():
        spec, hook = known.get(key), (hooks or {}).get(key)
        samples = np.asarray(value)
        if spec is not None and samples.ndim == len(spec.shape) - 1:
            samples = samples[np.newaxis]
        given[key] = samples if hook is None else np.stack([hook(sample) for sample in samples])
        if spec is not None:
            cure = "feed values that the input holds, or change them with preprocessors"
            given[key] = cast(given[key], spec, name, cure)
    return given


def _pixels(picture: Array, color: Color, wanted: str) -> Array:
    """Return a picture in BGR, or gray where that is wanted.

    Raises:
        InputError: It is none, or is gray where colours are wanted, or the other way round.
    """
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    channels = 1 if color == "gray" else 3
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels:
        raise InputError(
            f"a picture in {color} is (height, width, {channels}) uint8, not {picture.shape} "
            f"{picture.dtype}"
        )
    if (wanted == "gray") != (color == "gray"):
        raise InputError(f"the recipe wants pictures in {wanted}, and this is in {color}")
    return pixels[:, :, ::-1] if color == "rgb" else pixels
