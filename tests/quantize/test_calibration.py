"""One pass over the samples, and what it is bound to."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.ranges import SETTLED, Histogram, Ranges, read_overrides
from onnxgraft.data.samples import Samples, open_samples, overlap
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.stages.quantize import (
    METHODS,
    Method,
    calibrate,
    choose_range,
    fingerprint,
    quantize,
    rechoose,
)
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


def test_ranges_for_one_target_are_fewer_and_serve_no_other(model: Model, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, model, image=images(2))
    every, some = calibrate(model, samples), calibrate(model, samples, targets=["tensorrt"])
    assert set(some.tensors) <= set(every.tensors)
    assert all(every.tensors[name] == value for name, value in some.tensors.items())
    some.save(tmp_path / "some.json")
    loaded = Ranges.load(tmp_path / "some.json")
    assert quantize(model, loaded, "tensorrt")[1].float_layers == []
    with pytest.raises(InputError, match="for tensorrt, not for onnxruntime; calibrate with --t"):
        quantize(model, loaded, "onnxruntime")


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


# Methods and ranges changed afterwards.


@pytest.mark.parametrize("method", METHODS)
def test_another_method_chooses_from_the_stored_histograms_what_it_would_have_chosen(
    model: Model, tmp_path: Path, method: Method
) -> None:
    samples = samples_of(tmp_path, model, image=images(12))
    calibrate(model, samples, "entropy", per_channel=["seen2"]).save(tmp_path / "r.json")
    stored = Ranges.load(tmp_path / "r.json", histograms=True)
    changed = rechoose(stored, method)
    expected = calibrate(model, samples, method, per_channel=["seen2"])
    for field in ("method", "tensors", "channels", "moved", "samples", "sites", "model"):
        assert getattr(changed, field) == getattr(expected, field), field


def test_without_histograms_nothing_can_be_chosen_again(model: Model, tmp_path: Path) -> None:
    calibrate(model, samples_of(tmp_path, model, image=images(3))).save(tmp_path / "r.json")
    with pytest.raises(InputError, match="has no histograms beside it"):
        rechoose(Ranges.load(tmp_path / "r.json"), "minmax")
    (tmp_path / "r.json.histograms.npz").unlink()
    with pytest.raises(InputError, match="the histograms of the ranges does not exist"):
        Ranges.load(tmp_path / "r.json", histograms=True)


def test_a_range_by_hand_is_marked_and_stays(model: Model, tmp_path: Path) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images()), "minmax")
    (tmp_path / "o.toml").write_text('"seen1" = 2.5\n"image" = [-1, 0.5]\n')
    merged = ranges.with_overrides(read_overrides(tmp_path / "o.toml"), "o.toml")
    assert (merged.tensors["seen1"].low, merged.tensors["seen1"].high) == (-2.5, 2.5)
    assert (merged.tensors["image"].low, merged.tensors["image"].high) == (-1.0, 0.5)
    assert merged.tensors["seen1"].origin == "by hand"
    assert merged.tensors["seen1"].maximum == ranges.tensors["seen1"].maximum
    assert merged.tensors["seen2"] == ranges.tensors["seen2"]
    assert rechoose(merged, "mse").tensors["seen1"] == merged.tensors["seen1"]
    assert rechoose(merged, "mse").tensors["seen2"].origin == "mse"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('"seen1" = "much"', 'write "tensor" = 6.0'),
        ('"seen1" = [1, 2, 3]', 'write "tensor" = 6.0'),
        ('"seen1" = true', 'write "tensor" = 6.0'),
        ("a.b = 3.0", "the name in quotation marks"),
        ("= 3", "not a TOML file"),
    ],
)
def test_a_wrong_file_of_ranges_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "o.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        read_overrides(tmp_path / "o.toml")


@pytest.mark.parametrize(
    ("name", "bounds", "told"),
    [
        ("seen3", (0.0, 1.0), "did you mean"),
        ("seen1", (1.0, 1.0), "is not a range"),
        ("seen1", (0.0, math.inf), "is not a range"),
    ],
)
def test_an_impossible_range_by_hand_is_refused(
    model: Model, tmp_path: Path, name: str, bounds: tuple[float, float], told: str
) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images(3)))
    with pytest.raises(InputError, match=f"o.toml {name}: .*{told}"):
        ranges.with_overrides({name: bounds}, "o.toml")


# Per channel.


def test_each_channel_has_the_range_of_its_own_values(model: Model, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, model, image=images())
    ranges = calibrate(model, samples, "minmax", per_channel=["seen2", "image"])
    for name in ("seen2", "image"):
        value = values_of(model, images())[name]
        found = [(channel.low, channel.high) for channel in ranges.channels[name]]
        assert found == [(value[:, c].min(), value[:, c].max()) for c in range(value.shape[1])]
        together = sum(h.counts for h in ranges.channel_histograms[name])
        assert (together == ranges.histograms[name].counts).all()


def test_a_tensor_that_is_not_measured_has_no_channels(model: Model, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, model, image=images(2))
    with pytest.raises(InputError, match=r"--per-channel seen3: .*did you mean"):
        calibrate(model, samples, per_channel=["seen3"])


# How far the ranges still moved.


def test_what_the_quarter_kept_apart_moved_is_told(model: Model, tmp_path: Path) -> None:
    batch = np.tile(images(1), (12, 1, 1, 1))
    steady = calibrate(model, samples_of(tmp_path, model, image=batch), "minmax")
    assert set(steady.moved.values()) == {0.0}
    batch[[3, 7, 11]] *= 4
    grown = calibrate(model, samples_of(tmp_path, model, image=batch), "minmax")
    assert grown.moved["image"] == 0.75
    batch[8] *= 4  # another one
    assert calibrate(model, samples_of(tmp_path, model, image=batch), "minmax").moved["image"] == 0


# Samples that can't be used.


def test_bad_samples_are_left_out_and_counted_where_asked(model: Model, tmp_path: Path) -> None:
    batch = images(10)
    batch[3, 1, 2, 3] = np.nan
    batch[8, 1, 2, 3] = np.inf
    samples = samples_of(tmp_path, model, image=batch)
    ranges = calibrate(model, samples, skip_bad=True)
    source = str(tmp_path / "data.npz")
    assert list(ranges.skipped) == [f"{source}[3]", f"{source}[8]"]
    assert "'image' 1 become NaN and 0 infinite" in ranges.skipped[f"{source}[3]"]
    assert ranges.images == 8
    assert any("2 of 10 samples were skipped" in note for note in ranges.notes)
    good = batch[[0, 1, 2, 4, 5, 6, 7, 9]]
    (tmp_path / "good").mkdir()
    expected = calibrate(model, samples_of(tmp_path / "good", model, image=good))
    assert ranges.tensors == expected.tensors


def test_nothing_but_bad_samples_is_an_error(model: Model, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, model, image=np.full((3, 3, 8, 8), np.nan, np.float32))
    with pytest.raises(InputError, match="none of the 3 samples can be used; the first is"):
        calibrate(model, samples, skip_bad=True)


def folder_of(place: Path, **pictures: Array) -> Path:
    place.mkdir()
    for name, pixels in pictures.items():
        assert cv2.imwrite(str(place / f"{name}.png"), pixels)
    return place


def noise(height: int, width: int, channels: int = 3, dtype: str = "uint8", seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (height, width, channels)).astype(dtype)


def test_images_unlike_the_others_are_told_once_with_a_count(model: Model, tmp_path: Path) -> None:
    data = folder_of(
        tmp_path / "d", a=noise(8, 8), b=noise(8, 8, seed=1), c=noise(9, 16), d=noise(20, 8),
        e=noise(8, 8, 1), f=noise(8, 8, 4), g=noise(8, 8, dtype="uint16"),
    )  # fmt: skip
    notes = calibrate(model, open_samples(data, model.inputs, Preprocess(resize=(8, 8)))).notes
    told = "\n".join(notes)
    assert "2 of 7 images are not 8x8 (width x height) as most are" in told
    assert "16x9 (1)" in told
    assert "the recipe resized all to 8x8" in told
    assert "1 of 7 images are gray" in told
    assert "1 of 7 images are partly transparent" in told
    assert "1 of 7 images are stored with more than 8 bits" in told
    assert len(notes) == 4


def test_a_corrupt_image_and_one_that_does_not_fit_are_named(model: Model, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "d", a=noise(8, 8), b=noise(9, 9), c=noise(8, 8, seed=1))
    (data / "z.png").write_bytes(b"not an image")
    samples = open_samples(data, model.inputs)
    with pytest.raises(InputError, match=r"b\.png: the recipe makes an image of 9x9x3"):
        calibrate(model, samples)
    ranges = calibrate(model, samples, skip_bad=True)
    assert [Path(name).name for name in ranges.skipped] == ["b.png", "z.png"]
    assert ranges.images == 2


def test_samples_that_occur_twice_or_in_the_validation_are_told(
    model: Model, tmp_path: Path
) -> None:
    one, two, three = (noise(8, 8, seed=seed) for seed in range(3))
    data = folder_of(tmp_path / "d", a=one, b=two, c=one)
    ranges = calibrate(model, open_samples(data, model.inputs))
    (note,) = ranges.notes
    assert note.startswith("1 of 3 samples occur more than once, such as")
    assert note.endswith("c.png")
    others = open_samples(folder_of(tmp_path / "v", x=two, y=three), model.inputs)
    assert [Path(name).name for name in overlap(ranges.samples, others)] == ["b.png"]


def test_an_image_that_is_listed_twice_counts_twice_and_is_told(
    model: Model, tmp_path: Path
) -> None:
    folder_of(tmp_path / "d", a=noise(8, 8), b=noise(8, 8, seed=1))
    (tmp_path / "list.txt").write_text("d/a.png\nd/b.png\nd/a.png\n")
    ranges = calibrate(model, open_samples(tmp_path / "list.txt", model.inputs))
    assert ranges.images == 3
    assert ranges.histograms["image"].total == 3 * 192
    assert ranges.notes[0].startswith("1 of 3 samples occur more than once")


def test_histograms_of_another_run_are_refused(model: Model, tmp_path: Path) -> None:
    # A run that is killed between its two files leaves new counts beside old ranges.
    calibrate(model, samples_of(tmp_path, model, image=images(3))).save(tmp_path / "old.json")
    calibrate(model, samples_of(tmp_path, model, image=images(4))).save(tmp_path / "new.json")
    (tmp_path / "new.json.histograms.npz").replace(tmp_path / "old.json.histograms.npz")
    with pytest.raises(InputError, match=r"old\.json\.histograms\.npz: is not what was written"):
        Ranges.load(tmp_path / "old.json", histograms=True)


def test_the_datas_fingerprint_is_that_of_its_contents(model: Model, tmp_path: Path) -> None:
    one, two = noise(8, 8), noise(8, 8, seed=1)
    found = [
        calibrate(model, open_samples(folder_of(tmp_path / name, **files), model.inputs))
        for name, files in {
            "a": {"x": one, "y": two}, "b": {"p": two, "q": one}, "c": {"x": one, "y": one},
        }.items()
    ]  # fmt: skip
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


# How many more samples would settle the ranges.


def moving(median: float, images: int = 40) -> Ranges:
    """Return ranges that a quarter of the samples moved by so much."""
    moved = {"a": median / 2, "b": median, "c": median * 3}
    return Ranges("minmax", images, "", "", "", {}, moved=moved)


@pytest.mark.parametrize(
    ("median", "said"),
    [
        (0.02, "of the 40 samples still moved half of them by more than 2.0%; about 120 more"),
        (0.0101, "about 1 more sample "),
        (0.3, "more than 20 times as many samples"),
        (1e300, "more than 20 times as many samples"),
    ],
)
def test_ranges_that_move_come_with_advice(median: float, said: str) -> None:
    assert said in moving(median).advice


@pytest.mark.parametrize("ranges", [moving(0.009), Ranges("minmax", 4, "", "", "", {})])
def test_ranges_that_are_settled_come_with_none(ranges: Ranges) -> None:
    assert ranges.advice == ""


def test_so_many_samples_settle_a_quantile() -> None:
    # A quantile of n samples is off by c / sqrt(n), as the advice takes any range to be.
    rng = np.random.default_rng(0)

    def median_move(count: int) -> float:
        values = rng.standard_normal((400, count))
        ends = [np.quantile(part, 0.9, axis=1) for part in (values, values[:, : -count // 4])]
        return float(np.median(np.abs(ends[0] - ends[1]) / np.abs(ends[0])))

    now = median_move(200)
    wanted = math.ceil(200 * (now / SETTLED) ** 2)
    assert 200 < wanted < 5000
    # Within what 400 draws tell of a median.
    assert median_move(wanted) == pytest.approx(SETTLED, rel=0.2)
