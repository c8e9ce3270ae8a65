"""One set of samples as two: the same parts each time, and nothing in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.data.split import split, without
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec

INPUT = TensorSpec("x", "float32", ("N", 3))


def samples(folder: Path, rows: Array) -> Samples:
    np.savez(folder / "data.npz", x=rows)
    return open_samples(folder / "data.npz", [INPUT])


def normal(count: int) -> Array:
    return np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("total", "first", "second"), [(4, 2, 2), (6, 4, 2), (12, 9, 3), (100, 75, 25)]
)
def test_a_quarter_validates_and_nothing_is_in_both(
    tmp_path: Path, total: int, first: int, second: int
) -> None:
    found = samples(tmp_path, normal(total))
    calibration, validation = split(found)
    assert (len(calibration), len(validation)) == (first, second)
    assert sorted(calibration.indices + validation.indices) == list(range(total))


def test_the_parts_are_the_same_each_time_and_others_with_another_seed(tmp_path: Path) -> None:
    found = samples(tmp_path, normal(40))
    assert split(found) == split(found)
    assert split(found)[1].indices != split(found, 1)[1].indices


def test_either_part_can_be_shortened(tmp_path: Path) -> None:
    found = samples(tmp_path, normal(40))
    calibration, validation = split(found, calibrate=5, validate=3)
    assert (len(calibration), len(validation)) == (5, 3)
    assert not set(calibration.indices) & set(validation.indices)


def test_what_is_there_twice_is_not_validated_on_where_it_is_calibrated_on(tmp_path: Path) -> None:
    rows = normal(8)
    found = samples(tmp_path, np.concatenate([rows, rows]))
    calibration, validation = split(found)
    seen = {calibration.identity(place) for place in range(len(calibration))}
    assert not any(validation.identity(place) in seen for place in range(len(validation)))
    assert (len(calibration), len(validation)) == (12, 4)


def test_too_few_samples_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 samples are too few .* --validate-on"):
        split(samples(tmp_path, normal(3)))
    with pytest.raises(InputError, match="1 different samples are too few"):
        split(samples(tmp_path, np.ones((5, 3), np.float32)))


def test_samples_of_other_data_are_known_by_what_they_hold(tmp_path: Path) -> None:
    rows = normal(6)
    first = samples(tmp_path, rows[:4])
    (tmp_path / "other").mkdir()
    second = samples(tmp_path / "other", rows[2:])
    assert without(second, first).indices == (2, 3)
