"""Samples from folders, lists and arrays, and the recipe that prepares images."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from onnxgraft.data.image_header import Form
from onnxgraft.data.images import read_image
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Samples, arrange, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec

NHWC = TensorSpec("image", "float32", ("N", 12, 16, 3))
NCHW = TensorSpec("image", "float32", ("N", 3, 12, 16))
VECTOR = TensorSpec("x", "float32", ("N", 4))


def pixels(seed: int = 0, height: int = 12, width: int = 16) -> Array:
    """Return seeded (height, width, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path: Path, image: Array) -> Path:
    """Write an image in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def names(samples: Samples) -> list[str]:
    """Return the file names of the samples."""
    return [Path(sample.name).name for sample in samples]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with ten images of noise."""
    for index in range(10):
        write(tmp_path / "images" / f"{index}.bmp", pixels(index))
    return tmp_path / "images"


# Finding samples.


def test_a_folder_gives_its_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.bmp", "d.jpeg"):
        write(tmp_path / name, pixels())
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "deeper").mkdir()
    assert names(open_samples(tmp_path, [NHWC])) == ["a.JPG", "b.png", "c.bmp", "d.jpeg"]


def test_a_png_beside_a_photograph_of_its_stem_is_the_label(tmp_path: Path) -> None:
    label = np.random.default_rng(1).integers(0, 11, (12, 16), np.uint8)
    write(tmp_path / "street.jpg", pixels())
    write(tmp_path / "street.png", label)
    samples = open_samples(tmp_path, [NHWC])
    assert samples.labelled
    (sample,) = samples
    assert Path(sample.name).name == "street.jpg"
    assert sample.label is not None
    assert sample.label.dtype == np.uint8
    assert (sample.label == label).all()


def test_pngs_alone_are_photographs(tmp_path: Path) -> None:
    write(tmp_path / "a.png", pixels())
    samples = open_samples(tmp_path, [NHWC])
    assert names(samples) == ["a.png"]
    assert not samples.labelled


def test_one_photograph_without_a_label_makes_the_set_unlabelled(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path / name, pixels())
    write(tmp_path / "a.png", pixels()[:, :, 0])
    samples = open_samples(tmp_path, [NHWC])
    assert names(samples) == ["a.jpg", "b.jpg"]
    assert [sample.label is None for sample in samples] == [False, True]
    assert not samples.labelled


def test_a_list_is_relative_to_its_file_and_has_labels_after_a_tab(tmp_path: Path) -> None:
    label = np.full((12, 16), 7, np.uint8)
    write(tmp_path / "photographs" / "b.jpg", pixels())
    write(tmp_path / "photographs" / "a b.jpg", pixels())
    write(tmp_path / "truth" / "b.png", label)
    text = "photographs/b.jpg\ttruth/b.png\n\n  photographs/a b.jpg  \n"
    (tmp_path / "list.txt").write_text(text)
    samples = list(open_samples(tmp_path / "list.txt", [NHWC]))
    assert [Path(sample.name).name for sample in samples] == ["b.jpg", "a b.jpg"]
    assert samples[0].label is not None
    assert (samples[0].label == 7).all()
    assert samples[1].label is None


def test_a_list_may_have_the_line_ends_of_windows_and_absolute_paths(folder: Path) -> None:
    listed = folder.parent / "list.txt"
    listed.write_bytes(f"{folder}/3.bmp\r\nimages/1.bmp\r\n".encode())
    assert names(open_samples(listed, [NHWC])) == ["3.bmp", "1.bmp"]


