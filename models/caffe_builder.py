"""A builder of Caffe networks: prototxt text, and random weights that fit it.

Each method of `Net` writes a layer and returns the blob that it makes. The net knows the shape of
every blob, as Caffe computes it, and an estimate of its spread, by which weights are drawn: so
activations stay of order one through any depth, and differ between positions and channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.caffe_prototxt import Syntax, Word, layer_text, prototxt
from models.caffemodel import Blobs, caffemodel

__all__ = ["Net", "Pair", "Recipe", "Source"]

Array = NDArray[np.float32]
Recipe = tuple[str, bytes]
Pair = int | tuple[int, int]
Source = Literal["input_dim", "input_shape", "Input", "Data"]

# By what the sum of a batch norm's statistics was divided when it was stored: a fresh net, an old.
_FACTORS = (0.5, 999.98, 1.0)


def _pair(value: Pair) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _sides(field: str, short: str, value: Pair, default: int) -> dict[str, int]:
    """Return a field as Caffe has it: one number for both sides, or one for each."""
    if isinstance(value, tuple):
        return {f"{short}_h": value[0], f"{short}_w": value[1]}
    return {} if value == default else {field: value}


class Net:
    """A network under construction.

    Args:
        name: Of the net.
        shape: Of its input, ``data``, without the batch.
        source: How the input is declared. ``Data`` writes the net as it is trained: a data layer
            for each phase, then losses and accuracies.
        batch: The batch size that the input declares.
        width: What `wide` multiplies the number of channels by.
        syntax: V1 has ``layers`` with enumerated types, V0 ``layers { layer { ... } }``.
        filler: Of weights, if layers are to say learning rates and fillers.
        seed: Of the weights.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        source: Source = "input_dim",
        batch: int = 1,
        width: float = 1,
        syntax: Syntax = "current",
        filler: str = "",
        seed: int = 0,
    ) -> None:
        self.shapes = {"data": shape}
        self.trained = source == "Data"
        self._spread = {"data": 1.0}
        self._name, self._width, self._syntax, self._filler = name, width, syntax, filler
        self._random = np.random.default_rng(seed)
        self._blobs: dict[str, Blobs] = {}
        self._text = [prototxt({"name": name})]
        dims = {"dim": [batch, *shape]}
        if source == "input_dim":
            self._text.append(prototxt({"input": "data", "input_dim": dims["dim"]}))
        elif source == "input_shape":
            self._text.append(prototxt({"input": "data", "input_shape": dims}))
        elif source == "Input":
            self._emit("Input", "data", [], ["data"], {"input_param": {"shape": dims}})
        else:
            for phase, rows in (("TRAIN", 4 * batch), ("TEST", batch)):
                self._data_layer(phase, rows)

    def _data_layer(self, phase: str, batch: int) -> None:
        fields = {
            "include": {"phase": Word(phase)},
            "transform_param": {
                "mirror": phase == "TRAIN",
                "crop_size": self.shapes["data"][-1],
                "mean_file": "data/ilsvrc12/imagenet_mean.binaryproto",
            },
            "data_param": {
                "source": f"examples/imagenet/ilsvrc12_{phase.lower()}_lmdb",
                "batch_size": batch,
                "backend": Word("LMDB"),
            },
        }
        self._emit("Data", "data", [], ["data", "label"], fields)

    def recipe(self) -> Recipe:
        """Return the prototxt and the bytes of the caffemodel."""
        return "".join(self._text), caffemodel(self._blobs, self._name)

    def wide(self, channels: int) -> int:
        """Return ``channels`` of the published net, thinned to a multiple of eight."""
        thin = max(8, 8 * round(channels * self._width / 8))
        return channels if self._width == 1 else thin

    def forget(self, layer: str) -> None:
        """Leave the weights of a layer out of the caffemodel."""
        del self._blobs[layer]

    def draw(self, low: float, high: float, *shape: int) -> Array:
        """Return uniform numbers."""
        return self._random.uniform(low, high, shape).astype(np.float32)

    # -- Layers ----------------------------------------------------------------------------------

    def layer(
        self,
        kind: str,
        name: str,
        bottoms: str | Sequence[str],
        *,
        top: str | Sequence[str] = "",
        shape: tuple[int, ...] = (),
        spread: float = 0,
        blobs: Sequence[Array] = (),
        **fields: Any,
    ) -> str:
        """Write a layer of any type; its top is named like it, shaped and spread like its bottom.

        The fields are those of the prototxt, in its order.
        """
        bottoms = [bottoms] if isinstance(bottoms, str) else list(bottoms)
        tops = [top or name] if isinstance(top, str) else list(top)
        for blob in tops:
            self.shapes[blob] = shape or self.shapes[bottoms[0]]
            self._spread[blob] = spread or self._spread[bottoms[0]]
        if blobs:
            self._blobs[name] = (kind, blobs)
        if blobs and self._filler and self._syntax == "current" and "param" not in fields:
            rates = [{"lr_mult": n, "decay_mult": 2 - n} for n in (1, 2)]
            fields = {"param": rates[: len(blobs)], **fields}
        self._emit(kind, name, bottoms, tops, fields, weighted=len(blobs))
        return tops[0]

    def _emit(
        self,
        kind: str,
        name: str,
        bottoms: list[str],
        tops: list[str],
        fields: Mapping[str, Any],
        weighted: int = 0,
    ) -> None:
        text = layer_text(self._syntax, kind, name, bottoms, tops, fields, weighted)
        self._text.append(text)

    def _weights(self, shape: tuple[int, ...], bottom: str, gain: float) -> Array:
        """Return He's weights for the spread of ``bottom``, each filter with a mean of zero.

        So what all inputs have in common, which grows with each ReLU, is not handed on.
        """
        fan_in = prod(shape[1:])
        weights = self._random.standard_normal(shape)
        if fan_in >= 8:
            weights -= weights.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        return (weights * (gain / (sqrt(fan_in) * self._spread[bottom]))).astype(np.float32)

    def _parameters(self, weights: Array, outputs: int, bias: bool, gain: float) -> list[Array]:
        blobs = [weights]
        if bias:
            blobs.append((0.1 * gain * self._random.standard_normal(outputs)).astype(np.float32))
        return blobs

    def _fillers(self, bias: bool) -> dict[str, Any]:
        if not self._filler:
            return {}
        weights: dict[str, Any] = {"type": self._filler}
        if self._filler == "gaussian":
            weights["std"] = 0.01
        fillers = {"weight_filler": weights}
        return fillers | ({"bias_filler": {"type": "constant", "value": 0.1}} if bias else {})

    def conv(
        self,
        name: str,
        bottom: str,
        outputs: int,
        kernel: Pair = 1,
        *,
        stride: int = 1,
        pad: Pair = 0,
        dilation: int = 1,
        group: int = 1,
        bias: bool = True,
        gain: float = 1,
        kind: str = "Convolution",
        **extra: Any,
    ) -> str:
        """Write a convolution whose outputs have a spread of ``gain``."""
        channels, *size = self.shapes[bottom]
        weights = self._weights((outputs, channels // group, *_pair(kernel)), bottom, gain)
        windows = zip(size, _pair(kernel), _pair(pad), strict=True)
        shape = [(n + 2 * p - dilation * (k - 1) - 1) // stride + 1 for n, k, p in windows]
        by_type = kind != "Convolution"  # the type says that there are as many groups as channels
        options: dict[str, Any] = {"num_output": outputs}
        options |= {} if bias else {"bias_term": False}
        if self._syntax == "V0" and pad:
            bottom = self.layer("padding", f"{name}/pad", bottom, padding={"pad": pad})
        else:
            options |= _sides("pad", "pad", pad, 0)
        options |= _sides("kernel_size", "kernel", kernel, 0)
        for field, value in (("stride", stride), ("dilation", dilation), ("group", group)):
            if value != 1 and not (by_type and field == "group"):
                options[field] = value
        options |= extra | self._fillers(bias)
        return self.layer(
            kind, name, bottom, shape=(outputs, *shape), spread=gain,
            blobs=self._parameters(weights, outputs, bias, gain), convolution_param=options,
        )  # fmt: skip

    def deconv(
        self,
        name: str,
        bottom: str,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        pad: int = 0,
        bias: bool = False,
        bilinear: bool = False,
        gain: float = 1,
    ) -> str:
        """Write a deconvolution; ``bilinear`` interpolates each channel by itself."""
        channels, *size = self.shapes[bottom]
        group = channels if bilinear else 1
        if bilinear:
            half = ceil(kernel / 2)
            ramp = 1 - np.abs(np.arange(kernel) / half - (2 * half - 1 - half % 2) / (2 * half))
            weights = np.tile(np.outer(ramp, ramp), (channels, 1, 1, 1)).astype(np.float32)
            gain = self._spread[bottom]
        else:
            # Of a kernel's places, one in stride x stride meets an output.
            weights = stride * self._weights((channels, outputs, kernel, kernel), bottom, gain)
            weights *= np.float32(sqrt(outputs / channels))
        shape = [stride * (n - 1) + kernel - 2 * pad for n in size]
        options: dict[str, Any] = {"num_output": outputs, "bias_term": bias}
        options |= _sides("pad", "pad", pad, 0) | {"kernel_size": kernel, "stride": stride}
        if bilinear:
            options |= {"group": group, "weight_filler": {"type": "bilinear"}}
        fixed: dict[str, Any] = {"param": {"lr_mult": 0}} if bilinear else {}
        return self.layer(
            "Deconvolution", name, bottom, shape=(outputs, *shape), spread=gain,
            blobs=self._parameters(weights, outputs, bias, gain), **fixed,
            convolution_param=options,
        )  # fmt: skip

    def pool(
        self,
        name: str,
        bottom: str,
        kernel: int = 0,
        stride: int = 1,
        *,
        pad: int = 0,
        method: Literal["MAX", "AVE"] = "MAX",
        mask: bool = False,
    ) -> str:
        """Write a pooling; kernel 0 pools the whole plane, ``mask`` makes ``NAME_mask``."""
        channels, *size = self.shapes[bottom]
        options: dict[str, Any] = {"pool": Word(method)}
        if not kernel:
            options["global_pooling"] = True
        else:
            options |= {"kernel_size": kernel} | _sides("stride", "stride", stride, 1)
            options |= _sides("pad", "pad", pad, 0)
        shape = []
        for n in size:
            out = ceil((n + 2 * pad - kernel) / stride) + 1 if kernel else 1
            shape.append(out - 1 if pad and (out - 1) * stride >= n + pad else out)
        window = min(kernel or size[0], size[0])
        kept = min(max(2 / window, 0.35), 1) if method == "AVE" else 1.1
        top = [name, f"{name}_mask"] if mask else name
        return self.layer(
            "Pooling", name, bottom, top=top, shape=(channels, *shape),
            spread=kept * self._spread[bottom], pooling_param=options,
        )  # fmt: skip

    def dense(self, name: str, bottom: str, outputs: int, *, gain: float = 1) -> str:
        """Write an InnerProduct."""
        weights = self._weights((outputs, prod(self.shapes[bottom])), bottom, gain)
        return self.layer(
            "InnerProduct", name, bottom, shape=(outputs,), spread=gain,
            blobs=self._parameters(weights, outputs, True, gain),
            inner_product_param={"num_output": outputs, **self._fillers(True)},
        )  # fmt: skip

    def relu(self, name: str, bottom: str, kind: str = "ReLU", kept: float = 0.58) -> str:
        """Write a ReLU in place, which keeps about so much of the spread."""
        return self.layer(kind, name, bottom, top=bottom, spread=kept * self._spread[bottom])

    def prelu(self, name: str, bottom: str) -> str:
        """Write a PReLU with a slope for each channel."""
        slopes = self.draw(0.05, 0.45, self.shapes[bottom][0])
        return self.layer("PReLU", name, bottom, spread=0.7 * self._spread[bottom], blobs=[slopes])

    def dropout(self, name: str, bottom: str, ratio: float = 0.5) -> str:
        """Write a Dropout in place."""
        return self.layer(
            "Dropout", name, bottom, top=bottom, dropout_param={"dropout_ratio": ratio}
        )

    def lrn(self, name: str, bottom: str) -> str:
        """Write AlexNet's local response normalization, which tells on values of order 100."""
        options = {"local_size": 5, "alpha": 1e-4, "beta": 0.75}
        return self.layer("LRN", name, bottom, lrn_param=options)

    def batch_norm(
        self,
        bottom: str,
        names: tuple[str, str],
        *,
        top: str = "",
        eps: float = 0,
        gain: float = 1,
        four: bool = False,
    ) -> str:
        """Write BatchNorm and Scale, by name, or the one BN of PSPNet's fork with ``four`` blobs.

        Both compute the same, with the same weights.
        """
        channels, spread = self.shapes[bottom][0], self._spread[bottom]
        mean = 0.2 * spread * self.draw(-1, 1, channels)
        variance = spread * spread * self.draw(0.5, 1.5, channels)
        slope = gain * self.draw(0.45, 1.3, channels)
        slope *= np.where(self.draw(0, 1, channels) < 0.25, np.float32(-1), np.float32(1))
        shift = gain * self.draw(-0.3, 0.3, channels)
        top = top or bottom
        if four:
            blobs = [blob.reshape(1, -1, 1, 1) for blob in (slope, shift, mean, variance)]
            rates = [{"lr_mult": n, "decay_mult": 0} for n in (1, 1, 0, 0)]
            options = {"moving_average": True, "decay": 0.05}
            return self.layer(
                "BN", names[0], bottom, top=top, spread=gain, blobs=blobs, param=rates,
                bn_param={"scale_filler": {"type": "constant", "value": 1}, **options},
            )  # fmt: skip
        factor = np.float32(_FACTORS[len(self._blobs) % len(_FACTORS)])
        options = {"use_global_stats": True} | ({"eps": eps} if eps else {})
        self.layer(
            "BatchNorm", names[0], bottom, top=top, param=[{"lr_mult": 0, "decay_mult": 0}] * 3,
            blobs=[mean * factor, variance * factor, np.array([factor])], batch_norm_param=options,
        )  # fmt: skip
        return self.layer(
            "Scale", names[1], top, top=top, spread=gain, blobs=[slope, shift],
            param=[{"lr_mult": 1, "decay_mult": 0}] * 2, scale_param={"bias_term": True},
        )  # fmt: skip

    def affine(self, name: str, bottom: str, *, top: str = "", fork: bool = True) -> str:
        """Write the BN of SegNet's fork, ready for inference, or a Scale that computes the same."""
        channels = self.shapes[bottom][0]
        slope = self.draw(0.5, 1.5, channels) / np.float32(self._spread[bottom])
        shift = self.draw(-0.3, 0.3, channels)
        if fork:
            options = {
                "scale_filler": {"type": "constant", "value": 1},
                "shift_filler": {"type": "constant", "value": 0.001},
                "bn_mode": Word("INFERENCE"),
            }
            blobs = [slope.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)]
            return self.layer("BN", name, bottom, top=top, spread=1, blobs=blobs, bn_param=options)
        return self.layer(
            "Scale", name, bottom, top=top, spread=1, blobs=[slope, shift],
            scale_param={"bias_term": True},
        )  # fmt: skip

    def add(self, name: str, *bottoms: str, operation: str = "") -> str:
        """Write an Eltwise sum."""
        options: dict[str, Any] = {}
        if operation:
            options["eltwise_param"] = {"operation": Word(operation)}
        spread = sqrt(sum(self._spread[bottom] ** 2 for bottom in bottoms))
        return self.layer("Eltwise", name, bottoms, spread=spread, **options)

    def concat(self, name: str, *bottoms: str, **options: int) -> str:
        """Write a Concat of channels."""
        channels = sum(self.shapes[bottom][0] for bottom in bottoms)
        spread = sqrt(sum(self._spread[bottom] ** 2 for bottom in bottoms) / len(bottoms))
        fields: dict[str, Any] = {"concat_param": options} if options else {}
        shape = (channels, *self.shapes[bottoms[0]][1:])
        return self.layer("Concat", name, bottoms, shape=shape, spread=spread, **fields)

    def classify(self, bottom: str, suffix: str = "", weight: float = 0) -> None:
        """End a net: probabilities, or loss and accuracy while it is trained."""
        if not self.trained:
            self.layer("Softmax", "prob", bottom)
            return
        phase = {"phase": Word("TEST")}
        ends = [bottom, "label"]
        self.layer("Accuracy", f"accuracy{suffix}", ends, shape=(1,), include=phase)
        weights: dict[str, Any] = {"loss_weight": weight} if weight else {}
        self.layer("SoftmaxWithLoss", f"loss{suffix}", ends, shape=(1,), **weights)
