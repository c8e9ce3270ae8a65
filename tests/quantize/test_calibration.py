"""One pass over the samples, and what it is bound to."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError
from onnxgraft.model import Model
from onnxgraft.quantize import METHODS, Method, calibrate, choose_range, fingerprint
from onnxgraft.ranges import Histogram
from onnxgraft.reference import OnnxRuntime, exposing
from onnxgraft.runtime import Array
from onnxgraft.samples import Samples, open_samples
from tests.conftest import model_of

NETWORK = """
network (float[N, 3, 8, 8] image) => (float[N, 5] score) {
    [conv1] made1 = Conv <pads = [1, 1, 1, 1]> (image, weights1, bias1)
    [relu1] seen1 = Relu (made1)
    [pool1] small = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (seen1)
    [conv2] made2 = Conv (small, weights2)
    [relu2] seen2 = Relu (made2)
    [flatten] flat = Flatten (seen2)
    [dense] score = Gemm (flat, weights3, bias3)
}
"""


def constants(seed: int = 0) -> dict[str, Array]:
    """Return the seeded weights of the network."""
    rng = np.random.default_rng(seed)
    shapes = {
        "weights1": (4, 3, 3, 3), "bias1": (4,), "weights2": (6, 4, 3, 3), "weights3": (24, 5),
        "bias3": (5,),
    }  # fmt: skip
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture
def model() -> Model:
    """Return the network with its weights."""
    return model_of(NETWORK, constants())


def images(count: int = 10, seed: int = 1) -> Array:
    """Return seeded images of a range that grows from one to the next."""
    rng = np.random.default_rng(seed)
    grown = np.linspace(0.5, 2, count).reshape(-1, 1, 1, 1)
    return (rng.standard_normal((count, 3, 8, 8)) * grown).astype(np.float32)


def samples_of(folder: Path, model: Model, **arrays: Array) -> Samples:
    """Return samples from arrays in a file."""
    np.savez(folder / "data.npz", **arrays)
    return open_samples(folder / "data.npz", model.inputs)


def values_of(model: Model, batch: Array) -> dict[str, Array]:
    """Return for all samples what is counted: the first Relu behind its pooling."""
    names = ["small", "seen2"]
    with OnnxRuntime(exposing(model.to_onnx(), names)) as session:
        runs = [session.infer({"image": row[None]}) for row in batch]
    inner = {name: np.concatenate([run[name] for run in runs]) for name in names}
    return {"image": batch, **inner}


def test_minmax_is_what_onnxruntime_computes(model: Model, tmp_path: Path) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images()), "minmax")
    expected = values_of(model, images())
    assert set(ranges.tensors) == {"image", "seen1", "seen2"}
    assert set(ranges.histograms) == set(expected)
    for name, found in ranges.tensors.items():
        value = expected[ranges.sites[name][0]]
        assert (found.low, found.high) == (value.min(), value.max()), name


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_chosen_from_the_histograms_by_the_method(
    model: Model, tmp_path: Path, method: Method
) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images()), method)
    for site, value in values_of(model, images()).items():
        histogram = Histogram()
        histogram.add(value)
        assert (ranges.histograms[site].counts == histogram.counts).all()
        [name] = [name for name, sites in ranges.sites.items() if sites == [site]]
        assert ranges.tensors[name] == choose_range(histogram, method)


def test_only_the_tensors_that_a_target_wants_are_measured(model: Model, tmp_path: Path) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images(2)))
    assert not {"made1", "seen1", "flat", "weights1", "score"} & set(ranges.histograms)


def test_what_it_was_made_from_is_recorded(model: Model, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, model, image=images(7))
    ranges = calibrate(model, samples, "percentile")
    assert (ranges.method, ranges.images) == ("percentile", 7)
    assert ranges.data == str(tmp_path / "data.npz")
    assert ranges.model == fingerprint(model)
    assert ranges.preprocess == samples.preprocess.fingerprint


def test_the_order_of_the_samples_does_not_matter(model: Model, tmp_path: Path) -> None:
    forth = calibrate(model, samples_of(tmp_path, model, image=images()))
    back = calibrate(model, samples_of(tmp_path, model, image=images()[::-1]))
    assert forth.tensors == back.tensors


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_sample_is_named_with_its_tensor(model: Model, tmp_path: Path, bad: float) -> None:
    batch = images(5)
    batch[3, 0, 0, 0] = bad
    with pytest.raises(
        InputError, match=r"data\.npz\[3\]: of the 192 values of the tensor 'image' "
    ):
        calibrate(model, samples_of(tmp_path, model, image=batch))


def test_a_nan_that_the_network_makes_is_named_where_it_appears(tmp_path: Path) -> None:
    model = model_of(
        """network (float[N, 4] x) => (float[N, 3] y) {
            [root] rooted = Sqrt (x)
            [dense] y = MatMul (rooted, weights)
        }""",
        {"weights": np.ones((4, 3), np.float32)},
    )
    x = np.ones((4, 4), np.float32)
    x[2] = -1.0
    with pytest.raises(InputError, match=r"data\.npz\[2\]: .* 'rooted' 4 become NaN and 0"):
        calibrate(model, samples_of(tmp_path, model, x=x))


def test_a_network_without_layers_has_nothing_to_calibrate(tmp_path: Path) -> None:
    model = model_of("network (float[N, 4] x) => (float[N, 4] y) { [relu] y = Relu (x) }")
    samples = samples_of(tmp_path, model, x=np.ones((2, 4), np.float32))
    with pytest.raises(InputError, match="no layer that could run in INT8"):
        calibrate(model, samples)


def test_a_layer_that_reads_the_input_alone_needs_no_inner_tensor(tmp_path: Path) -> None:
    # Only 'x' is wanted, and that is fed: onnxruntime has nothing to compute.
    model = model_of(
        "network (float[N, 4] x) => (float[N, 3] y) { [dense] y = MatMul (x, weights) }",
        {"weights": np.ones((4, 3), np.float32)},
    )
    ranges = calibrate(model, samples_of(tmp_path, model, x=np.eye(4, dtype=np.float32)), "minmax")
    assert (ranges.tensors["x"].low, ranges.tensors["x"].high) == (0.0, 1.0)


def test_every_input_of_several_is_measured(tmp_path: Path) -> None:
    model = model_of(
        """network (float[N, 4] a, float[N, 4] b) => (float[N, 3] y) {
            [left] l = MatMul (a, weights)
            [right] r = MatMul (b, weights)
            [add] sum = Add (l, r)
            [tanh] y = Tanh (sum)
        }""",
        {"weights": np.ones((4, 3), np.float32)},
    )
    one = np.ones((2, 4), np.float32)
    ranges = calibrate(model, samples_of(tmp_path, model, a=one, b=-2 * one), "minmax")
    assert (ranges.tensors["a"].high, ranges.tensors["b"].low) == (1.0, -2.0)
    assert (ranges.tensors["l"].high, ranges.tensors["r"].low) == (4.0, -8.0)
    assert ranges.tensors["sum"].low == -4.0


# The fingerprint.


def test_the_fingerprint_survives_saving(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.onnx")
    loaded = Model.load(tmp_path / "model.onnx")
    assert fingerprint(loaded) == fingerprint(model) == fingerprint(model.copy())
    loaded.save(tmp_path / "again.onnx")
    assert fingerprint(Model.load(tmp_path / "again.onnx")) == fingerprint(model)


def test_the_fingerprint_does_not_look_at_notes(model: Model) -> None:
    proto = model.to_onnx()
    proto.producer_name = "someone else"
    proto.doc_string = "a note"
    proto.graph.doc_string = "another"
    assert fingerprint(Model.from_onnx(proto, model.source)) == fingerprint(model)


@pytest.mark.parametrize("name", ["weights1", "bias3"])
def test_the_fingerprint_changes_with_a_weight(model: Model, name: str) -> None:
    changed = constants()
    changed[name].flat[0] = np.nextafter(changed[name].flat[0], np.float32(9))
    assert fingerprint(model_of(NETWORK, changed)) != fingerprint(model)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[2, 2], strides = [2, 2]", "[2, 2], strides = [1, 1]"),
        ("Relu (made2)", "Elu (made2)"),
        ("Relu (made1)", "Relu (image)"),
    ],
    ids=["attribute", "operator", "edge"],
)
def test_the_fingerprint_changes_with_the_graph(model: Model, old: str, new: str) -> None:
    assert old in NETWORK
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]>\n{NETWORK.replace(old, new)}'
    )
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants().items()
    )
    assert fingerprint(Model.from_onnx(proto, model.source)) != fingerprint(model)
