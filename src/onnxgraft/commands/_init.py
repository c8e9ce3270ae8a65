"""`init`: a recipe of a model, with what it tells; `recipe-schema`: what a recipe may hold."""

from __future__ import annotations

import functools
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxgraft.commands._arguments import Names, names
from onnxgraft.commands._assumed import assumed
from onnxgraft.commands._defaults import deployed_targets
from onnxgraft.commands._opening import Place
from onnxgraft.commands._recipe_keys import Key, recipe_keys, schema
from onnxgraft.commands._recipe_tables import UNFILLED
from onnxgraft.commands._task import task_of
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError, printable
from onnxgraft.files import atomic, check_place, json_text, read_json
from onnxgraft.files.toml import toml_key, toml_text
from onnxgraft.files.trust import Trust
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Inspection, Original
from onnxgraft.targets import find_target

__all__ = ["SCHEMA_FILE", "Begun", "RecipeSchema", "init", "recipe_schema"]

# What the schema is called beside a recipe.
SCHEMA_FILE = "recipe.schema.json"
_WIDTH = 98
# Of a picture's channels.
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Begun:
    """A recipe that was begun.

    Attributes:
        out: Where it is.
        schema: Where its schema is, for editors; empty where none was written.
        unfilled: The keys that the user has to fill in, such as ``[calibrate] data``.
        notes: What was found out, a sentence each.
    """

    out: str
    schema: str
    unfilled: tuple[str, ...]
    notes: tuple[str, ...] = ()

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"out": self.out, "schema": self.schema, "unfilled": self.unfilled,
                "notes": self.notes}  # fmt: skip


