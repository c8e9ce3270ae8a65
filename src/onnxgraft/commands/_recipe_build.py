"""``[build]``: how the engines are built; which keys a target has follows from the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    WithJsonSchema,
    create_model,
)

from onnxgraft.errors import InputError, nearest
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.options import Hint
from onnxgraft.targets import FORMATS, TARGETS, Format, Precision, Target, find_target
from onnxgraft.targets.cpu import CPUS, Cpu, find_cpu
from onnxgraft.targets.devices import find_provider

__all__ = ["BuildSection", "Misfit", "TargetSection", "in_keys"]

# A key's place, and why it can't stay there.
Misplaced = tuple[tuple[str, ...], str]

_SHAPES = dict[str, tuple[PositiveInt, ...]]
_MIB = 20  # of bytes, in bits


class Misfit(ValueError):
    """A key does not fit what other tables of the recipe say."""

    def __init__(self, place: tuple[str, ...], told: str) -> None:
        super().__init__(told)
        self.place = place


def _within(path: str) -> str:
    """Refuse a file that a stranger's recipe could have overwritten."""
    file = PurePath(path)
    if file.is_absolute() or ".." in file.parts or file.suffix not in (".cache", ".timing"):
        raise ValueError(
            f"{path!r} is written to: name a .cache or .timing file in the recipe's folder"
        )
    return path


def _known_cpu(name: str) -> str:
    if name not in CPUS:
        raise ValueError(f"no CPU is called {name!r}; {nearest(name, CPUS)}")
    return name


def _known_provider(given: str) -> str:
    try:
        find_provider(given)
    except InputError as error:
        raise ValueError(str(error).replace("--provider ", "")) from error
    return given


ProviderName = Annotated[str, AfterValidator(_known_provider)]
CpuName = Annotated[str, AfterValidator(_known_cpu), WithJsonSchema({"enum": [*CPUS]})]


class TargetSection(BaseModel):
    """How the engine of one target is built."""

    model_config = ConfigDict(extra="forbid")

    precision: Precision | None = Field(
        default=None, examples=["fp32"],
        description="`int8` quantizes, and `fp8` where the target runs it; with any other nothing "
        "is quantized, and the whole engine runs in it. Without it that of `[build]`. Float layers "
        "beside quantized ones have their precision from `[quantize] float`.",
    )  # fmt: skip
    shapes: _SHAPES = Field(
        default_factory=dict, examples=[{"image": [1, 3, 480, 640]}],
        description="For inputs with free dimensions, the shape to optimize for.",
    )  # fmt: skip
    min_shapes: _SHAPES = Field(
        default_factory=dict, examples=[{"image": [1, 3, 240, 320]}],
        description="For inputs in `shapes`, the smallest shape that can be run.",
    )  # fmt: skip
    max_shapes: _SHAPES = Field(
        default_factory=dict, examples=[{"image": [8, 3, 960, 1280]}],
        description="For inputs in `shapes`, the largest shape that can be run.",
    )  # fmt: skip
    batches: tuple[PositiveInt, ...] = Field(
        default=(1, 16), min_length=1,
        description="For a free batch, the batches to tune for, each with a profile; any up to the "
        "largest can be run.",
    )  # fmt: skip
    hint: Hint = Field(
        default="latency",
        description="What to be fast at: a single image, or many images.",
    )
    device: str | None = Field(
        default=None, examples=["GPU"],
        description="Device that the engine is for: `CPU`, `GPU`, `GPU.1`, `NPU`; `AUTO` or "
        "`AUTO:GPU,CPU` for the one that OpenVINO chooses; `HETERO:GPU,CPU`. The CPU if not given.",
    )  # fmt: skip
    provider: ProviderName | None = Field(
        default=None, examples=["cuda"],
        description="Execution provider that runs the engine, with a device behind it as in "
        "`cuda:1` or `openvino:GPU`. The CPU's own if not given.",
    )  # fmt: skip
    threads: PositiveInt | None = Field(
        default=None, examples=[4], description="Threads of the CPU; all if not given."
    )
    workspace: PositiveInt | None = Field(
        default=None, examples=[2048],
        description="GPU memory that a layer may use for scratch, in MiB; no limit if not "
        "given.",
    )  # fmt: skip
    level: Annotated[NonNegativeInt, Field(le=5)] | None = Field(
        default=None, examples=[3],
        description="Optimization level of the builder, 0 to 5; the library's own if not given.",
    )  # fmt: skip
    timing_cache: Annotated[str, AfterValidator(_within)] | None = Field(
        default=None, examples=["timings.cache"],
        description="File (`.cache` or `.timing`) in the recipe's folder in which timings of "
        "layers are kept from build to build; one in the user's cache folder if not given.",
    )  # fmt: skip
    version_compatible: bool = Field(
        default=False, description="The engine runs in later versions of the library."
    )


