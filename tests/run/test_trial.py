"""In which sizes a network is run where there are no data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Feeds, Outputs, TensorSpec
from onnxgraft.graph.wants import Wants
from onnxgraft.run.trial import Trial

X = TensorSpec("x", "float32", ("N", "L"))
IMAGE = TensorSpec("x", "float32", ("N", 3, "H", "W"))
IDS = TensorSpec("ids", "int32", ("N", 8))


class Network:
    """Takes what ``fits`` says, and remembers what it ran."""

    def __init__(self, fits: object) -> None:
        self.fits = fits
        self.ran: list[Feeds] = []

    def __call__(self, samples: Sequence[Feeds]) -> list[Outputs]:
        for feeds in samples:
            if not self.fits(*feeds.values()):  # type: ignore[operator]
                raise InputError("does not fit")
        self.ran += samples
        return [{"y": np.zeros(1)} for _ in samples]


def shapes(trial: Trial) -> list[tuple[int, ...]]:
    return [next(iter(trial.feeds(setting).values())).shape for setting in trial.settings]


def tried(spec: TensorSpec, fits: object, wants: Wants = Wants()) -> Trial:  # noqa: B008
    trial = Trial([spec], wants)
    network = Network(fits)
    assert len(trial.begin(network)) == len(trial.settings)
    return trial


def test_a_free_batch_is_tried_at_one_and_two_and_free_axes_in_two_sizes() -> None:
    trial = tried(IMAGE, lambda x: True)
    assert shapes(trial) == [(1, 3, 8, 8), (2, 3, 8, 12)]
    assert not trial.notes


def test_fixed_shapes_are_run_once() -> None:
    assert shapes(tried(TensorSpec("x", "float32", (1, 3)), lambda x: True)) == [(1, 3)]


def test_a_batch_that_is_really_one_is_run_in_two_sizes_and_said() -> None:
    trial = tried(X, lambda x: len(x) == 1)
    assert shapes(trial) == [(1, 8), (1, 12)]
    assert trial.notes == ["at batch 2 the original does not run: compared at batch 1 alone"]


def test_a_batch_that_is_really_four_is_found_and_said() -> None:
    trial = tried(X, lambda x: len(x) == 4)
    assert {shape[0] for shape in shapes(trial)} == {4}
    assert "compared at batch 4 alone" in trial.notes[0]


def test_a_network_of_square_images_is_run_on_them() -> None:
    trial = tried(IMAGE, lambda x: x.shape[2] == x.shape[3])
    assert shapes(trial) == [(1, 3, 8, 8), (2, 3, 8, 8)]


@pytest.mark.parametrize("least", [9, 65, 512, 16000])
def test_free_axes_grow_until_the_network_runs(least: int) -> None:
    trial = tried(X, lambda x: x.shape[1] >= least)
    assert [len(shape) for shape in shapes(trial)] == [2, 2]
    assert "in smaller sizes the original does not run" in trial.notes[0]


def test_what_the_graph_says_of_a_length_is_tried_first() -> None:
    trial = tried(X, lambda x: x.shape[1] >= 700, Wants(least={("x", 1): 700}))
    assert shapes(trial) == [(1, 700), (2, 1050)]


@pytest.mark.parametrize("rows", [2, 5, 10])
def test_indices_of_which_nothing_is_known_shrink_until_the_network_runs(rows: int) -> None:
    trial = tried(IDS, lambda ids: 0 <= ids.min() and ids.max() < rows)
    assert shapes(trial) == [(1, 8), (2, 8)]


def test_whole_numbers_of_which_nothing_is_known_reach_below_zero_where_they_may() -> None:
    trial = tried(IDS, lambda ids: True)
    assert min(trial.feeds(setting)["ids"].min() for setting in trial.settings) == -1


def test_what_runs_in_no_size_is_refused_after_a_bounded_number_of_trials() -> None:
    network = Network(lambda x: False)
    calls = []
    with pytest.raises(InputError, match="does not fit"):
        Trial([X], Wants()).begin(lambda samples: calls.append(1) or network(samples))
    assert len(calls) < 30
