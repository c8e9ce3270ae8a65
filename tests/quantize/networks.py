"""Small networks with seeded weights, and what tests of quantization do with them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.quantize import calibrate
from tests.conftest import model_of

# Two channels of every eight are far larger than the others, as after folded batch norms.
_SPREAD = np.array([1, 0.2, 3, 0.5, 12, 0.1, 1, 2])

PAIR = """
network (float[N, 3, 16, 16] image) => (float[N, 5, 8, 8] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu] b = Relu (a)
    [pool] c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    [second] d = Conv <pads = [1, 1, 1, 1]> (c, w2, b2)
    [relu2] e = Relu (d)
    [third] y = Conv (e, w3, b3)
}
"""
PAIR_SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (5, 16, 1, 1),
    "b3": (5,),
}  # fmt: skip

RESIDUAL = """
network (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [inner] b = Conv <pads = [1, 1, 1, 1]> (a, w2, b2)
    [add] c = Add (a, b)
    [last] y = Conv (c, w3, b3)
}
"""
RESIDUAL_SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (4, 8, 1, 1), "b3": (4,),
}  # fmt: skip

# Four heads of eight channels over twelve tokens, as ViT and BERT have them.
ATTENTION = """
network (float[N, 12, 32] x) => (float[N, 12, 32] y) {
    n = LayerNormalization (x, gamma, beta)
    [query] q0 = MatMul (n, wq)
    q1 = Add (q0, bq)
    q2 = Reshape (q1, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q2)
    [key] k0 = MatMul (n, wk)
    k1 = Add (bk, k0)
    k2 = Reshape (k1, heads)
    k = Transpose <perm = [0, 2, 3, 1]> (k2)
    [value] v0 = MatMul (n, wv)
    v1 = Add (v0, bv)
    v2 = Reshape (v1, heads)
    v = Transpose <perm = [0, 2, 1, 3]> (v2)
    [scores] s0 = MatMul (q, k)
    [factor] s1 = Mul (s0, scale)
    [softmax] p = Softmax <axis = -1> (s1)
    [context] c0 = MatMul (p, v)
    c1 = Transpose <perm = [0, 2, 1, 3]> (c0)
    c = Reshape (c1, whole)
    [output] o = MatMul (c, wo)
    o1 = Add (o, bo)
    y = Add (x, o1)
}
"""


def weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """Return normal weights whose output channels differ in size."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) / math.sqrt(max(math.prod(shape[1:]), 1))
        if len(shape) > 1 and shape[0] % 8 == 0:
            values *= np.resize(_SPREAD, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        found[name] = values.astype(np.float32)
    return found


def pair() -> Model:
    """Return three convolutions in a row, with Relu and MaxPool between."""
    return model_of(PAIR, weights(PAIR_SHAPES))


def residual() -> Model:
    """Return convolutions around an addition."""
    return model_of(RESIDUAL, weights(RESIDUAL_SHAPES))


def attention(text: str = ATTENTION, **more: Any) -> Model:
    """Return attention with seeded weights, and constants in place of its own."""
    rng = np.random.default_rng(3)
    constants: dict[str, Any] = {
        "heads": np.array([0, 12, 4, 8]), "whole": np.array([0, 12, 32]),
        "scale": np.float32(8**-0.5), "gamma": rng.uniform(0.5, 2, 32).astype(np.float32),
        "beta": rng.standard_normal(32).astype(np.float32) / 4,
    }  # fmt: skip
    for name in "qkvo":
        constants[f"w{name}"] = rng.standard_normal((32, 32)).astype(np.float32) / 4
        constants[f"b{name}"] = rng.standard_normal(32).astype(np.float32) / 4
    return model_of(text, constants | more)


def samples_of(model: Model, folder: Path, count: int = 24, seed: int = 5) -> Samples:
    """Return seeded normal samples."""
    np.savez(folder / "data.npz", **random_feeds(model.inputs, count, seed=seed))
    return open_samples(folder / "data.npz", model.inputs)


def ranges_of(model: Model, samples: Samples) -> Ranges:
    """Return the calibrated ranges."""
    return calibrate(model, samples, "minmax")


def infer(model: Model, feeds: dict[str, Array], *, optimize: bool = False) -> dict[str, Array]:
    """Return what onnxruntime computes, every node as it stands."""
    with OnnxRuntime(model.to_onnx(), optimize=optimize) as session:
        return session.infer(feeds)


def infer_exactly(model: Model, feeds: dict[str, Array]) -> dict[str, Array]:
    """Return the same as on a processor whose integer kernels don't saturate."""
    with exact(model) as session:
        return session.infer(feeds)


def sqnr(expected: Array, actual: Array) -> float:
    """Return the signal-to-noise ratio in dB."""
    noise = float(np.square(expected - actual, dtype=np.float64).sum())
    return 10 * math.log10(float(np.square(expected, dtype=np.float64).sum()) / max(noise, 1e-30))