@dataclass(frozen=True)
class RecipeSchema:
    """The JSON schema of recipes.

    Attributes:
        schema: As draft 7.
        out: Where it was written, if it was.
    """

    schema: Mapping[str, Any]
    out: str = ""

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return the schema."""
        return dict(self.schema)


def recipe_schema(out: Place | None = None) -> RecipeSchema:
    """Return the JSON schema of a recipe, from which editors complete and check it.

    Args:
        out: A file to write; None writes none.

    Raises:
        InputError: The file can't be written, or is something else.
    """
    check_place(out)
    if out is not None:
        _check_ours(Path(out), "name another file")
        _write_text(Path(out), json_text(schema()) + "\n")
    return RecipeSchema(schema(), "" if out is None else str(out))


def init(
    model: Place,
    out: Place = Path("recipe.toml"),
    *,
    weights: Place | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    values: Sequence[str] = (),
    signature: str | None = None,
    freeze_batchnorm: bool = False,
    trust: Trust = False,
    data: Place | None = None,
    targets: Names = None,
    schema: bool = True,
    force: bool = False,
) -> Begun:
    """Write a recipe of a model: what could be found out, and every other key as a comment.

    Args:
        model: What `inspect` reads.
        out: The recipe to write; paths in it begin at its folder.
        weights: The weights of a Caffe network.
        inputs: Where to cut the model's beginning.
        outputs: Where to cut its end.
        values: Placeholders or constants to set, such as ``is_training=false``.
        signature: The signature of a SavedModel or TFLite file.
        freeze_batchnorm: As of `convert`.
        trust: Load a Keras file or a .pt2 that brings code: True, or the names of what may.
        data: What to calibrate on; None leaves it to be filled in.
        targets: What to build for; None takes the CPU targets that are installed.
        schema: Whether to write ``recipe.schema.json`` beside it, which the recipe's first line
            names, so that editors complete the keys.
        force: Replace a recipe that is there.

    Raises:
        InputError: The model can't be read, or there is a recipe already.
    """
    file = Path(out)
    beside = file.with_name(SCHEMA_FILE)
    check_place(file)
    if os.path.lexists(file) and not force:
        raise InputError(f"{file}: is there already; name another with -o, or add --force")
    if schema and not force:
        _check_ours(beside, "add --no-schema, or --force")
    aims = [find_target(name).name for name in names(targets) or deployed_targets()]
    original = Original.of(
        model, weights=weights, inputs=inputs, outputs=outputs, values=values,
        signature=signature, freeze_batchnorm=freeze_batchnorm, trust=trust,
    )  # fmt: skip
    found, lowered = original.inspect(), None
    notes: list[str] = []
    try:
        lowered = original.lower()[0]
    except MissingDependencyError:
        raise
    except OnnxgraftError as error:
        notes.append(f"it can't be converted as it is: {error}")
    draft = _Draft(original, found, lowered, file.absolute().parent, data, aims, notes)
    head = [f"#:schema ./{SCHEMA_FILE}"] if schema else []
    _write_text(file, "\n".join([*head, *draft.lines()]) + "\n")
    if schema:
        _write_text(beside, json_text(recipe_schema().schema) + "\n")
    unfilled = () if data is not None else ("[calibrate] data",)
    return Begun(str(file), str(beside) if schema else "", unfilled, tuple(draft.notes))


def _check_ours(path: Path, cure: str) -> None:
    """Raise InputError if a file is there that is no schema of recipes."""
    try:
        ours = not os.path.lexists(path) or read_json(path)["title"] == schema()["title"]
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{path}: is another file than the schema of recipes; {cure}")


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@dataclass
class _Draft:
    """What is known of a model, to be written as a recipe.

    Attributes:
        original: The model.
        found: What its file holds.
        lowered: Its graph in ONNX; None where it can't be converted as it is.
        folder: Of the recipe.
        data: To calibrate on.
        targets: To build for.
        notes: What was found out.
    """

    original: Original
    found: Inspection
    lowered: Model | None
    folder: Path
    data: Place | None
    targets: Sequence[str]
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the recipe."""
        told = self._top()
        made = [
            f"# A recipe of {self.original.title}: onnxgraft deploy takes it from the model to",
            "# engines. Paths begin at this file's folder. A key behind # is not set: it shows how",
            "# it is written, and its value is the usual one, or an example.",
            "",
            *self._model_lines(),
            *self._table(recipe_keys(), told, ()),
        ]
        for key in recipe_keys().keys.values():
            if key.keys:
                made += self._section(key)
        return made

    def _model_lines(self) -> list[str]:
        """Return what the file holds, as comments."""
        found = self.found
        made = [f"# {found.framework}, {found.parameters:,} parameters"]
        specs = [(kind, str(spec)) for kind, spec in self._specs()] or [
            *(("input", line) for line in found.inputs),
            *(("output", line) for line in found.outputs),
        ]
        made += [f"# {kind:6} {printable(spec)}" for kind, spec in specs]
        for line in found.training:
            made += _comment(f"left of training: {line}")
        for note in self.notes:
            made += _comment(note)
        return [*made, ""]

    def _specs(self) -> Iterator[tuple[str, TensorSpec]]:
        if self.lowered is not None:
            yield from (("input", spec) for spec in self.lowered.inputs)
            yield from (("output", spec) for spec in self._outputs)

    @functools.cached_property
    def _outputs(self) -> list[TensorSpec]:
        """Return the graph's outputs; what it does not say of their shapes, a run says."""
        assert self.lowered is not None
        outputs, inputs = list(self.lowered.outputs), self.lowered.inputs
        free = any(isinstance(dim, str) for spec in outputs for dim in spec.shape[1:])
        if not free or any(isinstance(dim, str) for spec in inputs for dim in spec.shape[1:]):
            return outputs
        try:
            with OnnxRuntime(self.lowered.to_onnx()) as session:
                made = session.infer(random_feeds(inputs, 1, 0))
        except OnnxgraftError:  # values that it does not take
            return outputs
        return [
            replace(spec, shape=(*spec.shape[:1], *made[spec.name].shape[1:])) for spec in outputs
        ]

    def _top(self) -> dict[str, Any]:
        """Return the keys at the top that are known."""
        opened = self.original
        known: dict[str, Any] = {
            "model": self._relative(opened.path),
            "weights": None if opened.weights is None else self._relative(opened.weights),
            "inputs": opened.inputs,
            "outputs": opened.outputs,
            "set": list(opened.values) or None,
            "signature": opened.signature,
            "freeze_batchnorm": opened.freeze_batchnorm or None,
            "targets": list(self.targets),
        }
        return {key: value for key, value in known.items() if value is not None}

    def _relative(self, path: Place) -> str:
        return os.path.relpath(os.path.abspath(path), self.folder)

    def _section(self, key: Key) -> list[str]:
        """Return a table; one that the recipe need not have is a comment as a whole."""
        told: dict[str, Any] = {}
        words: list[str] = []
        suggested: Mapping[str, Any] = {}
        if key.name == "calibrate":
            told["data"] = self._calibration()
        elif key.name == "preprocess":
            told, words = self._preprocess()
        elif key.name == "validate":
            suggested, words = self._suggested()
        elif key.name == "build":
            words = self._free_sizes()
        made = ["", *_comment(key.description), f"[{key.name}]"]
        for each in words:
            made += _comment(each)
        made += self._table(key, told, suggested)
        for inner in key.keys.values():
            if inner.keys and inner.name in self.targets:
                made += ["", *_comment(inner.description), f"# [{'.'.join(inner.place)}]"]
                made += self._table(inner, {}, self._shapes() if "shapes" in inner.keys else {})
        return made

    def _table(self, key: Key, told: Mapping[str, Any], suggested: Any) -> list[str]:
        """Return the keys of a table: those that are told are set, the others are comments."""
        made: list[str] = []
        for inner in key.keys.values():
            if inner.keys:
                continue
            made += _comment(inner.description)
            if inner.name in told:
                made.append(f"{toml_key(inner.name)} = {toml_text(told[inner.name])}")
            elif inner.name in suggested:
                made.append(f"# {toml_key(inner.name)} = {toml_text(suggested[inner.name])}")
            else:
                made.append(f"# {inner.example}")
        return made

    def _calibration(self) -> str:
        if self.data is not None:
            return self._relative(self.data)
        if self._pictures():
            return f"{UNFILLED}: a folder of images, a list of them, or an .npz"
        return f"{UNFILLED}: an .npz or a list of arrays, with an array for each input"

    def _pictures(self) -> list[tuple[TensorSpec, tuple[int | str, int | str]]]:
        """Return the inputs that take pictures, each with its height and width."""
        found = []
        for kind, spec in self._specs():
            if kind == "input" and len(spec.shape) == 4 and not spec.dtype.startswith("bool"):
                _, second, third, last = spec.shape
                if second in _CHANNELS and last not in _CHANNELS:
                    found.append((spec, (third, last)))
                elif last in _CHANNELS:
                    found.append((spec, (second, third)))
        return found

    def _preprocess(self) -> tuple[dict[str, Any], list[str]]:
        """Return the keys of ``[preprocess]`` that the model tells, and what is to be said."""
        pictures = self._pictures()
        if self.lowered is None or len(pictures) != 1:
            return {}, ["The inputs are not one picture: feed arrays, or write a function."]
        recipe, said = assumed(None, "images", self.lowered.metadata, [pictures[0][0]])
        self.notes.append(said)
        usual = Preprocess()
        keys = {
            name: getattr(recipe, name)
            for name in Preprocess.model_fields
            if getattr(recipe, name) != getattr(usual, name)
        }
        if recipe.preset is not None and recipe == Preprocess(preset=recipe.preset):
            keys = {"preset": recipe.preset}
        elif recipe.preset is not None:  # it says more than fits the model
            del keys["preset"]
        words = ["Check it: " + said.removeprefix("no preprocessing was given: ")]
        if not keys:
            words.append("A preset, or color, mean and scale, has to be as in training.")
        return keys, words

    def _suggested(self) -> tuple[Mapping[str, Any], list[str]]:
        outputs = [spec for kind, spec in self._specs() if kind == "output"]
        pictures = self._pictures()
        task = task_of(outputs, pictures[0][1] if pictures else None)
        if task is None:
            return {}, []
        self.notes.append(f"{task.why}: [validate] suggests the metric {task.keys['metric']}")
        return task.keys, [f"{task.why}: the metric may be {task.keys['metric']}."]

    def _free_sizes(self) -> list[str]:
        """Return which inputs have free dimensions beside the batch."""
        free = [
            printable(str(spec))
            for kind, spec in self._specs()
            if kind == "input" and any(isinstance(dim, str) for dim in spec.shape[1:])
        ]
        if not free:
            return []
        return [f"Free sizes: {', '.join(free)}; say shapes, and for TensorRT the bounds."]

    def _shapes(self) -> dict[str, Any]:
        """Return the shapes to optimize for, as far as they have to be said."""
        shapes = {
            spec.name: [1 if isinstance(dim, str) and axis == 0 else dim if isinstance(dim, int)
                        else 256 for axis, dim in enumerate(spec.shape)]
            for kind, spec in self._specs()
            if kind == "input" and any(isinstance(dim, str) for dim in spec.shape)
        }  # fmt: skip
        return dict.fromkeys(("shapes", "min_shapes", "max_shapes"), shapes) if shapes else {}


def _comment(text: str) -> list[str]:
    """Return a text as comments that fit a page."""
    return [f"# {line}" for line in textwrap.wrap(printable(text), _WIDTH)]
