"""An engine with parts of its recipe in it, beside an original that has none of them.

The original is fed what the recipe makes of a picture, and the engine the picture. Where the engine
gives the class of each pixel, the original's classes are those of its best scores, and both are
held by the scores that the original gives to them: a tie is no difference. Where the engine gives
boxes beside its rows, the rows are held against the original's, and the boxes have to be those that
the recipe makes of the engine's own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxgraft.commands._assumed import is_given, of_images
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Data, Samples, as_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run.answers import partners
from onnxgraft.run.engine import Engine, Resource
from onnxgraft.run.selections import Chosen, chosen_by_scores
from onnxgraft.stages.engine.baking import resizes, same_boxes
from onnxgraft.stages.validate import Tolerance

__all__ = ["Answering", "InIt", "Rows", "find_in_it"]

# A picture has no more.
_CHANNELS = 4


@dataclass(frozen=True)
class InIt:
    """What of a recipe is in an engine.

    Attributes:
        pictures: How the engine wants pictures, where it takes them; None where it takes what the
            original does.
        scores: The original's output in whose place there are classes; empty where there are none.
        classes: Of the engine.
        axis: Of the classes in the scores.
        boxes: The engine's output of boxes; empty where there is none.
        rows: The engine's output that they are made of.
        recipe: By which the original's pictures are prepared.
        how: What the original's outputs mean.
        size: Height and width of what the original takes, where they are known.
    """

    pictures: Preprocess | None = None
    scores: str = ""
    classes: TensorSpec | None = None
    axis: int = 1
    boxes: str = ""
    rows: str = ""
    recipe: Preprocess = field(default_factory=Preprocess)
    how: Postprocess = field(default_factory=Postprocess)
    size: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        """Tell whether anything is."""
        return self.pictures is not None or self.classes is not None or bool(self.boxes)

    def asked(self, original: Engine) -> Engine:
        """Return the original, answering as the engine does."""
        return original if self.classes is None else Answering(original, self)

    def held(self, engine: Engine) -> Engine:
        """Return the engine, with its boxes held against its rows."""
        return Rows(engine, self) if self.boxes else engine

    def output(self, name: str | None) -> str | None:
        """Return the output in whose place another one stands, or else the same."""
        if self.classes is None or (name is not None and not self._means(name)):
            return name
        return self.classes.name

    def told(self, name: str, wrong: int) -> str:
        """Return a sentence where boxes of an engine are wrong; empty where none are."""
        if not wrong:
            return ""
        return (
            f"{name}: on {wrong} sample{'s' * (wrong != 1)} its {self.boxes} are not those that "
            f"the recipe makes of its {self.rows}"
        )

    def _means(self, name: str) -> bool:
        """Tell whether a name is that of the scores, with or without TensorFlow's number."""
        return _plain(name) == _plain(self.scores)

    def floors(self, found: Tolerance) -> Tolerance:
        """Return what explains a difference of scores as what explains one of classes.

        A score is then as much too high as another one is too low.
        """
        if self.classes is None or self.scores not in found.floors:
            return found
        floors = {**found.floors, self.classes.name: 2 * found.floors[self.scores]}
        return replace(found, floors=floors)

    def fed(self, data: Data, samples: Samples, inputs: Sequence[TensorSpec]) -> Samples | None:
        """Return the same samples as the engine takes them; None where it takes the original's.

        Raises:
            InputError: They are no pictures, or the engine divides them otherwise.
        """
        if self.pictures is None:
            return None
        if not of_images(data):
            raise InputError(
                f"{samples.source}: holds what the original takes, and the engine takes pictures; "
                "name image files"
            )
        found = as_samples(data, inputs, self.pictures, names=samples.classes)
        if samples.division.batch != found.division.batch:
            raise InputError(
                f"the original takes {samples.division.batch} pictures at once, and the engine "
                f"{found.division.batch}; build the engine for as many"
            )
        return replace(found, indices=samples.indices)

    @property
    def level(self) -> float:
        """What half a level of 0 to 255 is in what the original takes, where a resize may round.

        A resize in the graph rounds otherwise than the recipe's; all else is exact.
        """
        if self.pictures is None or not resizes(self.recipe):
            return 0.0
        return 0.5 * float(np.abs(np.asarray(self.recipe.factors)).max())


