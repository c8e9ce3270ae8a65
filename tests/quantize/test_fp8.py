"""FP8 for TensorRT: scales, what stays in float and why, and what the methods do in its numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.data.ranges import BY_HAND, Range, Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.float8 import FLOAT8, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import eight_bits, float_twin, input_ranges
from onnxgraft.graph.tensors import Array
from onnxgraft.run.depth import FLOAT8 as ROUNDINGS
from onnxgraft.run.depth import depths
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.tolerances import USUAL_ROUNDING
from onnxgraft.stages import surgery
from onnxgraft.stages.quantize import (
    calibrate,
    improve,
    placement,
    placement_text,
    quantize,
    read_placement,
    retarget,
    settle,
    whole_ranges,
)
from onnxgraft.stages.quantize.improve.rounding import (
    EIGHT_BITS,
    mse_scale,
    nearest_numbers,
    numbers_of,
    output_numbers,
)
from tests.conftest import Cli, model_of
from tests.quantize.networks import ranges_of, samples_of, sqnr

TABLE = placement("tensorrt", kind="fp8")
RNG = np.random.default_rng(0)
NET = """
net (float[N, 16, 8, 8] image) => (float[N, 5, 8, 8] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    b = Relu (a)
    [second] c = Conv (b, w2)
    d = Relu (c)
    [last] y = Conv (d, w3)
}
"""


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def net() -> Model:
    constants = {
        "w1": weights(32, 16, 3, 3), "b1": weights(32), "w2": weights(16, 32, 1, 1),
        "w3": weights(5, 16, 1, 1),
    }  # fmt: skip
    return model_of(NET, constants)


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Model, Ranges]:
    model = net()
    return model, ranges_of(model, samples_of(model, tmp_path))


def test_scales_are_amax_over_448_and_zero_points_fp8(measured: tuple[Model, Ranges]) -> None:
    model, ranges = measured
    graph, report = quantize(model, ranges, TABLE)
    assert report.layers == ["first", "second"]
    assert report.format == "fp8"
    tensors = graph.graph.tensors()
    amax = ranges.tensors["image"].amax
    assert tensors["image/scale"].values == np.float32(amax / 448)
    assert tensors["image/zero_point"].values.dtype == FLOAT8
    stored = {node.inputs[0].values.dtype for node in graph.graph.nodes
              if node.op == "DequantizeLinear" and not node.inputs[0].inputs}  # fmt: skip
    assert stored == {FLOAT8}


def test_each_channel_of_weights_has_a_scale_that_keeps_its_largest(
    measured: tuple[Model, Ranges],
) -> None:
    graph, _ = quantize(*measured, TABLE)
    node = next(node for node in graph.graph.nodes if node.name == "first").inputs[1].inputs[0]
    numbers, scale = (np.asarray(tensor.values) for tensor in node.inputs[:2])
    assert node.attrs["axis"] == 0
    assert scale.shape == (32,)
    np.testing.assert_array_equal(np.abs(numbers.astype(np.float32)).max((1, 2, 3)), 448)
    original = measured[0].graph.tensors()["w1"].values
    error = np.abs(numbers.astype(np.float32) * scale.reshape(-1, 1, 1, 1) - original)
    # Half a step is a sixteenth of a value, or 2^-10 of the scale.
    assert (error <= np.abs(original) / 16 * 1.001 + 2.0**-10 * scale.reshape(-1, 1, 1, 1)).all()


def test_the_graph_is_valid_onnx_of_an_opset_that_has_fp8(measured: tuple[Model, Ranges]) -> None:
    model, ranges = measured
    graph, report = quantize(model, ranges, TABLE)
    assert report.notes == ["opset 17 was raised to 19"]
    onnx.checker.check_model(graph.to_onnx(), full_check=True)


STAYS = {
    "groups": ("Conv<group=2>", (32, 16, 1, 1), "a convolution in 2 groups"),
    "depthwise": ("Conv<group=32>", (32, 1, 3, 3), "a convolution in 32 groups"),
    "few_inputs": ("Conv", (32, 3, 3, 3), "3 inputs or outputs; at least 16"),
    "few_outputs": ("Conv", (11, 32, 1, 1), "11 inputs or outputs; at least 16"),
    "large_kernel": ("Conv<pads=[3,3,3,3]>", (32, 32, 7, 7), "a kernel of 49 places; at most 32"),
    "transposed": ("ConvTranspose", (32, 32, 2, 2), "ConvTranspose"),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_tensorrt_does_not_run_in_fp8_stays_in_float(case: str, tmp_path: Path) -> None:
    call, shape, why = STAYS[case]
    inputs = 3 if case == "few_inputs" else 32
    op, _, attributes = call.partition("<")
    model = model_of(
        f"net (float[N, {inputs}, 9, 9] x) => (float y) {{"
        f" [layer] y = {op}{'<' if attributes else ''}{attributes}(x, w) }}",
        {"w": weights(*shape)},
    )
    ranges = ranges_of(model, samples_of(model, tmp_path))
    graph, report = quantize(model, ranges, TABLE)
    assert [str(layer) for layer in report.float_layers] == [f"the target has no FP8 for {why}"
        if case != "transposed" else f"the target has no FP8 {why}"]  # fmt: skip
    assert "QuantizeLinear" not in graph.operators()
    # The same layer has INT8.
    assert quantize(model, ranges, "tensorrt")[1].layers == ["layer"]


def test_a_narrow_product_stays_in_float_and_a_wide_one_does_not(tmp_path: Path) -> None:
    model = model_of(
        "net (float[N, 64] x) => (float[N, 8] y) { [wide] a = MatMul(x, w)"
        " [narrow] y = MatMul(a, v) }",
        {"w": weights(64, 32), "v": weights(32, 8)},
    )
    _, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), TABLE)
    assert report.layers == ["wide"]
    assert [layer.name for layer in report.float_layers] == ["narrow"]


def test_the_other_targets_refuse_it() -> None:
    for target in ("openvino", "onnxruntime"):
        with pytest.raises(NotSupportedError, match="runs no FP8 here; tensorrt does"):
            placement(target, kind="fp8")


def test_the_exact_reference_is_near_the_float_network(measured: tuple[Model, Ranges]) -> None:
    model, ranges = measured
    graph, _ = quantize(model, ranges, TABLE)
    feeds = random_feeds(model.inputs, 4, seed=5)
    with exact(model) as float_, exact(graph) as fp8, exact(float_twin(graph)) as twin:
        wanted, found, same = (each.infer(feeds)["y"] for each in (float_, fp8, twin))
    assert 20 < sqnr(wanted, found) < 40
    assert sqnr(wanted, same) > sqnr(wanted, found) + 2


def test_a_rounding_counts_as_the_noise_that_it_makes() -> None:
    kept = []
    for values in (RNG.standard_normal(100_000), RNG.standard_t(3, 100_000), RNG.random(100_000)):
        scale = np.abs(values).max() / 448
        kept.append(sqnr(values, nearest(values / scale).astype(float) * scale))
    counted = USUAL_ROUNDING - 10 * math.log10(ROUNDINGS)
    assert max(abs(one - counted) for one in kept) < 0.6, kept


def test_roundings_add_up_on_the_way_to_an_output(measured: tuple[Model, Ranges]) -> None:
    graph, _ = quantize(*measured, TABLE)
    assert depths(graph) == {"y": 4 * ROUNDINGS}


def test_layers_and_inputs_are_known_to_be_in_fp8(measured: tuple[Model, Ranges]) -> None:
    model, ranges = measured
    graph, _ = quantize(model, ranges, TABLE)
    assert eight_bits(graph) == {"first": "fp8", "second": "fp8"}
    low, high = input_ranges(graph)["image"]
    assert high == pytest.approx(ranges.tensors["image"].amax)
    assert low == -high


def test_rounding_by_output_chooses_among_the_numbers_of_fp8() -> None:
    matrix, vectors = weights(1, 8, 24), weights(1, 400, 24)
    vectors[..., 12:] += 2 * vectors[..., :12]  # correlated inputs, as images have them
    numbers = numbers_of("fp8")
    scale = np.broadcast_to(np.abs(matrix).max(2, keepdims=True) / 448, matrix.shape)
    found = output_numbers(matrix, scale, vectors, numbers)
    plain = nearest(matrix / scale)
    assert found.dtype == plain.dtype == FLOAT8

    def error(stored: Array) -> float:
        wrong = matrix - stored.astype(np.float32) * scale
        return float(np.square(vectors @ wrong.transpose(0, 2, 1)).sum())

    assert error(found) < 0.8 * error(plain)


def test_the_scale_of_least_error_is_no_worse_than_that_of_the_largest_weight() -> None:
    values, numbers = weights(6, 50), numbers_of("fp8")

    def error(scale: Array) -> Array:
        stored = nearest_numbers(values, scale, 0, numbers).astype(np.float64)
        return np.square(stored * scale[:, None] - values).sum(1)

    plain = np.abs(values).max(1) / 448
    assert (error(mse_scale(values, 0, numbers=numbers)) <= error(plain) * (1 + 1e-6)).all()
    assert numbers_of("int8") is EIGHT_BITS


def mixed(count: int, seed: int) -> Array:
    """Return images whose channels depend on each other, as those of networks do."""
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((count, 4, 8, 8))
    mixing = np.random.default_rng(1).standard_normal((16, 4))
    noise = 0.1 * rng.standard_normal((count, 16, 8, 8))
    return (np.einsum("nchw,oc->nohw", sources, mixing) + noise).astype(np.float32)


def test_methods_work_in_fp8_and_stay_where_the_network_is_better(tmp_path: Path) -> None:
    model = net()
    np.savez(tmp_path / "data.npz", image=mixed(24, seed=2))
    samples = open_samples(tmp_path / "data.npz", model.inputs)
    ranges = calibrate(model, samples, "minmax")
    methods = ("equalize", "activations", "weights", "rounding", "bias")
    found = improve(model, ranges, TABLE, samples, methods)
    graph, _ = quantize(found.model, found.ranges, TABLE, improved=found.improved)
    plain, _ = quantize(model, ranges, TABLE)
    feeds = {"image": mixed(16, seed=3)}
    with exact(model) as float_, exact(plain) as before, exact(graph) as after:
        wanted, first, second = (each.infer(feeds)["y"] for each in (float_, before, after))
    assert "rounding" in found.methods, found.notes
    assert sqnr(wanted, second) > sqnr(wanted, first) + 1


def test_auto_judges_the_network_in_fp8(tmp_path: Path) -> None:
    model = net()
    samples = samples_of(model, tmp_path)
    ranges = settle(model, calibrate(model, samples), samples, TABLE)
    assert ranges.chosen_for == "tensorrt fp8"
    assert set(ranges.tried) == {"entropy", "minmax", "percentile", "mse"}
    # What was judged in INT8 is judged anew where there are samples.
    other = settle(model, calibrate(model, samples), samples, "tensorrt")
    assert other.chosen_for == "tensorrt"
    prepared = improve(model, other, TABLE, samples, ["weights"])
    assert prepared.ranges.chosen_for == "tensorrt fp8"


def test_without_samples_ranges_by_auto_hold_all_that_was_seen() -> None:
    tensors = {
        "cut": Range(-1.0, 1.0, -5.0, 9.0, "entropy"), "mine": Range(0, 1, 0, 3, BY_HAND),
        "whole": Range(-2.0, 2.0, -2.0, 2.0, "minmax"),
    }  # fmt: skip
    ranges = Ranges("auto", 1, "", "", "", tensors, chosen_for="tensorrt")
    found, note = whole_ranges(ranges)
    assert [(r.low, r.high) for r in found.tensors.values()] == [(-5, 9), (0, 1), (-2, 2)]
    assert note.startswith("1 ranges hold all that was seen")
    asked = replace(ranges, method="entropy")
    assert whole_ranges(asked) == (asked, "")


def test_integers_are_not_rounded_to_fp8_nor_fp8_to_integers(
    measured: tuple[Model, Ranges],
) -> None:
    model, ranges = measured
    integers, _ = quantize(model, ranges, "tensorrt")
    floats, _ = quantize(model, ranges, TABLE)
    with pytest.raises(InputError, match="quantized to integers already"):
        retarget(integers, TABLE)
    with pytest.raises(NotSupportedError, match="reads FP8, whose numbers are no integers"):
        retarget(floats, placement("openvino"))


def test_surgery_for_tensorrt_leaves_fp8_as_it_is(measured: tuple[Model, Ranges]) -> None:
    graph, _ = quantize(*measured, TABLE)
    cleaned, _ = surgery.run(graph, target="tensorrt")
    assert cleaned.operators() == graph.operators()
    x = random_feeds(graph.inputs, 2, seed=1)
    with exact(graph) as before, exact(cleaned) as after:
        np.testing.assert_array_equal(before.infer(x)["y"], after.infer(x)["y"])


def test_a_table_says_its_format_and_reads_back(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(placement_text(TABLE))
    assert read_placement(tmp_path / "t.toml", "tensorrt", kind="fp8") == TABLE
    with pytest.raises(InputError, match="is a table for fp8, not for int8"):
        read_placement(tmp_path / "t.toml", "tensorrt")


def test_a_table_may_allow_fewer_channels(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("channels = 4\ngroups = true\n")
    table = read_placement(tmp_path / "t.toml", "tensorrt", kind="fp8")
    model = net()
    _, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), table)
    assert report.layers == ["first", "second", "last"]
    (tmp_path / "t.toml").write_text("channels = -1\n")
    with pytest.raises(InputError, match="channels is -1; write a number"):
        read_placement(tmp_path / "t.toml", "tensorrt", kind="fp8")


def test_the_command_line_writes_an_fp8_graph(tmp_path: Path, cli: Cli) -> None:
    model = net()
    model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=weights(8, 16, 8, 8))
    ranges, out = tmp_path / "r.json", tmp_path / "q.onnx"
    done = cli("calibrate", tmp_path / "net.onnx", "--data", tmp_path / "data.npz", "-o", ranges)
    assert done.returncode == 0, done.stderr
    done = cli(
        "quantize", tmp_path / "net.onnx", "--ranges", ranges, "--target", "tensorrt",
        "--precision", "fp8", "--samples", tmp_path / "data.npz", "-o", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 of 3 layers in FP8" in done.stdout
    assert "in float: last (the target has no FP8 for 5 inputs or outputs" in done.stdout
    told = json.loads(Model.load(out).metadata["onnxgraft.precision"])
    assert (told["target"], told["fp8"]) == ("tensorrt", 2)
    for target in ("openvino", "onnxruntime"):
        done = cli(
            "quantize", tmp_path / "net.onnx", "--ranges", ranges, "--target", target,
            "--precision", "fp8", "-o", tmp_path / "other.onnx",
        )  # fmt: skip
        assert done.returncode != 0
        assert "runs no FP8 here; tensorrt does, or quantize to int8" in " ".join(
            done.stderr.split()
        )
        assert not (tmp_path / "other.onnx").exists()