def _option_of(key: str) -> str | None:
    """Return the field of `BuildOptions` that a key sets: that with the same name as an option."""
    flag = f"--{key.replace('_', '-')}"
    return next((each.name for each in fields(BuildOptions) if each.metadata["flag"] == flag), None)


def in_keys(told: str) -> str:
    """Return what the building says of its options, as a recipe calls them."""
    for key in TargetSection.model_fields:
        told = told.replace(f"--{key.replace('_', '-')}", key)
    return told


def _section_of(target: Target) -> Any:
    """Return the table of a target: of the keys, those that it takes."""
    keys: dict[str, Any] = {}
    for name, field in TargetSection.model_fields.items():
        kind: Any = field.annotation
        if name == "precision":
            kind = Literal[(*target.formats, "fp32", *target.floats)] | None
        elif _option_of(name) not in target.options:
            continue
        keys[name] = (kind, field)
    return create_model(
        f"{target.name}Section", __config__=ConfigDict(extra="forbid"),
        __doc__=f"How engines for {target.title} are built.", **keys,
    )  # fmt: skip


class _BuildSection(BaseModel):
    """How the engines are built; each target has a table of its own in it."""

    model_config = ConfigDict(extra="forbid")

    precision: Precision = Field(
        default="int8",
        description="Precision of every target whose table says no other: `int8` and `fp8` "
        "quantize; with any other nothing is quantized, and the whole engine runs in it.",
    )
    cpu: CpuName | None = Field(
        default=None, examples=["avx512-vnni"],
        description="Processor that the engines of CPU targets are for; this machine's if it is "
        "not given.",
    )  # fmt: skip

    def precision_of(self, target: str) -> Precision:
        """Return what a target's engine is built in; quantized, it may have float layers beside."""
        own: Precision | None = getattr(getattr(self, target), "precision", None)
        return own or self.precision

    def format_of(self, target: str) -> Format | None:
        """Return what a target's quantized layers are in; None where it has none."""
        return next((kind for kind in FORMATS if kind == self.precision_of(target)), None)

    def quantizes(self, target: str) -> bool:
        """Tell whether a target's graph is quantized."""
        return self.format_of(target) is not None

    def cpu_of(self, target: str) -> Cpu:
        """Return the processor that a target's engine is for."""
        aim = find_target(target)
        if not self.options(target).on_cpu:
            return Cpu()
        return find_cpu(self.cpu) if self.cpu is not None and aim.on_cpu else aim.cpu()

    def options(self, target: str) -> BuildOptions:
        """Return what the target's table says."""
        section: BaseModel = getattr(self, target)
        given = {
            option: getattr(section, key)
            for key in section.model_fields_set
            if (option := _option_of(key)) is not None and key != "precision"
        }
        if given.get("workspace") is not None:
            given["workspace"] <<= _MIB
        if given.get("timing_cache") is not None:
            given["timing_cache"] = Path(given["timing_cache"])
        return replace(BuildOptions(), **given)

    def timing_caches(self) -> list[tuple[BaseModel, str]]:
        """Return the tables that name a file of timings, each with the name of the key."""
        sections = [getattr(self, target.name) for target in TARGETS]
        return [(each, "timing_cache") for each in sections if hasattr(each, "timing_cache")]

    def misfits(self, targets: Sequence[str]) -> list[Misplaced]:
        """Return the keys that none of the targets that are built takes, each with the reason."""
        found: list[Misplaced] = []
        for target in TARGETS:
            name = target.name
            if name not in targets and getattr(self, name).model_fields_set:
                found.append((("build", name), (
                    f"the recipe does not build for {name}: add it to targets, or leave the table "
                    "out"
                )))  # fmt: skip
        if self.cpu is not None and not any(find_target(name).on_cpu for name in targets):
            found.append((("build", "cpu"), f"{' and '.join(targets)} does not run on a CPU"))
        for name in targets:
            able = (*find_target(name).formats, "fp32", *find_target(name).floats)
            if self.precision_of(name) not in able:
                found.append((("build", "precision"), (
                    f"{name} is not built in {self.precision} here, but in {', '.join(able)}; say "
                    f"its own in [build.{name}]"
                )))  # fmt: skip
        return found


if TYPE_CHECKING:
    BuildSection = _BuildSection
else:
    BuildSection = create_model(
        "BuildSection", __base__=_BuildSection,
        **{
            target.name: (
                section := _section_of(target),
                Field(
                    default_factory=section,
                    description=f"How engines for {target.title} are built.",
                ),
            )
            for target in TARGETS
        },
    )  # fmt: skip
