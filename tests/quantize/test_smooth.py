"""Scales moved from what normalizations make into the weights that read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.stages.quantize.improve.improve import improve
from onnxgraft.stages.quantize.improve.smooth import gains, smooth
from onnxgraft.stages.quantize.place.shapes import shapes_of
from tests.conftest import model_of, outputs_of
from tests.quantize.networks import attention, ranges_of, samples_of

# As LayerNormalization is written before opset 17, and as RMS normalization is.
UNFUSED = """
    m = ReduceMean <axes = [-1]> (x)
    c = Sub (x, m)
    two = Constant <value_float = 2.0> ()
    sq = Pow (c, two)
    var = ReduceMean <axes = [-1]> (sq)
    dev = Sqrt (var)
    norm = Div (c, dev)
    g = Mul (norm, gamma)
    n = Add (beta, g)
"""
FUSED = "n = LayerNormalization (x, gamma, beta)"
RMS = UNFUSED.replace("n = Add (beta, g)", "").replace("g = Mul (norm", "n = Mul (norm")
TWO = "flat = Reshape (n, rows) [one] a = MatMul (n, w) [two] b = Gemm <transB = 1> (flat, u)"
CONV = """
    t = Transpose <perm = [0, 2, 1]> (n)
    i = Reshape (t, image)
    [conv] a = Conv <pads = [1, 1, 1, 1]> (i, k)
"""


def network(normal: str = FUSED, readers: str = TWO, outputs: str = "a, float[P, Q] b") -> Model:
    rng = np.random.default_rng(4)
    gamma = rng.uniform(0.5, 1, 16)
    gamma[3] = 40  # one channel is far larger than the others
    constants: dict[str, Any] = {
        "gamma": gamma.astype("f"), "beta": rng.standard_normal(16).astype("f"),
        "w": rng.standard_normal((16, 8)).astype("f"), "rows": np.array([-1, 16]),
        "u": rng.standard_normal((8, 16)).astype("f"), "image": np.array([0, 16, 2, 3]),
        "k": rng.standard_normal((8, 16, 3, 3)).astype("f"),
    }  # fmt: skip
    text = f"net (float[N, 6, 16] x) => (float[N, R, S] {outputs}) {{ {normal} {readers} }}"
    if readers == CONV:
        text = text.replace("float[N, R, S] a", "float[N, 8, 2, 3] a").replace(
            ", float[P, Q] b", ""
        )
    used = {name: value for name, value in constants.items() if f"{name})" in text
            or f"{name}," in text}  # fmt: skip
    return model_of(text, used)


@pytest.mark.parametrize("readers", [TWO, CONV], ids=["MatMul and Gemm", "Conv"])
@pytest.mark.parametrize("normal", [FUSED, UNFUSED, RMS], ids=["fused", "unfused", "RMS"])
def test_the_outputs_stay_the_same(normal: str, readers: str, tmp_path: Path) -> None:
    model = network(normal, readers)
    smoothed, done = smooth(model, samples_of(model, tmp_path))
    assert done == ["n"]
    before, after = outputs_of(model), outputs_of(smoothed)
    for name, right in before.items():
        np.testing.assert_allclose(after[name], right, rtol=0, atol=1e-5 * np.abs(right).max())


def test_the_channels_become_even(tmp_path: Path) -> None:
    model = network()
    samples = samples_of(model, tmp_path)
    smoothed, _ = smooth(model, samples)
    before, after = (ranges_of(each, samples).tensors["n"].amax for each in (model, smoothed))
    assert after < before / 2


def test_attention_loses_less(tmp_path: Path) -> None:
    gamma = np.full(32, 0.5, np.float32)
    gamma[5] = 30
    weights = np.random.default_rng(0).standard_normal((3, 32, 32)).astype("f") / 8
    weights[:, 5] /= 30
    model = attention(gamma=gamma, wq=weights[0], wk=weights[1], wv=weights[2])
    samples = samples_of(model, tmp_path)
    prepared = improve(model, ranges_of(model, samples), "openvino", samples, ["smooth"])
    assert prepared.methods == ("smooth",)
    assert "scales of 1 tensor moved into weights" in prepared.notes[0]


@pytest.mark.parametrize(
    "readers",
    [
        "[one] a = MatMul (n, w) b = Relu (n)",
        "[one] a = MatMul (n, w) b = Identity (n)",
        "t = Transpose <perm = [0, 2, 1]> (n) [one] a = MatMul (n, t) b = Identity (a)",
        "t = Transpose <perm = [0, 2, 1]> (n) [one] a = MatMul (t, r) b = Identity (a)",
    ],
    ids=["read by something else", "an output", "an activation", "another axis"],
)
def test_a_tensor_that_something_else_reads_is_left(readers: str) -> None:
    text = f"""net (float[N, 6, 16] x, float[N, 6, 6] r) => (float[A, B, C] a, float[D, E, F] b)
        {{ {FUSED} {readers} }}"""
    rng = np.random.default_rng(0)
    constants = {"gamma": np.ones(16, "f"), "beta": np.ones(16, "f")}
    if "w)" in readers:
        constants["w"] = rng.standard_normal((16, 8)).astype("f")
    model = model_of(text, constants)
    assert gains(model.graph, shapes_of(model)) == []


def test_a_gain_that_two_normalizations_share_stays_the_other_s(tmp_path: Path) -> None:
    text = """net (float[N, 6, 16] x) => (float[N, 6, 8] a, float[N, 6, 16] b) {
        n = LayerNormalization (x, gamma, beta)
        [one] a = MatMul (n, w)
        b = LayerNormalization (x, gamma, beta)
    }"""
    rng = np.random.default_rng(0)
    gamma = np.linspace(0.1, 9, 16).astype("f")
    model = model_of(text, {"gamma": gamma, "beta": gamma, "w": rng.standard_normal((16, 8))
                            .astype("f")})  # fmt: skip
    smoothed, done = smooth(model, samples_of(model, tmp_path))
    assert done == ["n"]
    for name, right in outputs_of(model).items():
        np.testing.assert_allclose(outputs_of(smoothed)[name], right, atol=1e-4)


def test_a_network_without_normalizations_is_left_alone(tmp_path: Path) -> None:
    model = model_of(
        "net (float[N, 4] x) => (float[N, 4] y) { y = MatMul (x, w) }", {"w": np.eye(4, dtype="f")}
    )
    smoothed, done = smooth(model, samples_of(model, tmp_path))
    assert smoothed is model
    assert done == []
