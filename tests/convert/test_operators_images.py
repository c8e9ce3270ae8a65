"""Operators on images, windows and spectra, each against TensorFlow itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert import Original
from tests.convert.one_operator import outputs, x

tf = pytest.importorskip("tensorflow")

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 12, 9, 3)).astype(np.float32)
# Sums of some ten products in float32, in another order.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def close(pair: tuple[Array, Array]) -> None:
    theirs, mine = pair
    assert theirs.dtype == mine.dtype
    np.testing.assert_allclose(mine, theirs, **CLOSE)


def image(*, free: bool = False) -> Any:
    return x(None, None, None, 3) if free else x(None, 12, 9, 3)


SIZES = {"smaller": (7, 4), "larger": (25, 14), "half": (6, 9)}


@pytest.mark.parametrize("size", ["smaller", "larger"])
@pytest.mark.parametrize("corners", [False, True], ids=["plain", "corners"])
@pytest.mark.parametrize("kind", ["area", "bicubic", "bilinear", "nearest_neighbor"])
def test_an_image_is_resized_as_tensorflow_1_does(
    tmp_path: Path, kind: str, corners: bool, size: str
) -> None:
    resize = getattr(tf.compat.v1.image, f"resize_{kind}")
    close(outputs(tmp_path, lambda: resize(image(), SIZES[size], corners), x=IMAGE))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["area", "bicubic", "bilinear", "nearest"])
def test_an_image_is_resized_as_tensorflow_2_does(tmp_path: Path, kind: str, size: str) -> None:
    close(outputs(tmp_path, lambda: tf.image.resize(image(), SIZES[size], kind), x=IMAGE))


@pytest.mark.parametrize("smooth", [False, True], ids=["plain", "antialiased"])
@pytest.mark.parametrize(
    "kind",
    "lanczos1 lanczos3 lanczos5 gaussian box triangle keyscubic mitchellcubic".split(),
)
def test_every_kernel_of_a_resize(tmp_path: Path, kind: str, smooth: bool) -> None:
    def build() -> Any:
        return tf.raw_ops.ScaleAndTranslate(
            images=image(), size=[7, 20], scale=[7 / 12, 20 / 9], translation=[0.3, -1.2],
            kernel_type=kind, antialias=smooth,
        )  # fmt: skip

    close(outputs(tmp_path, build, x=IMAGE))


@pytest.mark.parametrize("kind", ["area", "bicubic", "bilinear"])
def test_an_image_of_free_size_is_resized(tmp_path: Path, kind: str) -> None:
    def build() -> Any:
        return tf.image.resize(image(free=True), [7, 20], kind, antialias=kind == "bilinear")

    close(outputs(tmp_path, build, x=IMAGE))


def test_two_matmuls_are_left_where_the_sizes_are_known(tmp_path: Path) -> None:
    from onnxgraft.commands import convert

    with tf.Graph().as_default() as graph:
        tf.image.resize(image(), [7, 20], "area", name="out")
        (tmp_path / "x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    model = convert(tmp_path / "x.pb").model
    assert model.operators() == {"Transpose": 2, "MatMul": 2}


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "area"])
def test_an_image_of_bytes_is_resized(tmp_path: Path, kind: str) -> None:
    value = RNG.integers(0, 256, (1, 12, 9, 3)).astype(np.uint8)

    def build() -> Any:
        return tf.image.resize(x(1, 12, 9, 3, dtype=tf.uint8), [20, 4], kind)

    theirs, mine = outputs(tmp_path, build, x=value)
    assert theirs.dtype == mine.dtype
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-3)


def test_the_nearest_pixel_is_that_of_tensorflow_s_float32(tmp_path: Path) -> None:
    """23.5 * (32 / 47) is 16, and just below it in float32."""
    value = RNG.standard_normal((1, 32, 32, 1)).astype(np.float32)
    theirs, mine = outputs(
        tmp_path, lambda: tf.image.resize(x(1, 32, 32, 1), [50, 47], "nearest"), x=value
    )
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_boxes_are_cropped_and_resized(tmp_path: Path, method: str) -> None:
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.2, 1.3, 0.8]], np.float32)

    def build() -> Any:
        return tf.image.crop_and_resize(
            x(None, 8, 9, 3), x(2, 4, name="b"), tf.constant([0, 1]), [4, 5], method
        )

    close(outputs(tmp_path, build, x=IMAGE[:, :8], b=boxes))


def test_scores_that_are_lowered_are_refused_by_the_operator_s_name(tmp_path: Path) -> None:
    def build() -> Any:
        return tf.image.non_max_suppression_with_scores(
            x(6, 4), x(6, name="s"), 3, soft_nms_sigma=0.5
        )[1]

    with pytest.raises(NotSupportedError, match=r"NonMaxSuppressionV5 .*soft_nms_sigma"):
        outputs(tmp_path, build, x=np.zeros((6, 4), np.float32), s=np.zeros(6, np.float32))


COLOURS = {
    "AdjustSaturation": lambda v: tf.image.adjust_saturation(v, 0.6),
    "AdjustSaturation_more": lambda v: tf.image.adjust_saturation(v, 3.0),
    "HSVToRGB": lambda v: tf.image.hsv_to_rgb(v),
    "RGBToHSV": lambda v: tf.image.rgb_to_hsv(v),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_a_colour_is_changed(tmp_path: Path, kind: str) -> None:
    colours = RNG.random((1, 4, 6, 3)).astype(np.float32)
    greys = np.array([0, 0, 0, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.5, 0.5, 1, 0, 1])
    value = np.concatenate([colours, greys.reshape(1, 1, 6, 3).astype(np.float32)], 1)
    close(outputs(tmp_path, lambda: COLOURS[kind](x(None, 5, 6, 3)), x=value))


TYPES = ["float32", "float64", "float16", "int32", "int16", "int8", "uint8"]


@pytest.mark.parametrize("kind", TYPES)
def test_a_pool_with_its_places_takes_any_type(tmp_path: Path, kind: str) -> None:
    value = RNG.integers(0, 99, (2, 5, 6, 3)).astype(kind)
    for output in (0, 1):
        theirs, mine = outputs(
            tmp_path,
            lambda output=output: tf.nn.max_pool_with_argmax(
                x(None, 5, 6, 3, dtype=kind), 2, 2, "SAME", output_dtype=tf.int32
            )[output],
            x=value,
        )
        assert theirs.dtype == mine.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_a_pool_of_long_integers_is_refused_by_the_operator_s_name(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"x.pb: MaxPoolWithArgmax .* 64 bits"):
        outputs(
            tmp_path,
            lambda: tf.nn.max_pool_with_argmax(x(1, 4, 4, 1, dtype=tf.int64), 2, 2, "SAME")[0],
            x=np.zeros((1, 4, 4, 1), np.int64),
        )


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize(("step", "rate"), [(3, 1), (2, 2)])
def test_patches_are_taken_of_any_batch_and_size(
    tmp_path: Path, step: int, rate: int, padding: str, free: bool
) -> None:
    value = IMAGE.copy()
    value[0, 0, 0, 0] = np.inf  # no other patch may see it
    close(
        outputs(
            tmp_path,
            lambda: tf.image.extract_patches(
                image(free=free), [1, 3, 2, 1], [1, step, step, 1], [1, rate, rate, 1], padding
            ),
            x=value,
        )
    )


EINSUMS = {
    "more_on_the_right": ("...ij,...jk->...ik", (2, 3, 4), (6, 2, 4, 5)),
    "none_on_the_left": ("...ij,...jk->...ik", (3, 4), (6, 2, 4, 5)),
    "one_that_is_repeated": ("...ij,...jk->...ik", (1, 3, 4), (6, 2, 4, 5)),
    "left_out_on_one_side": ("...ij,jk->...ik", (6, 2, 3, 4), (4, 5)),
    "small_and_large": ("aA,Ab->ab", (3, 4), (4, 5)),
    "heads": ("abc,cde->abde", (2, 3, 4), (4, 2, 5)),
}


@pytest.mark.parametrize("kind", EINSUMS)
def test_an_einsum_of_unlike_ranks(tmp_path: Path, kind: str) -> None:
    equation, *shapes = EINSUMS[kind]
    left, right = (RNG.standard_normal(shape).astype(np.float32) for shape in shapes)
    close(
        outputs(
            tmp_path,
            lambda: tf.einsum(equation, x(*left.shape), x(*right.shape, name="y")),
            x=left,
            y=right,
        )
    )


SPECTRA = {
    "abs": lambda v: tf.abs(tf.signal.rfft(v)),
    "angle": lambda v: tf.math.angle(tf.signal.rfft(v)[:, 1:-1]),
    "longer": lambda v: tf.abs(tf.signal.rfft(v, [12])),
    "shorter": lambda v: tf.abs(tf.signal.rfft(v, [5])),
    "back": lambda v: tf.signal.irfft(tf.signal.rfft(v)),
    "back_odd": lambda v: tf.signal.irfft(tf.signal.rfft(v, [7]), [7]),
    "two_axes": lambda v: tf.math.imag(tf.signal.rfft2d(tf.reshape(v, [-1, 4, 4]))),
    "two_axes_back": lambda v: tf.signal.irfft2d(tf.signal.rfft2d(tf.reshape(v, [-1, 4, 4]))),
    "full_two_axes": lambda v: tf.math.real(
        tf.signal.ifft2d(
            tf.math.conj(tf.signal.fft2d(tf.cast(tf.reshape(v, [-1, 4, 4]), "complex64")))
        )
    ),
    "filtered": lambda v: tf.math.real(
        tf.signal.ifft(tf.signal.fft(tf.cast(v, "complex64")) * tf.complex(v, v + 1))
    ),
    "sum": lambda v: tf.abs(tf.complex(v, v + 1) + tf.complex(v * v, v) - tf.cast(v, "complex64")),
    "reshaped": lambda v: tf.abs(
        tf.transpose(tf.squeeze(tf.expand_dims(tf.reshape(tf.complex(v, v), [4, -1]), 0), [0]))
    ),
    "cast": lambda v: tf.cast(tf.signal.rfft(v), "float32") ** 2,
    "cast_to_whole": lambda v: tf.cast(tf.complex(8 * v, v), "int32") + 1,
    "cast_to_double": lambda v: tf.abs(tf.cast(tf.signal.rfft(v), "complex128")),
    "stacked": lambda v: tf.abs(
        tf.concat([tf.stack([tf.signal.rfft(v), -tf.signal.rfft(2 * v)]), tf.complex(
            tf.ones([1, 2, 9]), tf.zeros([1, 2, 9]))], 0)
    ),
    "added_up": lambda v: tf.math.imag(
        tf.reduce_sum(tf.signal.rfft(v), 1) + tf.reduce_mean(tf.signal.rfft(v), 1)
    ),
    "real_alone": lambda v: tf.abs(tf.reverse(tf.tile(tf.cast(v, "complex64"), [1, 2]), [1])),
    "moved": lambda v: tf.math.angle(
        tf.gather(tf.pad(tf.complex(v, v + 1), [[0, 0], [1, 2]]), [3, 1, 4], axis=1)
    ),
    "cosines": lambda v: tf.signal.dct(v, norm="ortho"),
    "frames": lambda v: tf.abs(tf.signal.stft(tf.reshape(v, [1, 32]), 8, 4, 8)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECTRA)
def test_complex_numbers_are_kept_in_two_parts(tmp_path: Path, kind: str) -> None:
    value = RNG.standard_normal((2, 16)).astype(np.float32)
    close(outputs(tmp_path, lambda: SPECTRA[kind](x(None, 16)), x=value))


def test_an_angle_is_right_all_around(tmp_path: Path) -> None:
    points = [(1, 0), (-1, 1e-3), (-1, -1e-3), (0, 1), (0, -1), (1, 1e-4), (0, 0), (-2, -3)]
    value = np.array(points, np.float32)
    theirs, mine = outputs(
        tmp_path, lambda: tf.math.angle(tf.complex(x(8, 2)[:, 0], x(8, 2, name="y")[:, 1])),
        x=value, y=value,
    )  # fmt: skip
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_complex_numbers_at_the_end_are_refused_by_the_operator_s_name(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        tf.complex(x(4), x(4, name="y"), name="out")
        (tmp_path / "x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(NotSupportedError, match=r"no ONNX operators for Complex \(out\)"):
        Original.of(tmp_path / "x.pb").lower()
