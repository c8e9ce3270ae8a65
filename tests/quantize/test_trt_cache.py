"""TensorRT's calibration cache: published values, real files' quirks, names, and the way back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.data.ranges import Range
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model, Origin
from onnxgraft.stages.quantize import (
    calibrate,
    header_version,
    quantize,
    ranges_from_cache,
    read_cache,
    write_cache,
)
from onnxgraft.stages.quantize.tensorrt.cache import cache_text, tensorrt_scale
from tests.conftest import model_of
from tests.quantize.test_calibration import NETWORK, constants, images, samples_of


@pytest.fixture
def model() -> Model:
    """Return the network with its weights."""
    return model_of(NETWORK, constants())


def cache_of(folder: Path, text: str | bytes) -> Path:
    path = folder / "calibration.cache"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("amax", "digits"),
    # prob in TensorRT's sampleINT8/README.md, and an input of pixels in onnxruntime#22059.
    [(1.0, "3c010a14"), (255.0, "4000890a")],
)
def test_an_uncut_entropy_range_has_the_scale_that_tensorrt_wrote(amax: float, digits: str) -> None:
    scale = tensorrt_scale(Range(0.0, amax, 0.0, amax, "entropy"))
    assert cache_text({"x": scale}, "7.0").splitlines() == [
        "TRT-7000-EntropyCalibration2", f"x: {digits}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "amax"),
    [
        (Range(-2.0, 1.0, -3.0, 1.0, "entropy"), 2.0),  # cut: the threshold is the middle of a bin
        (Range(-2.0, 1.0, -2.0, 1.0, "minmax"), 2.0),
        (Range(-2.0, 1.0, -2.0, 1.0, "by hand"), 2.0),
        (Range(0.0, 0.0, 0.0, 0.0, "entropy"), 0.0),
    ],
    ids=["cut", "minmax", "by_hand", "zero"],
)
def test_any_other_scale_is_the_largest_magnitude_over_127(value: Range, amax: float) -> None:
    assert tensorrt_scale(value) == np.float32(amax / 127)


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("5.1.0", "5100"), ("7.0", "7000"), ("8.4.1", "8401"), ("8.6.1", "8601"),
        ("10.3.0", "100300"), ("10.14.1.48", "101401"), ("8401", "8401"), ("100300", "100300"),
    ],
)  # fmt: skip
def test_the_header_has_the_number_of_the_version(version: str, number: str) -> None:
    assert header_version(version) == number


@pytest.mark.parametrize("version", ["", "ten", "10", "10.x", "v10.3", "10.3\nx: 0"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(InputError, match="--trt-version"):
        header_version(version)


QUIRKS = (
    "TRT-8XXX-EntropyCalibration2 \r\n"
    "data: 3c008912\r\n"
    "zero: 0\r\n"
    "(Unnamed Layer* 22) [Constant]_output: 3c010a14\r\n"
    "name: with: colons: 3c010a14\r\n"
    "unpadded: c010a14\r\n"
    "UPPER: 3C010A14\r\n"
    "\r\n"
    "infinite: 7f800000\r\n"
    "nan: 7fc00000\r\n"
    "negative: bf800000\r\n"
    "again: 3c010a14\r\n"
    "again: 3c008912"
)


def test_the_quirks_of_real_files_are_read(tmp_path: Path) -> None:
    cache = read_cache(cache_of(tmp_path, QUIRKS))
    assert (cache.version, cache.algorithm) == ("8XXX", "EntropyCalibration2")
    digits = {name: struct.pack(">f", scale).hex() for name, scale in cache.scales.items()}
    assert digits == {
        "data": "3c008912", "zero": "00000000",
        "(Unnamed Layer* 22) [Constant]_output": "3c010a14", "name: with: colons": "3c010a14",
        "unpadded": "0c010a14", "UPPER": "3c010a14", "again": "3c008912",
    }  # fmt: skip
    told = "\n".join(cache.notes)
    for number, word in ((9, "inf"), (10, "nan"), (11, "-1.0"), (13, "occurs again")):
        assert f"line {number}: " in told
        assert word in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TRT-8401-EntropyCalibration2\na: 3c010a14\nb 3c010a14\n", "line 3: 'b 3c010a14'"),
        ("TRT-8401-EntropyCalibration2\na: 3c010a14f\n", "line 2"),
        ("TRT-8401-EntropyCalibration2\na: xyz\n", "line 2"),
        ("TRT-8401-EntropyCalibration2\na:\n", "line 2"),
        ("a: 3c010a14\n", "line 1"),
        ("TRT-8401\n", "line 1"),
        (b"\x00\x01\xff\xfe", "binary"),
        (b"", "is empty"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_cache(cache_of(tmp_path, text))


def test_what_the_seeds_calibrator_wrote_after_a_zero_byte_is_left_out(tmp_path: Path) -> None:
    # ctypes.c_char_p(...).value ends there; others write the terminator too.
    assert read_cache(cache_of(tmp_path, b"TRT-5100-EntropyCalibration2\nx: 0\n\0")).scales


NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20
).filter(lambda name: name.strip() == name)
SCALES = st.floats(0, width=32, allow_nan=False, allow_infinity=False)


@given(st.dictionaries(NAMES, SCALES))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, scales: dict[str, float]
) -> None:
    path = cache_of(tmp_path_factory.getbasetemp(), cache_text(scales, "10.3.0"))
    assert read_cache(path).scales == scales


def test_a_name_with_a_line_break_is_not_written() -> None:
    with pytest.raises(InputError, match="can't be written"):
        cache_text({"a\nb": 1.0}, "8.4.1")


# From ranges to a cache and back.


def test_ranges_come_back_from_a_cache_bit_for_bit(model: Model, tmp_path: Path) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images()), tensors="all")
    path = tmp_path / "t.cache"
    write_cache(path, model, ranges, "10.3.0")
    first = read_cache(path)
    assert set(ranges.tensors) <= set(first.scales)
    for name, value in ranges.tensors.items():
        assert first.scales[name] == tensorrt_scale(value)
    back = ranges_from_cache(model, first)
    assert (back.unknown, back.missing) == ({}, [])
    write_cache(path, model, back.ranges, "8.4.1")
    again = read_cache(path)
    assert again.version == "8401"
    assert {name: again.scales[name] for name in ranges.tensors} == {
        name: first.scales[name] for name in ranges.tensors
    }


def test_every_float_tensor_has_a_line(model: Model, tmp_path: Path) -> None:
    # Implicit quantization wants a scale on either side of a layer.
    ranges = calibrate(model, samples_of(tmp_path, model, image=images(3)), tensors="all")
    assert set(ranges.tensors) == {
        "image", "made1", "seen1", "small", "made2", "seen2", "flat", "score",
    }  # fmt: skip


def test_a_cache_quantizes_as_the_ranges_that_it_was_made_of(model: Model, tmp_path: Path) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images()), "minmax")
    write_cache(tmp_path / "t.cache", model, ranges, "10.3.0")
    mapped = ranges_from_cache(model, read_cache(tmp_path / "t.cache"))
    one, done = quantize(model, ranges, "tensorrt")
    other, again = quantize(model, mapped.ranges, "tensorrt")
    assert done.layers == again.layers == ["conv1", "conv2", "dense"]
    scales = [
        {name: t.values for name, t in m.graph.tensors().items() if name.endswith("/scale")}
        for m in (one, other)
    ]
    assert scales[0].keys() == scales[1].keys()
    for name, value in scales[0].items():
        assert (np.float32(value) == np.float32(scales[1][name])).all(), name


def test_names_of_the_original_framework_are_known(model: Model, tmp_path: Path) -> None:
    model.names = {"seen1": Origin("conv1/Relu:0", (0, 2, 3, 1)), "small": Origin("pool1")}
    text = (
        "TRT-7000-EntropyCalibration2\nconv1/Relu: 3c010a14\nimage: 4000890a\nseen2: 3c010a14\n"
        "(Unnamed Layer* 64) [Shuffle]_output: 3c010a14\n(Unnamed Layer* 2) [Constant]_output: 0\n"
        "elsewhere: 3c010a14\n"
    )
    mapped = ranges_from_cache(model, read_cache(cache_of(tmp_path, text)))
    assert set(mapped.ranges.tensors) == {"seen1", "image", "seen2"}
    assert mapped.missing == []
    (scale,) = struct.unpack(">f", bytes.fromhex("3c010a14"))
    assert mapped.ranges.tensors["seen1"].high == scale * 127
    assert mapped.ranges.tensors["seen1"].low == 0.0  # a Relu's
    assert mapped.ranges.tensors["image"].low < 0
    assert set(mapped.unknown) == {
        "(Unnamed Layer* 64) [Shuffle]_output", "(Unnamed Layer* 2) [Constant]_output", "elsewhere",
    }  # fmt: skip
    assert "holds the values of its input" in mapped.unknown["(Unnamed Layer* 64) [Shuffle]_output"]


def test_a_tensor_that_hands_on_another_takes_its_range(model: Model, tmp_path: Path) -> None:
    text = "TRT-8401-EntropyCalibration2\nimage: 3c010a14\nsmall: 3c010a14\n"
    mapped = ranges_from_cache(model, read_cache(cache_of(tmp_path, text)))
    assert mapped.ranges.tensors["seen1"] == mapped.ranges.tensors["small"]
    assert mapped.missing == ["seen2"]


def test_a_cache_of_another_network_is_refused(model: Model, tmp_path: Path) -> None:
    path = cache_of(tmp_path, "TRT-8401-EntropyCalibration2\nfoo: 3c010a14\nbar: 3c010a14\n")
    with pytest.raises(InputError, match=r"none of its 2 tensors is in test\.onnx"):
        ranges_from_cache(model, read_cache(path))


def test_our_cache_of_other_weights_is_refused_by_name(model: Model, tmp_path: Path) -> None:
    ranges = calibrate(model, samples_of(tmp_path, model, image=images(3)))
    path = tmp_path / "t.cache"
    write_cache(path, model, ranges, "10.3.0")
    other = model_of(NETWORK, constants(seed=5))
    with pytest.raises(InputError, match=r"t\.cache: was written for another model"):
        ranges_from_cache(other, read_cache(path))
    # What someone else put there since is his.
    path.write_text("TRT-8401-EntropyCalibration2\nimage: 3c010a14\n")
    ranges_from_cache(other, read_cache(path))
    assert json.loads((tmp_path / "t.cache.json").read_text())["model"] == ranges.model


def test_what_tensorrts_parser_adds_has_a_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    model = model_of(
        """network (float[N, 3, 8, 8] image) => (float[N, 6] y) {
            [conv] a = Conv (image, w)
            [flatten] b = Flatten (a)
            [dense] y = Gemm (b, v)
        }""",
        {"w": np.ones((1, 3, 1, 1), np.float32), "v": np.ones((64, 6), np.float32)},
    )
    ranges = calibrate(model, samples_of(tmp_path, model, image=images(3)), tensors="all")
    assert write_cache(tmp_path / "t.cache", model, ranges, "10.3.0") == []
    scales = read_cache(tmp_path / "t.cache").scales
    added = set(scales) - set(ranges.tensors)
    assert added
    known = {tensorrt_scale(value) for value in ranges.tensors.values()}
    assert {scales[name] for name in added} <= known
    mapped = ranges_from_cache(model, read_cache(tmp_path / "t.cache"))
    assert mapped.unknown == {}
