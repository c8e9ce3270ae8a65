"""Arrays and images divided into feeds: by rows, fixed batches, entries of an input's shape."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft.data.division import divide
from onnxgraft.data.samples import as_samples, open_samples, overlap
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec


def specs(**shapes: tuple[int | str, ...]) -> list[TensorSpec]:
    return [TensorSpec(name, "float32", shape) for name, shape in shapes.items()]


def array(*shape: int) -> Any:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("inputs", "arrays", "total", "second"),
    [
        pytest.param({"x": ("N", 3)}, {"x": array(5, 3)}, 5, {"x": array(5, 3)[1:2]}, id="free"),
        pytest.param({"x": (1, 3)}, {"x": array(5, 3)}, 5, {"x": array(5, 3)[1:2]}, id="one"),
        pytest.param({"x": (4, 3)}, {"x": array(8, 3)}, 2, {"x": array(8, 3)[4:]}, id="fixed"),
        pytest.param({"x": (4, 3)}, {"x": array(2, 4, 3)}, 2, {"x": array(2, 4, 3)[1]},
                     id="fixed_entries"),
        pytest.param({"x": (10, "N", 3)}, {"x": array(5, 10, 1, 3)}, 5,
                     {"x": array(5, 10, 1, 3)[1]}, id="time_first"),
        pytest.param({"x": ("T", "N", 3)}, {"x": array(5, 10, 1, 3)}, 5,
                     {"x": array(5, 10, 1, 3)[1]}, id="free_time_first"),
        pytest.param({"x": ("N", 3), "t": ()}, {"x": array(5, 3), "t": array(5)}, 5,
                     {"x": array(5, 3)[1:2], "t": np.float32(1)}, id="scalar_a_row"),
        pytest.param({"x": ("N", 3), "t": ()}, {"x": array(5, 3), "t": np.float32(7)}, 5,
                     {"x": array(5, 3)[1:2], "t": np.float32(7)}, id="one_scalar"),
        pytest.param({"x": (4, 3), "t": ()}, {"x": array(8, 3), "t": array(2)}, 2,
                     {"x": array(8, 3)[4:], "t": np.float32(1)}, id="scalar_a_batch"),
        pytest.param({"x": (3,)}, {"x": array(5, 3)}, 5, {"x": array(5, 3)[1]}, id="no_batch"),
        pytest.param({"x": ("N", 3), "y": (4, 2)}, {"x": array(8, 3), "y": array(8, 2)}, 2,
                     {"x": array(8, 3)[4:], "y": array(8, 2)[4:]}, id="free_beside_fixed"),
        pytest.param({"x": ("N", 3), "y": (4, 2)}, {"x": array(5, 3), "y": array(4, 2)}, 5,
                     {"x": array(5, 3)[1:2], "y": array(4, 2)}, id="constant_beside_free"),
        pytest.param({"x": ("N", 3), "y": (4, 2)}, {"x": array(8, 3), "y": array(4, 2)}, 8,
                     {"x": array(8, 3)[1:2], "y": array(4, 2)}, id="constant_beside_twice"),
        pytest.param({"x": (4, 3), "y": (2, 2)}, {"x": array(8, 3), "y": array(4, 2)}, 2,
                     {"x": array(8, 3)[4:], "y": array(4, 2)[2:]}, id="two_batches"),
    ],
)  # fmt: skip
def test_what_a_feed_takes(
    tmp_path: Path, inputs: Any, arrays: Any, total: int, second: Any
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    samples = open_samples(tmp_path / "a.npz", specs(**inputs))
    assert len(samples) == total
    found = pickle.loads(pickle.dumps(samples)).at(1).feeds
    for name, value in second.items():
        assert found[name].shape == value.shape
        assert (found[name] == value).all()


@pytest.mark.parametrize("shape", [(4, 3), (10, "N", 3), (3,), ()])
def test_an_array_of_an_inputs_own_shape_is_one_sample(
    tmp_path: Path, shape: tuple[int | str, ...]
) -> None:
    x = array(*(1 if dim == "N" else int(dim) for dim in shape))
    np.savez(tmp_path / "a.npz", x=x)
    (sample,) = open_samples(tmp_path / "a.npz", specs(x=shape))
    assert sample.feeds["x"].shape == x.shape
    assert (sample.feeds["x"] == x).all()


def test_a_batch_of_all_inputs_is_one_sample() -> None:
    arrays = {"x": array(4, 3), "y": array(4, 2)}
    made = divide(arrays, specs(x=("N", 3), y=(4, 2)), "a")
    assert (made.total, dict(made.rows)) == (1, {"x": 4, "y": 4})


def test_what_is_not_used_or_used_again_is_told() -> None:
    made = divide(
        {"x": array(11, 3), "t": array(), "y": array(2, 2)}, specs(x=(4, 3), t=(), y=(2, 2)), "a"
    )
    assert made.total == 2
    assert made.notes == (
        "a: 3 of 11 rows for x were not used; they make no batch of 4",
        "a: the array for t was fed to each sample",
        "a: the array for y was fed to each sample",
    )
    assert divide({"x": array(8, 3)}, specs(x=(4, 3)), "a").notes == ()


def test_fewer_rows_than_a_batch_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=array(3, 2))
    with pytest.raises(InputError, match=r"has 3 rows for the input x \(4, 2\) float32, which "
                       "takes 4 at once; give as many"):  # fmt: skip
        open_samples(tmp_path / "a.npz", specs(x=(4, 2)))


def test_labels_are_of_the_samples_or_of_the_rows(tmp_path: Path) -> None:
    for labels, expected in ((np.arange(9), [4, 5, 6, 7]), (np.arange(2), 1)):
        np.savez(tmp_path / "a.npz", x=array(9, 3), labels=labels)
        samples = open_samples(tmp_path / "a.npz", specs(x=(4, 3)))
        assert samples.labelled
        sample = samples.at(1)
        if isinstance(expected, list):
            assert sample.label is None
            assert [(row.shape, int(label)) for row, label in sample.rows(array(4, 5))] == [
                ((1, 5), label) for label in expected
            ]
            with pytest.raises(InputError, match="4 labels, one for each row"):
                list(sample.rows(array(1, 5)))
        else:
            assert int(sample.label) == expected
    np.savez(tmp_path / "a.npz", x=array(9, 3), labels=np.arange(8))
    with pytest.raises(InputError, match="the arrays differ in length"):
        open_samples(tmp_path / "a.npz", specs(x=(4, 3)))


def test_a_number_of_samples_is_one_of_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=array(40, 2))
    samples = open_samples(tmp_path / "a.npz", specs(x=(4, 2)), images=8, seed=1)
    assert len(samples) == 2
    for sample in samples:  # whole batches, as they stand in the file
        assert (np.diff(sample.feeds["x"], axis=0) == 2).all()
    assert len(open_samples(tmp_path / "a.npz", specs(x=(4, 2)), images=1)) == 1


def test_samples_are_divided_anew_for_another_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=array(9, 2))
    free = open_samples(tmp_path / "a.npz", specs(x=("N", 2)))
    four = as_samples(free, specs(x=(4, 2)))
    assert [sample.feeds["x"].tolist() for sample in four] == [
        array(9, 2)[:4].tolist(), array(9, 2)[4:8].tolist()
    ]  # fmt: skip
    assert len(as_samples(four, specs(x=("N", 2)))) == 8
    with pytest.raises(InputError, match="fill no batch of 4"):
        as_samples(free.head(3), specs(x=(4, 2)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of five images of one number each, each with its label map."""
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.bmp"), np.full((4, 6, 3), number, np.uint8))
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((4, 6), number, np.uint8))
    return tmp_path


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 4, 6, 3)], ids=["nchw", "nhwc"])
def test_images_fill_a_fixed_batch(folder: Path, shape: tuple[int, ...]) -> None:
    samples = open_samples(folder, specs(x=shape))
    assert samples.notes == (f"{folder}: 1 of 5 images were not used; they make no batch of 2",)
    assert [sample.name for sample in samples] == [
        f"{folder / '0.bmp'} and 1 more", f"{folder / '2.bmp'} and 1 more"
    ]  # fmt: skip
    assert samples.labelled
    second = samples.at(1)
    assert second.feeds["x"].shape == shape
    assert [int(row.max()) for row in second.feeds["x"]] == [2, 3]
    assert [int(label.max()) for label in second.labels] == [2, 3]
    assert [image.path.name for image in second.images] == ["2.bmp", "3.bmp"]
    assert overlap({"a": samples.identity(1)}, samples) == ["a"]
    with pytest.raises(InputError, match=r"has 5 images, and the input x .* takes 8 at once"):
        open_samples(folder, specs(x=(8, 3, 4, 6)))


@pytest.mark.parametrize("shape", [(3, 4, 6), (4, 6, 3), ("H", "W", 3)], ids=["chw", "hwc", "free"])
def test_an_image_feeds_an_input_without_a_batch(
    folder: Path, shape: tuple[int | str, ...]
) -> None:
    samples = open_samples(folder, specs(x=shape))
    assert len(samples) == 5
    expected = (3, 4, 6) if shape[0] == 3 else (4, 6, 3)
    assert samples.at(2).feeds["x"].shape == expected
    assert (samples.at(2).feeds["x"] == 2).all()
    with pytest.raises(InputError, match=r"makes an image of 4x6x3"):
        open_samples(folder, specs(x=("N", 4, 6))).at(0)


def test_images_of_one_batch_are_of_one_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "1.bmp"), np.zeros((8, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"0\.bmp: it and the 1 image after it are of different"):
        open_samples(folder, specs(x=(2, 3, "H", "W"))).at(0)