def test_an_npz_feeds_its_rows_and_labels(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(tmp_path / "a.npz", x=x, labels=np.array([2, 0, 1]))
    samples = open_samples(tmp_path / "a.npz", [VECTOR])
    assert len(samples) == 3
    assert samples.labelled
    for index, sample in enumerate(samples):
        assert sample.name == f"{tmp_path / 'a.npz'}[{index}]"
        assert sample.feeds["x"].shape == (1, 4)
        assert (sample.feeds["x"] == x[index]).all()
        assert sample.label is not None
        assert int(sample.label) == [2, 0, 1][index]


def test_an_npz_has_an_array_for_each_input(tmp_path: Path) -> None:
    other = TensorSpec("scope/flag:0", "float64", ("N",))
    np.savez(tmp_path / "a.npz", **{"x": np.ones((2, 4)), "scope/flag": np.array([5, 6])})
    (first, second) = open_samples(tmp_path / "a.npz", [VECTOR, other])
    assert set(first.feeds) == {"x", "scope/flag:0"}
    assert first.feeds["x"].dtype == np.float32
    assert second.feeds["scope/flag:0"].dtype == np.float64
    assert second.feeds["scope/flag:0"].tolist() == [6.0]


def test_the_only_array_feeds_the_only_input_whatever_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", anything=np.ones((2, 4), np.float32))
    assert all("x" in sample.feeds for sample in open_samples(tmp_path / "a.npz", [VECTOR]))


def test_images_in_an_npz_are_arranged_as_the_input_wants(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((2, 12, 16, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", image=images)
    (first, _) = open_samples(tmp_path / "a.npz", [NCHW])
    assert (first.feeds["image"][0] == images[0].transpose(2, 0, 1)).all()


# Choosing among them.


def test_a_seeded_choice_is_a_subset_without_repetition_and_always_the_same(folder: Path) -> None:
    every = names(open_samples(folder, [NHWC]))
    chosen = [names(open_samples(folder, [NHWC], images=4, seed=7)) for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 4
    assert set(chosen[0]) < set(every)


def test_another_seed_chooses_others(folder: Path) -> None:
    choices = {tuple(names(open_samples(folder, [NHWC], images=4, seed=s))) for s in range(5)}
    assert len(choices) > 1


def test_asking_for_more_than_there_are_gives_all(folder: Path) -> None:
    assert len(open_samples(folder, [NHWC], images=99)) == 10


@pytest.mark.parametrize("images", [0, -3])
def test_asking_for_none_is_an_error(folder: Path, images: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        open_samples(folder, [NHWC], images=images)


def test_samples_can_be_run_over_again(folder: Path) -> None:
    samples = open_samples(folder, [NHWC])
    assert names(samples) == names(samples)


def test_head_is_the_beginning(folder: Path) -> None:
    samples = open_samples(folder, [NHWC])
    assert names(samples.head(3)) == names(samples)[:3]
    assert len(samples.head(3)) == 3


# The recipe.


def test_a_decoded_image_is_bgr(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 255  # blue, in OpenCV's order
    assert (read_image(write(tmp_path / "blue.png", image)) == image).all()


@pytest.mark.parametrize("color", ["bgr", "rgb", "gray"])
def test_colour_order(tmp_path: Path, color: str) -> None:
    image = pixels()
    path = write(tmp_path / "a.png", image)
    made = Preprocess.model_validate({"color": color}).image(path)
    expected = {
        "bgr": image,
        "rgb": image[:, :, ::-1],
        "gray": cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, np.newaxis],
    }[color]
    assert made.dtype == np.float32
    # The decoder's conversion to gray may round differently by one step from cvtColor's.
    assert np.abs(made - expected).max() <= (1 if color == "gray" else 0)


def test_mean_and_scale_are_in_the_order_of_the_colours(tmp_path: Path) -> None:
    image = pixels()
    path = write(tmp_path / "a.png", image)
    mean, scale = (123.68, 116.78, 103.94), (0.5, 0.25, 2.0)
    made = Preprocess(color="rgb", mean=mean, scale=scale).image(path)
    for channel in range(3):
        expected = (image[:, :, 2 - channel] - mean[channel]) * scale[channel]
        # float32 keeps 255 to 1.5e-5, twice that after the factor of 2.
        assert np.abs(made[:, :, channel] - expected).max() < 4e-5


def test_one_mean_and_one_scale_hold_for_all_channels(tmp_path: Path) -> None:
    image = pixels()
    made = Preprocess(mean=(128.0,), scale=(1 / 128,)).image(write(tmp_path / "a.png", image))
    assert np.abs(made - (image.astype(np.float64) - 128) / 128).max() < 1e-7


@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [
        ("nearest", cv2.INTER_NEAREST),
        ("bilinear", cv2.INTER_LINEAR),
        ("area", cv2.INTER_AREA),
    ],
)
@pytest.mark.parametrize("color", ["bgr", "gray"])
def test_resize_is_height_by_width(
    tmp_path: Path, interpolation: str, mode: int, color: str
) -> None:
    path = write(tmp_path / "a.png", pixels())
    recipe = Preprocess.model_validate({
        "resize": (6, 20),
        "interpolation": interpolation,
        "color": color,
    })
    decoded = read_image(path, gray=color == "gray")
    expected = cv2.resize(decoded, (20, 6), interpolation=mode).reshape(6, 20, -1)
    assert (recipe.image(path) == expected).all()


def test_crop_is_top_left_height_width_after_the_resize(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", pixels())
    made = Preprocess(resize=(24, 32), crop=(1, 5, 20, 8)).image(path)
    assert (made == cv2.resize(pixels(), (32, 24))[1:21, 5:13]).all()


def test_a_label_is_resized_without_inventing_classes(tmp_path: Path) -> None:
    label = np.random.default_rng(0).choice([0, 10, 200], (12, 16)).astype(np.uint8)
    path = write(tmp_path / "a.png", label)
    made = Preprocess(resize=(5, 7), crop=(1, 1, 3, 4), mean=(9.0,)).label(path)
    expected = cv2.resize(label, (7, 5), interpolation=cv2.INTER_NEAREST)[1:4, 1:5]
    assert (made == expected).all()
    assert set(np.unique(made)) <= {0, 10, 200}


def test_a_label_stays_under_its_pixels(tmp_path: Path) -> None:
    # Left half class 1 and dark, right half class 2 and bright: after the crop they still agree.
    label = np.repeat([[1] * 8 + [2] * 8], 12, axis=0).astype(np.uint8)
    write(tmp_path / "a.png", label)
    write(tmp_path / "a.bmp", np.repeat((label == 2)[:, :, None], 3, 2).astype(np.uint8) * 255)
    recipe = Preprocess(resize=(24, 32), interpolation="nearest", crop=(2, 9, 12, 16))
    (sample,) = open_samples(tmp_path, [NHWC], recipe)
    assert sample.label is not None
    assert ((sample.feeds["image"][0, :, :, 0] == 255) == (sample.label == 2)).all()
    assert set(np.unique(sample.label)) == {1, 2}


@pytest.mark.parametrize(
    ("spec", "layout", "perm"),
    [
        (NHWC, "auto", (0, 1, 2, 3)),
        (NHWC, "nhwc", (0, 1, 2, 3)),
        (NHWC, "nchw", None),
        (NCHW, "auto", (0, 3, 1, 2)),
        (NCHW, "nchw", (0, 3, 1, 2)),
        (NCHW, "nhwc", None),
    ],
    ids=["nhwc_auto", "nhwc_nhwc", "nhwc_nchw", "nchw_auto", "nchw_nchw", "nchw_nhwc"],
)
def test_an_image_is_arranged_as_the_input_wants(
    spec: TensorSpec, layout: str, perm: tuple[int, ...] | None
) -> None:
    batch = pixels()[np.newaxis]
    made = arrange(batch, spec, layout)
    if perm is None:
        assert made is None
    else:
        assert made is not None
        assert made.flags.c_contiguous
        assert (made == batch.transpose(perm)).all()


def test_a_layout_settles_what_the_shape_leaves_open() -> None:
    batch = np.random.default_rng(0).standard_normal((1, 3, 3, 3))
    free = TensorSpec("image", "float32", ("N", 3, 3, 3))
    chosen = arrange(batch, free, "nchw")
    assert chosen is not None
    assert (chosen == batch.transpose(0, 3, 1, 2)).all()


def test_the_feed_has_the_type_of_the_input(tmp_path: Path) -> None:
    write(tmp_path / "a.png", pixels())
    spec = TensorSpec("image", "float16", ("N", 3, 12, 16))
    (sample,) = open_samples(tmp_path, [spec])
    assert sample.feeds["image"].dtype == np.float16
    assert sample.feeds["image"].shape == (1, 3, 12, 16)


def test_the_fingerprint_tells_recipes_apart() -> None:
    recipes = [Preprocess(), Preprocess(color="rgb"), Preprocess(mean=(1.0,)), Preprocess()]
    prints = [recipe.fingerprint for recipe in recipes]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    "field",
    [{"colour": "bgr"}, {"color": "hsv"}, {"layout": "chw"}, {"resize": (1,)}],
    ids=["unknown_field", "color", "layout", "resize"],
)
def test_a_recipe_with_a_wrong_field_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocess.model_validate(field)


# Errors.


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images in it \(looked for .*\.jpg"):
        open_samples(tmp_path, [NHWC])


def test_an_empty_list_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n\n")
    with pytest.raises(InputError, match="no images in it"):
        open_samples(tmp_path / "list.txt", [NHWC])


def test_data_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: the data does not exist"):
        open_samples(tmp_path / "nowhere", [NHWC])


def test_a_binary_file_is_no_list(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", pixels())
    with pytest.raises(InputError, match=r"is not a folder, an \.npz or a text file"):
        open_samples(tmp_path / "a.jpg", [NHWC])


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "cut_short"]
)
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    samples = open_samples(tmp_path, [NHWC])
    with pytest.raises(InputError, match=r"a\.png: .*image"):
        list(samples)


def test_a_list_line_that_names_a_missing_file_is_told_by_its_number(folder: Path) -> None:
    listed = folder.parent / "list.txt"
    listed.write_text("images/1.bmp\n\nimages/none.bmp\n")
    with pytest.raises(InputError, match=r"list\.txt, line 3: .*none\.bmp does not exist"):
        open_samples(listed, [NHWC])


def test_a_list_line_that_names_a_missing_label_is_told_by_its_number(folder: Path) -> None:
    listed = folder.parent / "list.txt"
    listed.write_text("images/1.bmp\timages/1.bmp\nimages/2.bmp\ttruth/2.png\n")
    with pytest.raises(InputError, match=r"list\.txt, line 2: .*truth/2\.png does not exist"):
        open_samples(listed, [NHWC])


def test_a_wrong_size_tells_the_recipe_and_the_input(tmp_path: Path) -> None:
    write(tmp_path / "a.png", pixels(height=10))
    with pytest.raises(InputError) as caught:
        list(open_samples(tmp_path, [NHWC]))
    assert "the recipe makes an image of 10x16x3" in str(caught.value)
    assert "the model's input is image (N, 12, 16, 3) float32" in str(caught.value)
    assert "[preprocess]" in str(caught.value)


def test_a_crop_beyond_the_image_tells_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", pixels())
    with pytest.raises(InputError, match=r"rows 4\.\.13 and columns 0\.\.15 .* image of 12x16"):
        Preprocess(crop=(4, 0, 10, 16)).image(path)


@pytest.mark.parametrize("crop", [(-1, 0, 4, 4), (0, -2, 4, 4), (0, 0, 0, 4), (0, 0, 4, -1)])
def test_a_crop_that_is_none_is_refused(tmp_path: Path, crop: tuple[int, int, int, int]) -> None:
    path = write(tmp_path / "a.png", pixels())
    with pytest.raises((InputError, ValidationError)):
        Preprocess(crop=crop).image(path)


@pytest.mark.parametrize("resize", [(0, 10), (10, -1)])
def test_a_resize_to_nothing_is_refused(tmp_path: Path, resize: tuple[int, int]) -> None:
    path = write(tmp_path / "a.png", pixels())
    with pytest.raises((InputError, ValidationError)):
        Preprocess(resize=resize).image(path)


@pytest.mark.parametrize("field", ["mean", "scale"])
def test_a_count_of_values_other_than_the_channels_is_refused(tmp_path: Path, field: str) -> None:
    path = write(tmp_path / "a.png", pixels())
    with pytest.raises(InputError, match=f"recipe's {field} has 2 values, the image 3 channels"):
        Preprocess.model_validate({field: (1.0, 2.0)}).image(path)


def test_images_feed_one_input_only(folder: Path) -> None:
    with pytest.raises(InputError, match=r"the model has 2 \(image, x\); use a \.csv"):
        open_samples(folder, [NHWC, VECTOR])


def test_an_npz_that_is_not_packed_is_held_against_its_checksum(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((2, 4), 7, np.float32))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data.replace(np.float32(7).tobytes(), bytes(4), 1))
    with pytest.raises(InputError, match=r"not a readable \.npz \(Bad CRC-32"):
        open_samples(tmp_path / "a.npz", [VECTOR])


def test_an_npz_with_python_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}, None], object))
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        open_samples(tmp_path / "a.npz", [VECTOR])


