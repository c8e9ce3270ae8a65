"""The recipe by which an image becomes what the network was trained on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np

from onnxgraft.data.boxes import FRACTIONS
from onnxgraft.data.declared import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from onnxgraft.data.functions import Function
from onnxgraft.data.image_header import Form
from onnxgraft.data.images import read_label, read_picture
from onnxgraft.data.orientation import turn_boxes
from onnxgraft.data.placement import Box, Placement, Plan, centred, fitted, inner, shortened
from onnxgraft.data.presets import PRESETS
from onnxgraft.data.resampling import Interpolation, antialiased, plain
from onnxgraft.errors import InputError, nearest
from onnxgraft.files.remote import File
from onnxgraft.graph.tensors import Array, TensorSpec

__all__ = ["Preprocess", "turned_notes"]

# What YOLO fills a letterbox with; and what label images are filled with, which is no class.
_GRAY, _NO_CLASS = 114, 255
# Ways of saying one thing: what a recipe says takes the place of what a preset says.
_INSTEAD = {
    "resize": ("shorter_side",), "shorter_side": ("resize", "letterbox"), "crop": ("center_crop",),
    "center_crop": ("crop",),
}  # fmt: skip

_LETTERBOX = {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 255}]}

Level = Annotated[int, Field(ge=0, le=255)]
Size = tuple[PositiveInt, PositiveInt]


class Preprocess(BaseModel):
    """From a decoded image to the array that the network was trained on.

    In this order: the central fraction, resize, crop, pad, colour order, float32, minus ``mean``,
    times ``scale``, divided by ``std``, layout. A ``function`` is called after the colour order.
    Each key's description stands at its field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Annotated[str | None, WithJsonSchema({"enum": [*PRESETS]})] = Field(
        default=None,
        examples=["keras"],
        description="Named pipeline that sets the other keys, where they are not given.",
    )
    central_fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        examples=[0.875],
        description="Cut the image to this part of its sides, in the middle, before the resize.",
    )
    resize: Size | Literal["input"] | None = Field(
        default=None,
        examples=[[224, 224]],
        description="Height and width in pixels, or `input`: what the model takes. Without it the "
        "image keeps its own.",
    )
    shorter_side: PositiveInt | None = Field(
        default=None,
        examples=[256],
        description="In place of `resize`: resize so that the shorter side has so many pixels.",
    )
    interpolation: Interpolation = Field(
        default="bilinear", description="Interpolation of the resize."
    )
    antialias: bool = Field(
        default=False,
        description="Let the resize look at all pixels (bilinear and bicubic), as Pillow does.",
    )
    rounded: bool = Field(
        default=True,
        description="Whether a resize gives whole levels, as OpenCV and Pillow do; TensorFlow does "
        "not.",
    )
    letterbox: Annotated[Level | None, WithJsonSchema(_LETTERBOX)] = Field(
        default=None,
        examples=[True],
        description="The resize keeps the image's proportions, and fills what is left on both "
        "sides with this value of 0 to 255; true takes 114, as YOLO does. Without it the image is "
        "stretched.",
    )
    crop: tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt] | None = Field(
        default=None,
        examples=[[16, 16, 224, 224]],
        description="Top, left, height and width in pixels after the resize. Without it all is "
        "kept.",
    )
    center_crop: Size | Literal["input"] | None = Field(
        default=None,
        examples=[[224, 224]],
        description="In place of `crop`: height and width in the middle, or `input`.",
    )
    pad: Size | None = Field(
        default=None,
        examples=[[640, 640]],
        description="Height and width to which the picture is filled up, below and on the right.",
    )
    pad_value: Level = Field(default=0, description="What `pad` fills up with, 0 to 255.")
    color: Literal["bgr", "rgb", "gray"] = Field(
        default="bgr", description="Order of the channels that the network wants."
    )
    mean: tuple[float, ...] = Field(
        default=(0.0,),
        examples=[[123.675, 116.28, 103.53]],
        description="Mean that is subtracted: per channel in that order, or one for all, 0 to 255.",
    )
    scale: tuple[float, ...] = Field(
        default=(1.0,),
        examples=[[0.017]],
        description="Factor after the mean, per channel or one for all.",
    )
    std: tuple[float, ...] = Field(
        default=(1.0,),
        examples=[[58.395, 57.12, 57.375]],
        description="Standard deviation that pixels are divided by, likewise, in 0 to 255.",
    )
    layout: Literal["auto", "nhwc", "nchw"] = Field(
        default="auto", description="Layout of the input; `auto` takes what fits the model."
    )
    function: Function | None = Field(
        default=None,
        examples=["prepare.py:prepare"],
        description="`FILE.py:FUNCTION` in place of mean, scale and std: takes the (height, width, "
        "channels) pixels, uint8 in RGB where `color` does not say otherwise, and returns what is "
        "fed. Of data that are no image files it takes what an entry holds for the inputs.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("function") is not None:
            values = {"color": "rgb", **values}
        name = values.get("preset")
        if not isinstance(name, str) or name not in PRESETS:
            return values
        keys = dict(PRESETS[name].keys)
        for said, others in _INSTEAD.items():
            if values.get(said) is not None:
                for other in others:
                    keys.pop(other, None)
        return {**keys, **values}

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESETS:
            raise ValueError(f"no preset is called {value!r}; {nearest(value, PRESETS)}")
        return value

    @field_validator("letterbox", mode="before")
    @classmethod
    def _usual_gray(cls, value: object) -> object:
        return (_GRAY if value else None) if isinstance(value, bool) else value

    @field_validator("mean", "scale", "std", mode="before")
    @classmethod
    def _one_for_all(cls, value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (value,) if number else value

    @field_validator("std")
    @classmethod
    def _of_levels(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not abs(deviation) >= 1 for deviation in value):
            raise ValueError(
                "the standard deviation is one of pixels of 0 to 255, as mean is; multiply those "
                "of pixels of 0 to 1 by 255"
            )
        return value

    @model_validator(mode="after")
    def _in_agreement(self) -> Self:
        if self.letterbox is not None and self.resize is None:
            raise ValueError("letterbox is how the resize is done: set resize = [height, width]")
        if self.resize is not None and self.shorter_side is not None:
            raise ValueError("resize and shorter_side say the same: give one of them")
        if self.crop is not None and self.center_crop is not None:
            raise ValueError("crop and center_crop say the same: give one of them")
        if self.antialias and self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError("antialias is for bilinear and bicubic; area looks at all pixels")
        plain = (self.mean, self.scale, self.std) == ((0.0,), (1.0,), (1.0,))
        if self.function is not None and not plain:
            raise ValueError("a function takes the place of mean, scale and std: leave them out")
        return self

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the recipe, as hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def image(self, path: File) -> Array:
        """Return the image file as (height, width, channels) float32."""
        return self.picture(path)[0]

    def picture(self, path: File) -> tuple[Array, Form | None, tuple[int, int]]:
        """Return what `image` does; how the image is stored where that is known; its upright size.

        The size is (width, height).
        """
        pixels, form = read_picture(path, gray=self.color == "gray")
        size = pixels.shape[1], pixels.shape[0]
        try:
            return self.prepared(pixels), form, size
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def prepared(self, pixels: Array) -> Array:
        """Return what is fed of the (height, width, channels) uint8 pixels of a picture.

        Args:
            pixels: As it is to be seen, in BGR, or gray where the recipe says so.
        """
        pixels = self.seen(pixels)
        if self.color == "rgb":
            pixels = pixels[:, :, ::-1]
        if self.function is None:
            return self.normalized(pixels)
        return self._called(np.ascontiguousarray(pixels))

    def seen(self, pixels: Array) -> Array:
        """Return pixels cut, resized and padded: what the network sees, before means and scales."""
        plan = self.plan(pixels.shape[1], pixels.shape[0])
        frame = 0 if self.letterbox is None else self.letterbox
        return plan.make(pixels, self._resized, frame, self.pad_value)

    @property
    def told(self) -> str:
        """What a picture becomes, in a phrase."""
        size = "the image's own size"
        if self.shorter_side is not None:
            size = f"a shorter side of {self.shorter_side}"
        elif self.resize is not None:
            size = "the input's size" if self.resize == "input" else "{}x{}".format(*self.resize)
            size += ", letterboxed" if self.letterbox is not None else ""
        if self.center_crop is not None:
            cut = self.center_crop
            size += ", cut to the middle of " + (
                "the input's size" if cut == "input" else "{}x{}".format(*cut)
            )
        channels = 1 if self.color == "gray" else 3
        low, high = (self.normalized(np.full((1, 1, channels), level)) for level in (0, 255))
        levels = f"{low.min():.4g} to {high.max():.4g}"
        named = f" (the preset {self.preset})" if self.preset else ""
        return f"{self.color.upper()} of {levels} in {size}{named}"

    @property
    def cuts(self) -> bool:
        """Whether a part of the image is cut off."""
        return (self.crop, self.center_crop, self.central_fraction) != (None, None, None)

    @property
    def factors(self) -> tuple[float, ...]:
        """What a pixel is multiplied by after the mean: the scale over the std."""
        count = max(len(self.scale), len(self.std))
        both = (self.scale * count, self.std * count)
        return tuple(scale / std for scale, std, _ in zip(*both, range(count), strict=False))

    def pixels(self, made: Array) -> Array:
        """Return the BGR or gray pixels of a picture that `normalized` made, as float32."""
        found = made / np.asarray(self.factors, np.float32) + np.asarray(self.mean, np.float32)
        return found[:, :, ::-1] if self.color == "rgb" else found

    def sized(self, spec: TensorSpec) -> Preprocess:
        """Return the recipe with the height and width of an input, where it says ``input``.

        Raises:
            InputError: The input is of no picture, or leaves them free.
        """
        keys = [key for key in ("resize", "center_crop") if getattr(self, key) == "input"]
        if not keys:
            return self
        channels, shape = 1 if self.color == "gray" else 3, spec.shape[-3:]
        first = len(shape) == 3 and (
            self.layout == "nchw"
            or (self.layout == "auto" and shape[0] == channels and shape[2] != channels)
        )
        size = shape[1:] if first else shape[:2]
        if len(spec.shape) not in (3, 4) or not all(isinstance(side, int) for side in size):
            raise InputError(
                f'[preprocess] {keys[0]} = "input": {spec} has no fixed height and width; write '
                f"{keys[0]} = [height, width]"
            )
        return self.model_copy(update=dict.fromkeys(keys, size))

    def plan(self, width: int, height: int) -> Plan:
        """Return what becomes of an image, as it is to be seen.

        Raises:
            InputError: It is smaller than what is cut from it, or larger than what it is padded to.
        """
        whole = height, width
        cut = Box.whole(whole)
        if self.central_fraction is not None:
            cut = inner(whole, self.central_fraction)
        size = room = cut.height, cut.width
        if self.shorter_side is not None:
            size = room = shortened(*size, self.shorter_side)
        elif self.resize is not None:
            room = _known("resize", self.resize)
            size = room if self.letterbox is None else fitted(*size, room)
        at = (room[0] - size[0]) // 2, (room[1] - size[1]) // 2
        crop = Box.whole(room)
        if self.crop is not None:
            crop = Box(*self.crop)
        elif self.center_crop is not None:
            crop = centred(room, _known("center_crop", self.center_crop))
        top, left, rows, columns = crop
        if min(top, left) < 0 or top + rows > room[0] or left + columns > room[1]:
            raise InputError(
                f"the recipe crops rows {top}..{top + rows - 1} and columns "
                f"{left}..{left + columns - 1} from an image of {room[0]}x{room[1]} "
                "(height x width)"
            )
        pad = self.pad or (rows, columns)
        if pad[0] < rows or pad[1] < columns:
            raise InputError(
                f"the recipe pads to {pad[0]}x{pad[1]}, and the image has {rows}x{columns} "
                "(height x width)"
            )
        return Plan(cut, size, room, at, crop, pad)

    def placement(self, width: int, height: int) -> Placement:
        """Return where an image, as it is to be seen, lies in the picture that is made of it."""
        return self.plan(width, height).placement

    def normalized(self, pixels: Array) -> Array:
        """Return (height, width, channels) float32: minus the mean, times the scale, by the std."""
        channels = pixels.shape[2]
        for name in ("mean", "scale", "std"):
            values = getattr(self, name)
            if len(values) not in (1, channels):
                raise InputError(
                    f"the recipe's {name} has {len(values)} values, the image {channels} channels"
                )
        centred = pixels.astype(np.float32) - np.asarray(self.mean, np.float32)
        if self.scale != (1.0,):
            centred *= np.asarray(self.scale, np.float32)
        if self.std != (1.0,):
            centred /= np.asarray(self.std, np.float32)
        return centred

    def _called(self, pixels: Array) -> Array:
        """Return what the user's function makes of pixels."""
        assert self.function is not None
        call = self.function.call
        try:
            return np.asarray(call(pixels))
        except Exception as error:  # it is the user's own
            raise InputError(
                f"the preprocessing {self.function} failed on pixels of {pixels.shape}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def label(self, path: File, photograph: Form | None = None) -> Array:
        """Return the label image as (height, width) uint8: turned, resized, cropped as the image.

        Args:
            path: Of the label image.
            photograph: How the image is stored.
        """
        pixels = read_label(path, photograph)
        plan = self.plan(pixels.shape[1], pixels.shape[0])
        return plan.make(pixels, _nearest, _NO_CLASS, _NO_CLASS)[:, :, 0]

    def boxes(self, boxes: Array, photograph: Form) -> Array:
        """Return (boxes, 5) labels of an image as they are in the picture that the network sees.

        Boxes of the stored picture are turned with it: fractions of it, and its pixels. Pixels of a
        resized picture, and whatever is of a cropped one, can't be of the stored one and stay.

        Args:
            boxes: Rows of [class, x1, y1, x2, y2].
            photograph: How the image is stored.
        """
        corners = boxes[boxes[:, 0] >= 0, 1:]
        if photograph.orientation == 1 or self.cuts or not corners.size:
            return boxes
        if corners.max() < FRACTIONS:
            return turn_boxes(boxes, photograph.orientation, 1.0, 1.0)
        size = photograph.width, photograph.height
        beyond = (corners.reshape(-1, 2).max(0) > size).any()
        resized = self.resize is not None or self.shorter_side is not None
        if resized or (photograph.orientation > 4 and beyond):
            return boxes
        return turn_boxes(boxes, photograph.orientation, *size)

    def notes(self, forms: Mapping[Form, int]) -> list[str]:
        """Return a sentence on each way in which images differ from what the recipe expects.

        Args:
            forms: How many images are stored in which form.
        """
        total = sum(forms.values())
        sizes = Counter[tuple[int, int]]()
        for form, count in forms.items():
            sizes[form.upright] += count
        notes = turned_notes(sum(n for form, n in forms.items() if form.orientation != 1), total)
        if len(sizes) > 1:
            (usual, _), *others = sizes.most_common()
            told = ", ".join(f"{w}x{h} ({count})" for (w, h), count in others[:4])
            told += ", ..." if len(others) > 4 else ""
            done = "used them as they are"
            if self.shorter_side is not None:
                done = f"resized all so that the shorter side is {self.shorter_side}"
            elif self.resize is not None:
                rows, columns = _known("resize", self.resize)
                done = f"resized all to {columns}x{rows}"
                done += ", letterboxed" if self.letterbox is not None else ""
            elif self.crop is not None or self.center_crop is not None:
                done = "cropped all by the same rows and columns, without a resize"
            notes.append(
                f"{sum(count for _, count in others)} of {total} images are not {usual[0]}x"
                f"{usual[1]} (width x height) as most are, but {told}; the recipe {done}"
            )
        gray = sum(n for form, n in forms.items() if form.channels < 3 and self.color != "gray")
        alpha = sum(n for form, n in forms.items() if form.channels in (2, 4))
        deep = sum(n for form, n in forms.items() if form.bits > 8)
        for count, what in (
            (gray, f"gray; the recipe wants {self.color}, so the channel was repeated"),
            (alpha, "partly transparent; transparency was ignored"),
            (deep, "stored with more than 8 bits a channel; they were reduced to 8"),
        ):
            if count:
                notes.append(f"{count} of {total} images are {what}")
        return notes

    def _resized(self, pixels: Array, size: tuple[int, int]) -> Array:
        if not self.rounded:
            pixels = pixels.astype(np.float32)
        if self.antialias and self.interpolation in ("bilinear", "bicubic"):
            return antialiased(pixels, size, self.interpolation)
        return plain(pixels, size, self.interpolation)


def _nearest(pixels: Array, size: tuple[int, int]) -> Array:
    return plain(pixels, size, "nearest")


def _known(key: str, size: tuple[int, int] | str) -> tuple[int, int]:
    """Return a size that is known; ``input`` is one of a model that was not asked yet."""
    if isinstance(size, str):
        raise InputError(f'[preprocess] {key} = "input" is not known yet; write [height, width]')
    return size


def turned_notes(turned: int, total: int, labels: str = "") -> list[str]:
    """Return the sentence on images that were turned, if there are any."""
    if not turned:
        return []
    return [f"{turned} of {total} images were turned as their EXIF orientation says{labels}"]
