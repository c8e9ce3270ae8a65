"""What TensorRT lacks is written otherwise: its parser takes it, and the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.surgery import Plugin, SurgeryReport, run
from onnxgraft.stages.surgery.passes.tensorrt import lower_zero_points
from tests.conftest import model_of, outputs_of
from tests.surgery.helpers import ROUNDING, assert_same, infer, model_at, normal, report_of


def parses(model: Model) -> bool:
    """Tell whether TensorRT's parser takes the model."""
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    return bool(trt.OnnxParser(network, logger).parse(model.to_onnx().SerializeToString()))


def lowered(before: Model) -> tuple[Model, SurgeryReport]:
    after, report = run(before, target="tensorrt", verify=True)
    assert report.passed
    assert not [entry.rolled_back for entry in report.passes if entry.rolled_back]
    return after, report


def bytes_of(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def signed_of(*shape: int) -> Array:
    return np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)


CASES: dict[str, tuple[str, dict[str, Array], int]] = {
    "max_pool_indices": (
        ("agraph (float[N,4,9,8] x) => (float[N,4,A,B] y)"
        " { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"), {}, 17,
    ),
    "max_pool_dilated": (
        ("agraph (float[N,4,9,8] x) => (float[N,4,A,B] y)"
        " { y = MaxPool<kernel_shape=[3,2], dilations=[2,3], strides=[2,1]>(x) }"), {}, 17,
    ),
    "max_pool_dilated_padded": (
        ("agraph (float[N,4,9,8] x) => (float[N,4,A,B] y)"
        " { y = MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[1,2,2,1]>(x) }"), {}, 17,
    ),
    "average_pool_dilated": (
        ("agraph (float[N,4,9,8] x) => (float[N,4,A,B] y)"
        " { y = AveragePool<kernel_shape=[3,2], dilations=[2,2], strides=[1,2]>(x) }"), {}, 19,
    ),
    "average_pool_dilated_padded": (
        ("agraph (float[N,4,9,8] x) => (float[N,4,A,B] y) { y = AveragePool"
        "<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2], count_include_pad=1>(x) }"), {}, 19,
    ),
    "relu_of_integers": (
        ("agraph (float[N,4] x) => (float[N,4] y)"
        " { s = Mul(x, k)\n i = Cast<to=6>(s)\n r = Relu(i)\n y = Cast<to=1>(r) }"),
        {"k": np.float32(9)}, 17,
    ),
    "compress": (
        "agraph (float[N,4,3] x) => (float[N,A,3] y) { y = Compress<axis=1>(x, c) }",
        {"c": np.array([True, False, True])}, 17,
    ),
    "matmul_of_integers": (
        """agraph (float[N,8] x) => (float[N,3] y) {
            q, s, z = DynamicQuantizeLinear(x)
            p = MatMulInteger(q, w, z, wz)
            f = Cast<to=1>(p)
            t = Mul(s, ws)
            y = Mul(f, t)
        }""",
        {"w": bytes_of(8, 3), "wz": np.uint8(131), "ws": np.float32(0.01)}, 17,
    ),
    "matmul_of_integers_by_columns": (
        """agraph (float[N,8] x) => (float[N,3] y) {
            q, s, z = DynamicQuantizeLinear(x)
            p = MatMulInteger(q, w, z, wz)
            f = Cast<to=1>(p)
            y = Mul(f, s)
        }""",
        # Halved, so that no processor's sums of two products saturate.
        {"w": signed_of(8, 3) // 2, "wz": np.array([1, -2, 3], np.int8)}, 17,
    ),
    "convolution_of_integers": (
        """agraph (float[N,4,6,5] x) => (float[N,3,A,B] y) {
            q, s, z = DynamicQuantizeLinear(x)
            p = ConvInteger<pads=[1,1,1,1], strides=[2,1]>(q, w, z, wz)
            f = Cast<to=1>(p)
            y = Mul(f, s)
        }""",
        {"w": bytes_of(3, 4, 3, 3), "wz": np.array([120], np.uint8)}, 17,
    ),
    "convolution_of_integers_without_zero_points": (
        """agraph (uint8[N,4,6,5] q) => (float[N,2,A,B] y) {
            p = ConvInteger<group=2>(q, w)
            y = Cast<to=1>(p)
        }""",
        {"w": bytes_of(2, 2, 3, 3)}, 17,
    ),
    "dynamic_quantization": (
        """agraph (float[N,4] x) => (float[N,4] y) {
            q, s, z = DynamicQuantizeLinear(x)
            y = DequantizeLinear(q, s, z)
        }""", {}, 17,
    ),
    "affine_grid": (
        "agraph (float[2,2,3] t) => (float[A,B,C,D] y) { y = AffineGrid(t, size) }",
        {"size": np.array([2, 3, 5, 4])}, 20,
    ),
    "affine_grid_corners": (
        ("agraph (float[2,2,3] t) => (float[A,B,C,D] y)"
        " { y = AffineGrid<align_corners=1>(t, size) }"),
        {"size": np.array([2, 3, 5, 4])}, 20,
    ),
    "affine_grid_of_volumes": (
        "agraph (float[2,3,4] t) => (float[A,B,C,D,E] y) { y = AffineGrid(t, size) }",
        {"size": np.array([2, 3, 5, 4, 3])}, 20,
    ),
    "det_1": ("agraph (float[N,5,1,1] x) => (float[N,5] y) { y = Det(x) }", {}, 17),
    "det_2": ("agraph (float[N,5,2,2] x) => (float[N,5] y) { y = Det(x) }", {}, 17),
    "det_3": ("agraph (float[N,5,3,3] x) => (float[N,5] y) { y = Det(x) }", {}, 17),
    "det_4": ("agraph (float[N,5,4,4] x) => (float[N,5] y) { y = Det(x) }", {}, 17),
    "col2im": (
        "agraph (float[N,12,20] x) => (float[N,A,B,C] y) { y = Col2Im(x, image, block) }",
        {"image": np.array([5, 7]), "block": np.array([2, 3])}, 18,
    ),
    "col2im_strided": (
        """agraph (float[N,12,9] x) => (float[N,A,B,C] y) {
            y = Col2Im<strides=[2,3], dilations=[2,1], pads=[1,2,0,1]>(x, image, block)
        }""",
        {"image": np.array([7, 8]), "block": np.array([2, 3])}, 18,
    ),
    "dft": ("agraph (float[N,6,1] x) => (float[N,6,2] y) { y = DFT(x) }", {}, 17),
    "dft_complex": ("agraph (float[N,7,2] x) => (float[N,7,2] y) { y = DFT(x) }", {}, 17),
    "dft_inverse": (
        "agraph (float[N,4,3,2] x) => (float[N,4,3,2] y) { y = DFT<inverse=1, axis=1>(x) }", {}, 17,
    ),
    "dft_one_sided": (
        "agraph (float[N,9,3,1] x) => (float[N,A,B,2] y) { y = DFT<onesided=1>(x) }", {}, 17,
    ),
    "dft_axis_as_input": (
        "agraph (float[N,4,6,1] x) => (float[N,A,B,2] y) { y = DFT<onesided=1>(x, , axis) }",
        {"axis": np.array(1)}, 20,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_tensorrt_lacks_is_written_as_it_takes_it(case: str) -> None:
    text, constants, opset = CASES[case]
    before = model_at(opset, text, constants)
    after, _ = lowered(before)
    assert_same(before, after, ROUNDING)
    assert not parses(before)
    assert parses(after)


FORMER = {
    "pool": ("y = MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[1,2,2,1]>(x)", ROUNDING),
    # A zero point that moves to 0 changes the steps: by 0.02 each, where the outputs span 2 to 8.
    "pair": ("q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)", 0.02),
    "qlinear": (
        """q = QuantizeLinear(x, s, z)
            p = QLinearConv(q, s, z, w, s, wz, s, z)
            y = DequantizeLinear(p, s, z)""", 0.02,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMER)
def test_a_graph_of_a_former_opset_is_raised_to_the_one_that_is_written(case: str) -> None:
    body, fraction = FORMER[case]
    quantized = {
        "s": np.float32(1 / 32), "z": np.uint8(128), "w": signed_of(2, 4, 1, 1) // 16,
        "wz": np.int8(0),
    }  # fmt: skip
    text = f"agraph (float[N,4,9,8] x) => (float[N,A,B,C] y) {{ {body} }}"
    before = model_at(10, text, {} if case == "pool" else quantized)
    after, report = lowered(before)
    assert after.graph.opset == 13
    assert "opset 10 was raised to 13" in report.notes
    assert parses(after)
    assert_same(before, after, fraction)


def test_kernels_that_saturate_on_some_processors_do_not_undo_a_pass() -> None:
    text, constants, opset = CASES["matmul_of_integers_by_columns"]
    after, _ = lowered(model_at(opset, text, {**constants, "w": signed_of(8, 3)}))
    assert parses(after)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lowered_unless_the_graph_is_for_tensorrt(case: str) -> None:
    text, constants, opset = CASES[case]
    before = model_at(opset, text, constants)
    after, report = run(before)
    assert after.operators() == before.operators()
    assert not any(entry.name.startswith("lower_") for entry in report.passes)


def test_a_relu_of_integers_alone_is_a_maximum() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {
            i = Cast<to=6>(x)  r = Relu(i)  y = Cast<to=1>(r)  z = Relu(x)
        }"""
    )
    after, report = lowered(before)
    assert len(report_of(report, "lower_integer_relu").done) == 1
    assert after.operators() == {"Cast": 2, "Max": 1, "Relu": 1}
    assert_same(before, after)


def quantized(zero: int = 0) -> Model:
    return model_of(
        """agraph (float[N,4,6,5] x) => (float[N,3,A,B] y) {
            q = QuantizeLinear(x, xs, xz)
            c = QLinearConv<pads=[1,1,1,1]>(q, xs, xz, w, ws, wz, ys, yz, b)
            y = DequantizeLinear(c, ys, yz)
        }""",
        {
            "xs": np.float32(0.02), "xz": np.int8(zero), "ys": np.float32(0.1), "yz": np.int8(0),
            "w": np.random.default_rng(0).integers(-127, 128, (3, 4, 3, 3)).astype(np.int8),
            "ws": np.array([0.01, 0.02, 0.005], np.float32), "wz": np.zeros(3, np.int8),
            "b": np.array([100, -2000, 3000], np.int32),
        },
    )  # fmt: skip


def test_a_quantized_convolution_becomes_a_convolution_between_q_and_dq() -> None:
    before = quantized()
    # One unit of the output's scale: a sum that lies between two units may round either way.
    after, report = run(before, target="tensorrt")
    assert report_of(report, "lower_qlinear").done
    feeds = {"x": normal(2, 4, 6, 5)}
    expected, actual = infer(before, feeds)["y"], infer(after, feeds)["y"]
    off = np.abs(expected - actual)
    assert off.max() <= 0.1001 and (off > 0.01).mean() < 0.01
    assert np.ptp(expected) > 10
    assert not parses(before)
    assert parses(after)


def test_a_quantized_matrix_product_becomes_a_product_between_q_and_dq() -> None:
    before = model_of(
        """agraph (float[N,8] x) => (float[N,3] y) {
            q = QuantizeLinear(x, xs, z)
            c = QLinearMatMul(q, xs, z, w, ws, z, ys, z)
            y = DequantizeLinear(c, ys, z)
        }""",
        {
            "xs": np.float32(0.02), "z": np.int8(0), "ys": np.float32(0.1), "ws": np.float32(0.01),
            "w": np.random.default_rng(0).integers(-127, 128, (8, 3)).astype(np.int8),
        },
    )  # fmt: skip
    after, _ = run(before, target="tensorrt")
    feeds = {"x": normal(20, 8)}
    off = np.abs(infer(before, feeds)["y"] - infer(after, feeds)["y"])
    assert off.max() <= 0.1001 and (off > 0.01).mean() < 0.05
    assert parses(after)


REFUSED: dict[str, tuple[Model, str, str]] = {
    "indices_read": (
        model_of(
            "agraph (float[N,4,8,8] x) => (float[N,4,4,4] y, int64[N,4,4,4] i)"
            " { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"
        ), "lower_pool", "indices",
    ),
    "average_without_the_padding": (
        model_at(
            19, "agraph (float[N,4,8,8] x) => (float[N,4,A,B] y)"
            " { y = AveragePool<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>(x) }"
        ), "lower_pool", "leaves what is padded out",
    ),
    "size_not_known": (
        model_of(
            "agraph (float[N,4,H,W] x) => (float[N,4,A,B] y)"
            " { y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x) }"
        ), "lower_pool", "is not known",
    ),
    "compress_by_an_input": (
        model_of(
            "agraph (float[N,4] x, bool[4] c) => (float[N,A] y) { y = Compress<axis=1>(x, c) }"
        ), "lower_compress", "not by a constant",
    ),
    "convolution_by_channels": (
        model_of(
            """agraph (uint8[N,4,6,5] q) => (int32[N,2,A,B] y) { y = ConvInteger(q, w, z, wz) }""",
            {"w": bytes_of(2, 4, 3, 3), "z": np.uint8(3), "wz": np.array([1, 2], np.uint8)},
        ), "lower_integer", "zero points of their own",
    ),
    "grid_of_unknown_size": (
        model_at(
            20, "agraph (float[2,2,3] t, int64[4] size) => (float[A,B,C,D] y)"
            " { y = AffineGrid(t, size) }"
        ), "lower_affine_grid", "size of this one is not known",
    ),
    "grid_of_one_row_from_corner_to_corner": (
        model_at(
            20, "agraph (float[2,2,3] t) => (float[A,B,C,D] y)"
            " { y = AffineGrid<align_corners=1>(t, size) }", {"size": np.array([2, 3, 1, 4])}
        ), "lower_affine_grid", "none is written for size",
    ),
    "det_of_large_matrices": (
        model_of("agraph (float[N,9,9] x) => (float[N] y) { y = Det(x) }"), "lower_det",
        "not up to 4 x 4",
    ),
    "col2im_of_unknown_size": (
        model_at(
            18, "agraph (float[N,12,20] x, int64[2] image) => (float[N,A,B,C] y)"
            " { y = Col2Im(x, image, block) }", {"block": np.array([2, 3])}
        ), "lower_col2im", "sizes of this one are not known",
    ),
    "dft_of_unknown_length": (
        model_of("agraph (float[N,L,1] x) => (float[N,L,2] y) { y = DFT(x) }"), "lower_dft",
        "not of a length",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_written_otherwise_is_refused_with_a_reason(case: str) -> None:
    before, name, reason = REFUSED[case]
    after, report = run(before, target="tensorrt")
    assert reason in report_of(report, name).refused[0].sentence
    assert after.operators() == before.operators()


# Zero points ----------------------------------------------------------------------------------

SCALE = np.array(0.05, np.float32)


def without_zero_points(model: Model) -> Model:
    after, report = run(model, target="tensorrt")
    assert report_of(report, "lower_zero_points").done
    assert not report_of(report, "lower_zero_points").rolled_back
    return after


def zero_points(model: Model) -> set[int]:
    """Return the zero points of a graph."""
    return {
        int(value)
        for node in model.graph.nodes
        if node.op in ("QuantizeLinear", "DequantizeLinear")
        for value in np.ravel(node.inputs[2].values)
    }


@pytest.mark.parametrize("zero", [np.int8(-128), np.int8(5), np.uint8(0), np.uint8(130)])
def test_a_pair_holds_its_range_with_zero_point_0(zero: np.generic) -> None:
    model = model_of(
        "net (float[1,4] x) => (float[1,4] y)"
        " { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": SCALE, "z": np.array(zero)},
    )
    after = without_zero_points(model)
    assert zero_points(after) == {0}
    assert parses(after)
    limits = np.iinfo(zero.dtype)
    least, most = (SCALE * (bound - int(zero)) for bound in (limits.min, limits.max))
    fed = {"x": np.linspace(least, most, 4, dtype=np.float32)[None]}
    step = max(most, -least) / 127
    np.testing.assert_allclose(infer(after, fed)["y"], fed["x"], atol=0.51 * step)


def uneven(zero: np.generic, before: str = "") -> Model:
    """Return a product of weights, what is before a pair with that zero point, and the pair."""
    text = f"""agraph (float[N,4] x) => (float[N,6] y) {{
        p = MatMul(x, w)
        {before or "v = Identity(p)"}
        q = QuantizeLinear(v, s, z)
        y = DequantizeLinear(q, s, z)
    }}"""
    return model_of(text, {"w": normal(4, 6), "s": np.array(0.01, np.float32), "z": zero})


@pytest.mark.parametrize(
    "zero", [np.uint8(0), np.uint8(10), np.uint8(200), np.uint8(255), np.int8(-128), np.int8(-90)]
)
def test_what_a_pair_cuts_off_is_cut_off(zero: np.generic) -> None:
    """As the Relu that onnxruntime leaves to a zero point of 0."""
    before = uneven(zero)
    after = without_zero_points(before)
    assert zero_points(after) == {0}
    assert parses(after)
    # Half a step of each: 0.005 and, of one that is twice as wide, 0.01.
    for batch in (1, 3):
        expected, found = outputs_of(before, batch), outputs_of(after, batch)
        np.testing.assert_allclose(found["y"], expected["y"], rtol=0, atol=0.0151)


def test_what_moved_zero_points_keep_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a Relu that is lost is seen."""

    def kept() -> float:
        _, report = lowered(uneven(np.uint8(0)))
        (told,) = [n.split(" y keeps ")[1] for n in report.notes if " y keeps " in n]
        return float(told.split()[0])

    assert kept() > 35
    monkeypatch.setattr(lower_zero_points, "_cut", lambda source, *rest: source)
    assert kept() < 5


@pytest.mark.parametrize(
    ("zero", "before"),
    [(np.uint8(128), ""), (np.int8(-1), ""), (np.uint8(0), "v = Relu(p)"),
     (np.uint8(0), "a = Sigmoid(p)  v = Mul(a, a)")],
    ids=["middle", "nearly", "relu", "product"],
)  # fmt: skip
def test_what_needs_no_cut_gets_none(zero: np.generic, before: str) -> None:
    model = uneven(zero, before)
    after = without_zero_points(model)
    assert after.operators().get("Clip", 0) == 0
    assert after.operators().get("Relu", 0) == model.operators().get("Relu", 0)


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT16", "UINT16"])
def test_the_type_of_integers_without_a_zero_point_is_what_the_quantizer_says(kind: str) -> None:
    number = onnx.TensorProto.DataType.Value(kind)
    before = model_at(
        21, f"""agraph (float[N,4] x) => (float[N,4] y) {{
            q = QuantizeLinear<output_dtype = {number}>(x, s)
            y = DequantizeLinear(q, s)
        }}""", {"s": np.array(0.02, np.float32)},
    )  # fmt: skip
    after, _ = lowered(before)
    assert after.operators().get("Relu", 0) == (kind == "UINT8")  # TensorRT has no 16 bits
    for batch in (1, 3):
        expected, found = outputs_of(before, batch), outputs_of(after, batch)
        np.testing.assert_allclose(found["y"], expected["y"], rtol=0, atol=0.0301)


def test_what_moves_integers_moves_floats() -> None:
    model = model_of(
        "net (float[1,2,4,4] x, float[1,2,4,4] w) => (float[1,4,4,4] y) {"
        " q = QuantizeLinear(x, s, z)  p = QuantizeLinear(w, s, z)  c = Concat<axis=1>(q, p)"
        " t = Transpose<perm=[0,2,3,1]>(c)  y = DequantizeLinear(t, s, z) }",
        {"s": SCALE, "z": np.array(-3, np.int8)},
    )
    after = without_zero_points(model)
    assert parses(after)
    fed = {"x": normal(1, 2, 4, 4), "w": normal(1, 2, 4, 4)[::-1]}
    np.testing.assert_allclose(infer(after, fed)["y"], infer(model, fed)["y"], atol=1.1 * SCALE)


def test_an_integer_input_and_output_keep_their_type_and_numbers() -> None:
    model = model_of(
        "net (uint8[1,4] x) => (uint8[1,4] y)"
        " { f = DequantizeLinear(x, s, z)  r = Relu(f)  y = QuantizeLinear(r, s, z) }",
        {"s": SCALE, "z": np.array(100, np.uint8)},
    )
    after = without_zero_points(model)
    assert parses(after)
    assert [str(spec) for spec in after.outputs] == ["y (1, 4) uint8"]
    fed = {"x": np.array([[0, 100, 101, 255]], np.uint8)}
    assert (
        np.abs(infer(after, fed)["y"].astype(int) - infer(model, fed)["y"].astype(int)).max() <= 1
    )


def test_weights_and_biases_in_other_integers_are_written_as_tensorrt_takes_them() -> None:
    rng = np.random.default_rng(0)
    model = model_of(
        "net (float[1,2,5,5] x) => (float[1,3,3,3] y) {"
        " w = DequantizeLinear(wq, s, z)  b = DequantizeLinear(bq, s, zb)  y = Conv(x, w, b) }",
        {
            "wq": rng.integers(0, 256, (3, 2, 3, 3)).astype(np.uint8), "s": SCALE,
            "z": np.array(120, np.uint8), "bq": rng.integers(-99, 99, 3).astype(np.int32),
            "zb": np.array(0, np.int32),
        },
    )  # fmt: skip
    after = without_zero_points(model)
    assert zero_points(after) == {0}
    assert parses(after)
    fed = {"x": normal(1, 2, 5, 5)}
    expected = infer(model, fed)["y"]
    # Each weight moves by half a new step, of 135 / 127 old ones, at most.
    most = np.abs(fed["x"]).sum() * SCALE * 0.54
    assert 0 < np.abs(infer(after, fed)["y"] - expected).max() < most


def test_a_quantized_convolution_with_zero_points_is_written_for_tensorrt() -> None:
    model = quantized(3)
    after = without_zero_points(model)
    assert "QLinearConv" not in after.operators()
    assert zero_points(after) == {0}
    assert parses(after)


def test_a_symmetric_pair_is_left_alone() -> None:
    model = model_of(
        "net (float[1,4] x) => (float[1,4] y)"
        " { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": SCALE, "z": np.array(0, np.int8)},
    )
    _, report = run(model, target="tensorrt")
    assert not report_of(report, "lower_zero_points").done


def test_a_scale_that_is_computed_is_refused() -> None:
    model = model_of(
        "net (float[1,4] x, float s) => (float[1,4] y)"
        " { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"z": np.array(7, np.int8)},
    )
    _, report = run(model, target="tensorrt")
    (finding,) = report_of(report, "lower_zero_points").refused
    assert "not constant" in finding.sentence


# Plugins --------------------------------------------------------------------------------------


def custom(op: str = "Mystery") -> Model:
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(op, ["x"], ["y"], name="it", domain="acme", strength=3)],
            "agraph",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4, 8, 8])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 4, 8, 8])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("acme", 1)],
    )
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))


