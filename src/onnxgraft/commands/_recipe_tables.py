"""The tables and keys of a recipe: the one source of its schema, its errors and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from onnxgraft.commands._budget import read_budget
from onnxgraft.commands._int8 import check_weights
from onnxgraft.commands._recipe_build import BuildSection, Misfit
from onnxgraft.data.functions import Function, is_function_path
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Data
from onnxgraft.errors import InputError, nearest
from onnxgraft.files.trust import Trust
from onnxgraft.stages.convert import IoLayout, Original
from onnxgraft.stages.quantize import IMPROVEMENTS, Choice, Improvement
from onnxgraft.stages.validate import METRICS
from onnxgraft.targets import TARGETS, Floats, WeightType, find_target, target_names

__all__ = [
    "DEFAULT_TARGETS",
    "UNFILLED",
    "BenchSection",
    "CalibrateSection",
    "QuantizeSection",
    "Recipe",
    "Section",
    "ValidateSection",
]

DEFAULT_TARGETS = tuple(target.name for target in TARGETS if target.default)
# How a value begins that `init` could not know.
UNFILLED = "FILL IN"


def _known(name: str) -> str:
    try:
        return find_target(name).name
    except InputError as error:
        raise ValueError(str(error)) from error


def _filled(text: str) -> str:
    if text.startswith(UNFILLED):
        what = text.removeprefix(UNFILLED).lstrip(": ")
        raise ValueError(f"is not filled in yet; write {what or 'it'}")
    return text


TargetName = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": target_names()})]
# A path, or another text that only the user knows.
Filled = Annotated[str, AfterValidator(_filled)]
_OF_METRICS = {"anyOf": [{"enum": [*METRICS]}, {"type": "string", "pattern": r"\.py:"}]}


class Section(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CalibrateSection(Section):
    """What the network is calibrated on."""

    data: Filled = Field(
        examples=["images/"],
        description="Images or arrays like those that the network will meet: a folder, a list file "
        "or an `.npz`.",
    )
    method: Choice = Field(
        default="auto",
        description="How ranges are chosen; `auto` takes the method that is best for the network.",
    )
    images: PositiveInt | None = Field(
        default=None, examples=[500],
        description="How many samples; all if not given.",
    )  # fmt: skip
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="Seed by which samples are chosen.")
    _given: Data = PrivateAttr(None)

    @property
    def source(self) -> Data:
        """The data: what Python gave, or where they are."""
        return self.data if self._given is None else self._given


class QuantizeSection(Section):
    """How the graphs in integers are made."""

    weights: WeightType | None = Field(
        default=None, examples=["int8"],
        description="Store the weights of MatMul and Gemm in this type, rounded on the calibration "
        "data, and leave activations in float. Without it INT8 graphs are made.",
    )  # fmt: skip
    block: PositiveInt | None = Field(
        default=None, examples=[32],
        description="How many such weights along the input axis share a scale; the target's own "
        "number if not given.",
    )  # fmt: skip
    improve: tuple[Improvement, ...] = Field(
        default=IMPROVEMENTS,
        description="Methods that make INT8 and FP8 lose less, on the calibration data; `[]` "
        "applies none.",
    )
    budget: str | None = Field(
        default=None, examples=["miou=0.3"],
        description="`METRIC=DROP` to stay in, on the validation data, with as few layers in float "
        "as that takes. Without it everything is in INT8, or FP8.",
    )  # fmt: skip
    trials: PositiveInt = Field(
        default=24, description="How many mixes a search within the budget may try."
    )
    float: dict[TargetName, Floats] = Field(
        default_factory=dict, examples=[{"tensorrt": "fp16"}],
        description="What each target's float layers run in, where not `fp32`: `fp16` for "
        "tensorrt, `bf16` for openvino.",
    )  # fmt: skip

    @field_validator("budget")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                read_budget(value)
        except InputError as error:
            raise ValueError(str(error).removeprefix(f"--budget {value}: ")) from error
        return value


class ValidateSection(Section):
    """What the engines are validated on."""

    data: Filled | None = Field(
        default=None, examples=["validation/"],
        description="A folder, a list file or an `.npz`; with labels if there is a metric. Without "
        "it, as where it is that of `[calibrate]`, a quarter of the calibration data is kept for "
        "it.",
    )  # fmt: skip
    metric: Annotated[str | Function | None, WithJsonSchema(_OF_METRICS)] = Field(
        default=None, examples=["top1"],
        description="Task metric, or `FILE.py:FUNCTION`, whose file is run. Without it outputs "
        "alone are compared.",
    )  # fmt: skip
    classes: str | None = Field(
        default=None, examples=["camvid"],
        description="Classes of `miou` and `map`: `camvid`, `cityscapes` or a file. Without it "
        "those of `[postprocess]`, or as many as the output has channels, numbered.",
    )  # fmt: skip
    output: str | None = Field(
        default=None, examples=["prob:0"],
        description="Output that the metric looks at. Without it that of `[postprocess]`, or the "
        "first.",
    )  # fmt: skip
    labels: Filled | None = Field(
        default=None, examples=["labels.json"],
        description="A file or folder of labels by image, where they do not stand beside the "
        "images.",
    )  # fmt: skip
    drop: float | None = Field(
        default=None, examples=[0.5],
        description="What the metric may lose in INT8, in its unit. Without it 1 % of its scale, "
        "or of the original's value.",
    )  # fmt: skip
    images: PositiveInt | None = Field(
        default=None, examples=[200], description="How many samples; all if not given."
    )
    _given: Data = PrivateAttr(None)

    @field_validator("metric")
    @classmethod
    def _there_is_such_a_metric(cls, value: str | Function | None) -> str | Function | None:
        if isinstance(value, str) and not is_function_path(value) and value not in METRICS:
            raise ValueError(
                f"no metric is called {value!r}; {nearest(value, METRICS)}, or name a function of "
                "your own as FILE.py:FUNCTION"
            )
        return value

    @property
    def source(self) -> Data:
        """The data: what Python gave, or where they are; None where there are none of their own."""
        return self.data if self._given is None else self._given


class BenchSection(Section):
    """How latency is measured."""

    batches: tuple[PositiveInt, ...] = Field(
        default=(1,), description="Images in one inference, each size by itself."
    )
    rounds: PositiveInt = Field(default=5, description="How often the engines take turns.")
    runs: PositiveInt = Field(default=10, description="Inferences in a turn.")


class Recipe(Section):
    """A whole deployment: the model, how it is opened, and what to build of it."""

    model: Filled = Field(
        examples=["model.pb"],
        description="A frozen TensorFlow graph, SavedModel or checkpoint, a Keras or TFLite file, "
        "a PyTorch program (`.pt2`), a Caffe prototxt or an ONNX file.",
    )
    weights: Filled | None = Field(
        default=None, examples=["model.caffemodel"], description="Weights of a Caffe network."
    )
    inputs: str | None = Field(
        default=None, examples=["image:0[1,224,224,3]"],
        description="Tensors at which the network begins, with their shapes. Without it the "
        "model's own.",
    )  # fmt: skip
    outputs: str | None = Field(
        default=None, examples=["score:0,prob:0"],
        description="Tensors at which the network ends. Without it the model's own.",
    )  # fmt: skip
    set: tuple[str, ...] = Field(
        default=(), examples=[["is_training=false"]],
        description="Placeholders or constants of a TensorFlow graph to set.",
    )  # fmt: skip
    signature: str | None = Field(
        default=None, examples=["serving_default"],
        description="Signature of a SavedModel or TFLite file.",
    )  # fmt: skip
    freeze_batchnorm: bool = Field(
        default=False,
        description="Run batch normalizations that are in training mode with the statistics that "
        "they store.",
    )
    opset: PositiveInt | None = Field(
        default=None, examples=[17], description="Opset of the ONNX graph; chosen if not given."
    )
    io_layout: IoLayout = Field(
        default="keep",
        description="Layout of 4-D inputs and outputs: `nchw` and `nhwc` change it.",
    )
    targets: tuple[TargetName, ...] = Field(
        default=DEFAULT_TARGETS, description="What to build for."
    )
    keep_float: tuple[str, ...] = Field(
        default=(), examples=[["prob"]], description="Layers that stay in float."
    )
    preprocess: Preprocess = Field(
        default_factory=Preprocess,
        description="From an image file to what the network is fed. Without the table, what the "
        "model tells is assumed, and told.",
    )
    postprocess: Postprocess = Field(
        default_factory=Postprocess, description="What the outputs mean."
    )
    calibrate: CalibrateSection = Field(description="What the network is calibrated on.")
    quantize: QuantizeSection = Field(
        default_factory=QuantizeSection, description="How the graphs in integers are made."
    )
    build: BuildSection = Field(
        default_factory=BuildSection, description="How the engines are built."
    )
    validation: ValidateSection = Field(
        alias="validate", default_factory=ValidateSection,
        description="What the engines are validated on.",
    )  # fmt: skip
    bench: BenchSection = Field(
        default_factory=BenchSection, description="How latency is measured."
    )
    _file: Path | None = PrivateAttr(None)
    # No field: what is trusted is named on the command line, and not by a file.
    _trust: Trust = PrivateAttr(False)

    @model_validator(mode="after")
    def _fits_the_targets(self) -> Self:
        """Refuse what no target of the recipe takes: a key without effect would mislead."""
        for place, told in (*self.build.misfits(self.targets), *self._idle()):
            raise Misfit(place, told)
        return self

    def _idle(self) -> list[tuple[tuple[str, ...], str]]:
        """Return the keys of ``[quantize]`` that nothing is done with, each with the reason."""
        table = self.quantize
        found: list[tuple[tuple[str, ...], str]] = []
        quantized = [target for target in self.targets if self.build.quantizes(target)]
        for target in table.float:
            place, kind = ("quantize", "float", target), table.float[target]
            if target not in self.targets:
                found.append((place, f"the recipe does not build for {target}: add it to targets"))
            elif target not in quantized:
                found.append((place, (
                    f"nothing is in INT8 for {target}, whose precision in [build] is "
                    f"{self.build.precision_of(target)}: leave one of them out"
                )))  # fmt: skip
            elif kind not in ("fp32", *find_target(target).floats):
                able = ", ".join(("fp32", *find_target(target).floats))
                found.append((place, f"{target} does not compute in {kind} here; it takes {able}"))
        others = {
            "budget": table.budget is not None, "improve": "improve" in table.model_fields_set,
            "a precision in [build]": any(
                self.build.format_of(target) != "int8" for target in self.targets
            ),
        }  # fmt: skip
        try:
            check_weights(table.weights, table.block, others)
        except InputError as error:
            key = "block" if table.weights is None else "weights"
            found.append((("quantize", key), str(error).replace("--", "")))
        if table.budget is not None and not quantized:
            found.append((("quantize", "budget"), "nothing is in INT8: [build] says otherwise"))
        return found

    @property
    def file(self) -> Path | None:
        """The file that it was read from, if there is one."""
        return self._file

    @property
    def original(self) -> Original:
        """The model, and how it is opened."""
        return Original.of(
            self.model,
            weights=self.weights,
            inputs=self.inputs,
            outputs=self.outputs,
            values=self.set,
            signature=self.signature,
            freeze_batchnorm=self.freeze_batchnorm,
            trust=self._trust,
        )
