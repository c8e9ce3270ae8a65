"""Random Caffe nets: layers that OpenCV runs as Caffe does, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.caffemodel import Blobs, caffemodel
from onnxgraft.graph.tensors import Array
from tests.random_networks.choices import Choices

__all__ = ["SHAPE", "caffe_net"]

# Of the input: batch, channels, height, width.
SHAPE = (2, 4, 9, 11)
Shape = tuple[int, int, int, int]


@dataclass
class Net:
    """A net that grows layer by layer."""

    choices: Choices
    rng: np.random.Generator
    text: list[str] = field(default_factory=list)
    blobs: dict[str, Blobs] = field(default_factory=dict)
    tops: list[tuple[str, Shape]] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return self.choices.one_of(options)

    def layer(
        self, kind: str, bottoms: Sequence[str], shape: Shape, params: str = "", *blobs: Array
    ) -> None:
        name = f"l{len(self.tops)}"
        around = "".join(f' bottom: "{bottom}"' for bottom in bottoms)
        self.text.append(
            f'layer {{ name: "{name}" type: "{kind}"{around} top: "{name}" {params} }}\n'
        )
        if blobs:
            self.blobs[name] = (kind, [np.asarray(blob, np.float32) for blob in blobs])
        self.tops.append((name, shape))

    def normal(self, *shape: int) -> Array:
        fan = max(int(np.prod(shape[1:])), 1)
        return np.asarray(self.rng.normal(size=shape) / np.sqrt(fan), np.float32)


def convolution(n: Net, x: str, shape: Shape) -> None:
    batch, channels, height, width = shape
    group = n.pick(*(g for g in (1, 2, channels) if channels % g == 0))
    # OpenCV 4.14's depthwise convolution reads beyond a picture of a single row or column.
    kernel = n.pick(1, 3) if min(height, width) > 1 else 1
    out, stride = group * n.pick(1, 2), n.pick(1, 1, 2)
    dilation = n.pick(1, 1, 2) if kernel == 3 else 1
    pad = n.pick(0, dilation) if min(height, width) > 2 * dilation else dilation * (kernel // 2)
    extent = dilation * (kernel - 1) + 1
    high, wide = ((side + 2 * pad - extent) // stride + 1 for side in (height, width))
    params = f"num_output: {out} kernel_size: {kernel} stride: {stride} pad: {pad} group: {group}"
    bias = n.pick(True, False)
    params += f" dilation: {dilation}" + ("" if bias else " bias_term: false")
    weights = [n.normal(out, channels // group, kernel, kernel), *[n.normal(out)] * bias]
    n.layer(
        "Convolution", [x], (batch, out, high, wide), f"convolution_param {{ {params} }}", *weights
    )


def deconvolution(n: Net, x: str, shape: Shape) -> None:
    batch, channels, height, width = shape
    if max(height, width) > 12:
        return
    out = n.pick(2, 3)
    params = f"num_output: {out} kernel_size: 2 stride: 2"
    weights = n.normal(channels, out, 2, 2), n.normal(out)
    to = (batch, out, 2 * height, 2 * width)
    n.layer("Deconvolution", [x], to, f"convolution_param {{ {params} }}", *weights)


def pooling(n: Net, x: str, shape: Shape) -> None:
    batch, channels, height, width = shape
    if min(height, width) < 3:
        return
    kind, kernel, stride = n.pick("MAX", "AVE"), n.pick(2, 3), n.pick(1, 2)
    pad = n.pick(0, 1) if kind == "MAX" else 0
    params = f"pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad}"

    def side(length: int) -> int:
        count = -(-(length + 2 * pad - kernel) // stride) + 1
        return count - 1 if pad and (count - 1) * stride >= length + pad else count

    to = (batch, channels, side(height), side(width))
    n.layer("Pooling", [x], to, f"pooling_param {{ {params} }}")


def batch_norm(n: Net, x: str, shape: Shape) -> None:
    channels, factor = shape[1], n.pick(1.0, 2.5)
    mean, variance = n.normal(channels, 1)[:, 0], n.rng.uniform(0.5, 2, channels)
    blobs = mean * factor, variance * factor, np.array([factor])
    n.layer("BatchNorm", [x], shape, "batch_norm_param { use_global_stats: true }", *blobs)
    if n.pick(True, True, False):
        scale(n, n.tops[-1][0], shape)


def scale(n: Net, x: str, shape: Shape) -> None:
    blobs = n.rng.uniform(0.5, 1.5, shape[1]), n.normal(shape[1], 1)[:, 0]
    n.layer("Scale", [x], shape, "scale_param { bias_term: true }", *blobs)


def activation(n: Net, x: str, shape: Shape) -> None:
    kind = n.pick("ReLU", "ReLU", "Sigmoid", "TanH", "ELU", "AbsVal", "PReLU", "Dropout")
    if kind == "PReLU":
        n.layer(kind, [x], shape, "", n.rng.uniform(0, 0.5, shape[1]))
    elif kind == "ReLU" and n.pick(True, False):
        n.layer(kind, [x], shape, "relu_param { negative_slope: 0.1 }")
    else:
        n.layer(kind, [x], shape)


def power(n: Net, x: str, shape: Shape) -> None:
    params = f"power: {n.pick(1, 2)} scale: {n.pick(0.5, 1)} shift: {n.pick(0, 0.25)}"
    n.layer("Power", [x], shape, f"power_param {{ {params} }}")


def join(n: Net, x: str, shape: Shape) -> None:
    others = [name for name, size in n.tops if size == shape]
    other, kind = n.pick(*others), n.pick("SUM", "MAX", "Concat", "Concat", "coefficients")
    if kind == "Concat":
        if shape[1] <= 8:
            n.layer("Concat", [x, other], (shape[0], 2 * shape[1], *shape[2:]))
    elif kind == "coefficients":
        params = "eltwise_param { operation: SUM coeff: 0.5 coeff: -0.75 }"
        n.layer("Eltwise", [x, other], shape, params)
    else:
        n.layer("Eltwise", [x, other], shape, f"eltwise_param {{ operation: {kind} }}")


def normalization(n: Net, x: str, shape: Shape) -> None:
    n.layer("LRN", [x], shape, "lrn_param { local_size: 3 alpha: 0.1 beta: 0.75 }")


def softmax(n: Net, x: str, shape: Shape) -> None:
    n.layer("Softmax", [x], shape)


def inner_product(n: Net, x: str, shape: Shape) -> None:
    out, features = n.pick(2, 5), int(np.prod(shape[1:]))
    weights = n.normal(out, features), n.normal(out)
    params = f"inner_product_param {{ num_output: {out} }}"
    n.layer("InnerProduct", [x], (shape[0], out, 1, 1), params, *weights)


STEPS: tuple[Callable[[Net, str, Shape], None], ...] = (
    convolution, convolution, convolution, convolution, deconvolution, pooling, pooling, batch_norm,
    batch_norm, scale, activation, activation, activation, power, join, join, normalization,
    softmax,
)  # fmt: skip


def caffe_net(choices: Choices) -> tuple[str, bytes]:
    """Return a prototxt with the input ``data`` of `SHAPE`, and its caffemodel."""
    n = Net(choices, np.random.default_rng(choices.one_of(range(10))))
    dims = " ".join(f"dim: {dim}" for dim in SHAPE)
    n.tops.append(("data", SHAPE))
    convolution(n, "data", SHAPE)
    for _ in range(choices.one_of(range(2, 9))):
        name, shape = n.tops[-1] if choices.one_of(range(4)) else n.pick(*n.tops[1:])
        n.pick(*STEPS)(n, name, shape)
    if choices.one_of(range(3)) == 0:
        inner_product(n, *n.tops[-1])
    text = f'name: "random" input: "data" input_shape {{ {dims} }}\n' + "".join(n.text)
    return text, caffemodel(n.blobs)