@pytest.mark.parametrize("key", ["Mystery", "acme.Mystery"])
def test_a_custom_operator_is_called_by_its_plugins_name(key: str) -> None:
    after, report = run(
        custom(), target="tensorrt", plugins={key: Plugin("Answer", "2", "deep")}, verify=None
    )
    (node,) = after.graph.nodes
    assert (node.op, node.domain) == ("Answer", "trt.plugins")
    assert node.attrs == {"strength": 3, "plugin_version": "2", "plugin_namespace": "deep"}
    onnx.checker.check_model(after.to_onnx())
    assert report_of(report, "name_plugins").done[0].node == "it"


def test_an_operator_of_onnx_can_be_given_to_a_plugin_and_the_rest_is_verified() -> None:
    before = model_of("agraph (float[N,4] x) => (float[N,4] y) { i = Identity(x)\n y = Relu(i) }")
    after, report = run(before, target="tensorrt", plugins={"Relu": Plugin("Mine")}, verify=True)
    assert after.operators() == {"trt.plugins.Mine": 1}
    assert report.passed and report.verdicts


def test_operators_without_a_plugin_stay() -> None:
    after, _ = run(custom("Other"), target="tensorrt", plugins={"Mystery": Plugin("Answer")})
    assert after.operators() == {"acme.Other": 1}


def test_an_unknown_target_is_an_error() -> None:
    with pytest.raises(
        InputError, match="no target is called 'tpu'; there are: onnxruntime, openvino, tensorrt"
    ):
        run(custom(), target="tpu")