class Mine:
    """What a pickle would create; unpickling it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.path, "w"))


def test_a_pickle_under_the_name_of_an_npz_is_not_executed(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Mine(str(tmp_path / "executed"))))
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        open_samples(tmp_path / "a.npz", [VECTOR])
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04 cut short"], ids=["text", "cut_short"])
def test_a_damaged_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        open_samples(tmp_path / "a.npz", [VECTOR])


def test_a_plain_npy_under_the_name_of_an_npz_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.ones((2, 4), np.float32))
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        open_samples(tmp_path / "a.npz", [VECTOR])


@pytest.mark.parametrize("other", ["labels", "y"])
def test_arrays_of_different_lengths_are_refused(tmp_path: Path, other: str) -> None:
    specs = [VECTOR] if other == "labels" else [VECTOR, TensorSpec("y", "float32", ("N",))]
    np.savez(tmp_path / "a.npz", **{"x": np.ones((3, 4)), other: np.zeros(2)})
    with pytest.raises(InputError, match="the arrays differ in length"):
        open_samples(tmp_path / "a.npz", specs)


@pytest.mark.parametrize("x", [np.ones((0, 4)), np.float32(1)], ids=["no_rows", "scalar"])
def test_an_npz_without_samples_is_refused(tmp_path: Path, x: Array) -> None:
    np.savez(tmp_path / "a.npz", x=x)
    with pytest.raises(InputError, match="no samples in it"):
        open_samples(tmp_path / "a.npz", [VECTOR])


def test_labels_that_are_one_number_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 4)), labels=np.int64(1))
    with pytest.raises(InputError, match="differ in length"):
        open_samples(tmp_path / "a.npz", [VECTOR])


def test_an_npz_without_the_input_names_the_nearest(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgae=np.ones((2, 4)), other=np.ones((2, 4)))
    with pytest.raises(InputError, match=r"no array for the input 'image'; did you mean imgae\?"):
        open_samples(tmp_path / "a.npz", [NHWC])


def test_rows_that_do_not_fit_tell_the_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 5)))
    with pytest.raises(InputError, match=r"rows of \(1, 5\) do not fit the input x \(N, 4\)"):
        list(open_samples(tmp_path / "a.npz", [VECTOR]))


def test_rows_of_text_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([["a", "b", "c", "d"]]))
    with pytest.raises(InputError, match=r"a\.npz"):
        list(open_samples(tmp_path / "a.npz", [VECTOR]))


# Arrays that are larger than memory, and samples that travel.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_arrays_of_an_npz_are_mapped_not_read(tmp_path: Path, save: Any, order: str) -> None:
    x = np.asarray(np.random.default_rng(0).standard_normal((5, 4)), np.float32, order=order)
    save(tmp_path / "a.npz", x=x, labels=np.arange(5))
    samples = open_samples(tmp_path / "a.npz", [VECTOR])
    assert isinstance(samples.arrays["x"], np.memmap)
    assert [sample.feeds["x"].tolist() for sample in samples] == [[row] for row in x.tolist()]
    (tmp_path / "a.npz").unlink()  # what is mapped stays readable
    assert (samples.at(4).feeds["x"] == x[4]).all()


def test_samples_of_a_file_travel_without_its_contents(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((1000, 4), np.float32), labels=np.arange(1000))
    samples = open_samples(tmp_path / "a.npz", [VECTOR], images=3, seed=1)
    sent = pickle.dumps(samples)
    assert len(sent) < 2000
    arrived = pickle.loads(sent)
    assert arrived == samples
    assert [sample.name for sample in arrived] == [sample.name for sample in samples]
    assert [int(sample.label) for sample in arrived] == list(samples.indices)


def test_a_label_is_not_decoded_where_it_is_not_wanted(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", pixels())
    (tmp_path / "a.png").write_bytes(b"not an image")
    samples = open_samples(tmp_path, [NHWC])
    assert samples.at(0, labelled=False).label is None
    with pytest.raises(InputError, match=r"a\.png"):
        samples.at(0)


def test_the_identity_is_that_of_the_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.png", pixels(0))
    write(tmp_path / "b.png", pixels(1))
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    samples = open_samples(tmp_path, [NHWC])
    digests = [samples.identity(position) for position in range(3)]
    assert digests[0] == digests[2] != digests[1]
    assert digests[0] == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert [sample.images[0].form for sample in samples] == [Form(16, 12, 3, 8)] * 3


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_that_no_file_of_ranges_holds_is_refused_before_the_work(
    tmp_path: Path, seed: int
) -> None:
    write(tmp_path / "a.png", pixels())
    with pytest.raises(InputError, match=rf"--seed {seed}: a whole number from 0 to 9"):
        open_samples(tmp_path, [NHWC], seed=seed)
