"""Histograms that merge exactly, and the file of ranges."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxgraft.data.ranges import Histogram, Range, Ranges, bin_edges, merge_packed, pack, unpack
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array

FLOATS = st.floats(width=32)  # NaN, infinities, zeros of both signs and subnormals among them
ARRAYS = hnp.arrays(np.float32, st.integers(0, 40), elements=FLOATS)
FINITE = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def histogram_of(*pieces: Array) -> Histogram:
    """Return one histogram of all pieces."""
    histogram = Histogram()
    for piece in pieces:
        histogram.add(piece)
    return histogram


def same(one: Histogram, other: Histogram) -> bool:
    """Tell whether two histograms hold exactly the same."""
    return bool((one.counts == other.counts).all()) and (
        (one.minimum, one.maximum) == (other.minimum, other.maximum)
    )


@given(ARRAYS, st.lists(st.integers(0, 40)), st.randoms(use_true_random=False))
def test_any_split_and_order_of_the_data_gives_the_same(
    values: Array, cuts: list[int], random: Any
) -> None:
    whole = histogram_of(values)
    pieces = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    random.shuffle(pieces)
    merged = Histogram()
    for piece in pieces:
        merged.merge(histogram_of(piece))
    assert same(merged, whole)
    assert same(histogram_of(*pieces), whole)


@given(ARRAYS)
def test_counts_are_those_of_a_loop_over_the_values(values: Array) -> None:
    slow: Counter[int] = Counter()
    for value in values:
        (bits,) = struct.unpack(">I", struct.pack(">f", value))
        slow[bits >> 16] += 1
    counts = histogram_of(values).counts
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == slow


@given(st.dictionaries(st.text(max_size=5).map(lambda t: t.rstrip("\0")), ARRAYS, max_size=4))
def test_what_is_packed_is_unpacked_and_merged_again(values: dict[str, Array]) -> None:
    histograms = {name: histogram_of(array) for name, array in values.items()}
    packed = pack(histograms)
    assert packed["counts"].all()  # no bin that is empty
    found = unpack(packed)
    assert list(found) == list(histograms)
    assert all(same(found[name], histograms[name]) for name in histograms)
    merge_packed(found, packed)
    for name, array in values.items():
        assert same(found[name], histogram_of(array, array))


@given(ARRAYS)
def test_nan_and_infinities_are_counted_apart(values: Array) -> None:
    histogram = histogram_of(values)
    finite = [float(value) for value in values if math.isfinite(value)]
    assert histogram.nonfinite == len(values) - len(finite)
    assert histogram.total == len(finite)
    assert histogram.minimum == min(finite, default=math.inf)
    assert histogram.maximum == max(finite, default=-math.inf)
    assert histogram.amax == max(map(abs, finite), default=0.0)


@given(FINITE)
def test_each_magnitude_is_between_the_edges_of_its_bin(values: Array) -> None:
    magnitudes = histogram_of(values).magnitudes()
    edges = bin_edges()
    assert magnitudes.shape == (len(edges) - 1,)
    slow = np.zeros_like(magnitudes)
    for value in values:
        slow[int(np.searchsorted(edges, abs(float(value)), side="right")) - 1] += 1
    assert (magnitudes == slow).all()


def test_edges_rise_and_a_bin_is_at_most_a_128th_of_its_values_wide() -> None:
    edges = bin_edges()
    normal = edges >= float(np.finfo(np.float32).tiny)
    assert (np.diff(edges) > 0).all()
    assert (np.diff(edges)[normal[:-1]] <= edges[:-1][normal[:-1]] / 128).all()
    assert edges[0] == 0.0
    assert edges[-1] > np.finfo(np.float32).max


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", "bool"])
def test_other_types_are_counted_by_value(dtype: str) -> None:
    values = np.array([0, 1, 1, 3], dtype)
    assert same(histogram_of(values), histogram_of(values.astype(np.float32)))


def test_the_shape_and_the_memory_order_do_not_matter() -> None:
    values = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    assert same(histogram_of(values.transpose(2, 0, 1)[::-1]), histogram_of(values.ravel()))


def test_an_empty_array_counts_nothing() -> None:
    histogram = histogram_of(np.zeros((0, 3), np.float32))
    assert (histogram.total, histogram.nonfinite, histogram.amax) == (0, 0, 0.0)


@pytest.fixture
def ranges() -> Ranges:
    """Return ranges of two tensors, one of them cut."""
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    conv = histogram_of(values)
    relu = histogram_of(np.maximum(values, 0))
    return Ranges(
        method="entropy",
        images=10,
        model="a" * 64,
        preprocess="b" * 64,
        data="images",
        tensors={
            "conv1/BiasAdd:0": Range(-1.1, 0.1 + 0.2, conv.minimum, conv.maximum, "entropy"),
            "relu": Range(0.0, relu.maximum, 0.0, relu.maximum, "by hand"),
        },
        histograms={"conv1/BiasAdd:0": conv, "relu": relu},
    )


def test_what_is_saved_is_loaded_again(ranges: Ranges, tmp_path: Path) -> None:
    ranges.save(tmp_path / "ranges.json")
    loaded = Ranges.load(tmp_path / "ranges.json")
    assert loaded.tensors == ranges.tensors  # exactly: JSON keeps every bit of a double
    for field in ("method", "images", "model", "preprocess", "data"):
        assert getattr(loaded, field) == getattr(ranges, field)


def test_histograms_lie_beside_the_ranges_under_a_name_of_their_own(
    ranges: Ranges, tmp_path: Path
) -> None:
    ranges.save(tmp_path / "ranges.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ranges.json",
        "ranges.json.histograms.npz",
    ]


def test_histograms_are_loaded_again_where_asked(ranges: Ranges, tmp_path: Path) -> None:
    ranges.early = {"relu": ranges.histograms["relu"]}
    ranges.channel_histograms = {"relu": list(ranges.histograms.values())}
    ranges.save(tmp_path / "ranges.json")
    loaded = Ranges.load(tmp_path / "ranges.json", histograms=True)
    assert list(loaded.histograms) == list(ranges.histograms)
    for name, histogram in ranges.histograms.items():
        assert same(loaded.histograms[name], histogram)
    assert same(loaded.early["relu"], ranges.early["relu"])
    for one, other in zip(
        loaded.channel_histograms["relu"], ranges.histograms.values(), strict=True
    ):
        assert same(one, other)


def test_ranges_without_histograms_are_one_file(ranges: Ranges, tmp_path: Path) -> None:
    ranges.histograms = {}
    ranges.save(tmp_path / "ranges.json")
    assert [path.name for path in tmp_path.iterdir()] == ["ranges.json"]


@pytest.mark.parametrize(
    ("low", "high", "amax"), [(-2.0, 1.0, 2.0), (0.0, 3.0, 3.0), (-4.0, -1.0, 4.0)]
)
def test_the_symmetric_range_holds_both_ends(low: float, high: float, amax: float) -> None:
    assert Range(low, high, low, high, "minmax").amax == amax


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe\x00binary",
        b"[]",
        b"null",
        b"3",
        b"{}",
        b'{"format": "onnxgraft.data.ranges/2", "tensors": {}}',
        b'{"format": "onnxgraft.ranges/1"}',
        b'{"format": "onnxgraft.ranges/1", "tensors": []}',
        b'{"format": "onnxgraft.ranges/1", "tensors": {"x": {"low": 0}}}',
        b'{"format": "onnxgraft.ranges/1", "tensors": {"x": 3}}',
        b'{"format": "onnxgraft.ranges/1", "tensors": {}, "surprise": 1}',
    ],
    ids=[
        "cut_short", "binary", "list", "null", "number", "empty_object", "later_format",
        "no_tensors", "tensors_a_list", "range_cut_short", "range_a_number", "unknown_field",
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_bytes(content)
    with pytest.raises(InputError, match=r"ranges\.json: not a ranges file"):
        Ranges.load(tmp_path / "ranges.json")


@pytest.mark.parametrize("tensors", [{"x": {"low": 0}}, []])
def test_what_is_wrong_with_a_damaged_file_is_not_told_in_words_of_python(
    tensors: object, ranges: Ranges, tmp_path: Path
) -> None:
    ranges.save(tmp_path / "ranges.json")
    document = json.loads((tmp_path / "ranges.json").read_text())
    (tmp_path / "ranges.json").write_text(json.dumps(document | {"tensors": tensors}))
    with pytest.raises(InputError, match=r"wrote \(an entry is missing, unknown or of another"):
        Ranges.load(tmp_path / "ranges.json")
    del document["tensors"]
    (tmp_path / "ranges.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"wrote \(it has no 'tensors'\)"):
        Ranges.load(tmp_path / "ranges.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [("images", [48]), ("images", True), ("targets", True), ("targets", [1]), ("samples", {"a": 1}),
     ("moved", {"y": None}), ("sites", {"y": "y"}), ("notes", "a"), ("method", 1)],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_its_name(
    ranges: Ranges, tmp_path: Path, name: str, value: object
) -> None:
    ranges.save(tmp_path / "ranges.json")
    document = json.loads((tmp_path / "ranges.json").read_text())
    (tmp_path / "ranges.json").write_text(json.dumps(document | {name: value}))
    with pytest.raises(InputError, match=rf"not a ranges file .*\({name} is "):
        Ranges.load(tmp_path / "ranges.json")


@pytest.mark.parametrize("value", [None, "1", True, 10**400])
def test_a_range_of_no_number_is_refused(ranges: Ranges, tmp_path: Path, value: object) -> None:
    ranges.save(tmp_path / "ranges.json")
    document = json.loads((tmp_path / "ranges.json").read_text())
    next(iter(document["tensors"].values()))["high"] = value
    (tmp_path / "ranges.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"not a ranges file .*\(high is "):
        Ranges.load(tmp_path / "ranges.json")


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, -1.0), (math.nan, 1.0), (-math.inf, 1.0), (0.0, math.inf)],
    ids=["upside_down", "nan", "minus_infinity", "infinity"],
)
def test_an_impossible_range_is_refused_by_its_tensor(
    ranges: Ranges, tmp_path: Path, low: float, high: float
) -> None:
    ranges.save(tmp_path / "ranges.json")
    document = json.loads((tmp_path / "ranges.json").read_text())
    document["tensors"]["relu"] |= {"low": low, "high": high}
    (tmp_path / "ranges.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="the range of 'relu' is"):
        Ranges.load(tmp_path / "ranges.json")


@pytest.mark.parametrize("value", ['"1"', "null", "[1]"], ids=["text", "null", "list"])
def test_a_range_that_is_no_number_is_refused(ranges: Ranges, tmp_path: Path, value: str) -> None:
    ranges.save(tmp_path / "ranges.json")
    document = json.loads((tmp_path / "ranges.json").read_text())
    document["tensors"]["relu"]["low"] = json.loads(value)
    (tmp_path / "ranges.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"ranges\.json"):
        Ranges.load(tmp_path / "ranges.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the ranges file does not exist"):
        Ranges.load(tmp_path / "ranges.json")