def find_in_it(
    original: Engine,
    engine: Engine,
    left: tuple[Preprocess, Postprocess],
    recipe: Preprocess | None,
    how: Postprocess | None,
) -> InIt:
    """Return what of a recipe is in an engine, by what both take and give.

    Args:
        original: Takes what the recipe makes.
        engine: Perhaps takes pictures, or gives answers.
        left: What its passport says is left to do outside of it.
        recipe: The whole recipe, as the user gave it.
        how: Likewise.

    Raises:
        InputError: Something is, and the whole recipe is not given.
    """
    found = InIt()
    if not len(original.inputs) == len(engine.inputs) == 1:  # no recipe is in one of several
        return found
    first, takes = original.inputs[0], engine.inputs[0]
    pictures = takes.dtype == "uint8" != first.dtype and len(takes.shape) == 4
    if pictures and left[0].layout == "nhwc":
        found = replace(found, pictures=left[0])
    known = {spec.name: spec for spec in engine.outputs}
    answer = known.get(left[1].output or "")
    if answer is not None and _plain(answer.name) in {_plain(s.name) for s in original.outputs}:
        answer = None  # which the original gives itself
    theirs = [spec for spec in original.outputs if spec.dtype.startswith("float")]
    if answer is not None and answer.dtype in ("uint8", "int32") and len(answer.shape) == 3:
        maps = [spec for spec in theirs if len(spec.shape) == 4]
        named = "" if how is None else how.output or ""
        chosen = [spec for spec in maps if _plain(spec.name) == _plain(named)] or maps
        if chosen:
            axis = _axis(chosen[0], answer)
            found = replace(found, scores=chosen[0].name, classes=answer, axis=axis)
    elif answer is not None and left[1].form == "ssd" and answer.shape[1:] == (7,):
        others = [spec.name for spec in engine.outputs if spec.name != answer.name]
        wanted = (how.output if how is not None else None) or others[0]
        rows = partners([wanted], others).get(wanted, others[0])
        found = replace(found, boxes=answer.name, rows=rows)
    if not found:
        return found
    if found.pictures is not None and not is_given(recipe):
        raise InputError(
            f"{engine.name}: takes pictures, so a part of the recipe is in it; name the whole "
            "recipe, by which the original's are prepared, with --preprocess"
        )
    if found.boxes and how is None:
        raise InputError(
            f"{engine.name}: suppresses boxes itself; name the whole recipe, which says what its "
            "rows are, with --postprocess"
        )
    sides = [side for side in first.shape if isinstance(side, int) and side > _CHANNELS]
    return replace(
        found, recipe=(recipe or Preprocess()).sized(first), how=how or Postprocess(),
        size=(sides[0], sides[1]) if len(sides) == 2 else None,
    )  # fmt: skip


def _plain(name: str) -> str:
    """Return a name without the number that TensorFlow gives it."""
    return name.removesuffix(":0")


def _axis(scores: TensorSpec, classes: TensorSpec) -> int:
    """Return the axis of classes in scores that are (N, C, H, W) or (N, H, W, C)."""

    def same(axis: int) -> int:
        left = scores.shape[1:axis] + scores.shape[axis + 1 :]
        return sum(a == b for a, b in zip(left, classes.shape[1:], strict=True))

    return max((1, 3), key=same)


class Answering(Resource):
    """An original that answers classes in place of its scores; closes the original."""

    def __init__(self, original: Engine, what: InIt) -> None:
        assert what.classes is not None
        self.name, self.inputs = original.name, original.inputs
        self.outputs = tuple(
            what.classes if spec.name == what.scores else spec for spec in original.outputs
        )
        self._original, self._what, self._classes = original, what, what.classes
        self._last: tuple[Outputs, Array] | None = None

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the original's outputs, with the best class of each place."""
        scores, outputs = self._asked(feeds)
        self._last = outputs, scores  # in one step, for `at` in another thread
        return outputs

    def at(self, feeds: Feeds, expected: Outputs) -> Chosen:
        """Return what the classes of one sample were chosen from; see `Selector`."""
        last = self._last
        scores = last[1] if last is not None and last[0] is expected else self._asked(feeds)[0]
        return chosen_by_scores(expected, self._classes.name, scores, self._what.axis)

    def close(self) -> None:
        """Close the original."""
        self._original.close()

    def _asked(self, feeds: Feeds) -> tuple[Array, Outputs]:
        found = self._original.infer(feeds)
        name = self._what.scores
        scores = found[name]
        found = {**found, name: scores.argmax(self._what.axis).astype(self._classes.dtype)}
        return scores, {self._classes.name if n == name else n: v for n, v in found.items()}


class Rows(Resource):
    """An engine whose boxes are held against its own rows, and left out; closes the engine.

    Attributes:
        wrong: How many samples had boxes that the recipe does not make of their rows.
    """

    def __init__(self, engine: Engine, what: InIt) -> None:
        self.name, self.inputs = engine.name, engine.inputs
        self.outputs = tuple(spec for spec in engine.outputs if spec.name != what.boxes)
        self.wrong = 0
        self._engine, self._what = engine, what

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs but for the boxes."""
        found = dict(self._engine.infer(feeds))
        boxes, what = found.pop(self._what.boxes), self._what
        placed = None
        if what.pictures is not None:
            (picture,) = feeds.values()
            placed = what.recipe.placement(picture.shape[2], picture.shape[1])
        if not all(
            same_boxes(
                found[what.rows][image : image + 1], boxes[boxes[:, 0] == image], what.how,
                what.size, placed,
            )
            for image in range(len(found[what.rows]))
        ):  # fmt: skip
            self.wrong += 1
        return found

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
