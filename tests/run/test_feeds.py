"""What is fed where there are no data."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.graph.wants import Indices, Wants
from onnxgraft.run import feeds
from onnxgraft.run.feeds import Setting, drawn, random_feeds

IDS = TensorSpec("ids", "int64", ("N", 8))
TWO_ROWS = Wants({"ids": (Indices(-1, 1),)})


def test_feeds_are_the_same_each_time() -> None:
    specs = [IDS, TensorSpec("x", "float32", ("N", 3)), TensorSpec("m", "bool", ("N", 5))]
    first, again = (random_feeds(specs, 2, wants=TWO_ROWS) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_normal_numbers_are_those_of_a_single_draw(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_AT_ONCE", 7)  # so many at once
    found = random_feeds(
        [TensorSpec("x", dtype, (3, 5))], 1, seed=3, manner=feeds.Manner(scale=16)
    )["x"]
    right = 16 * np.random.default_rng(3).standard_normal((3, 5))
    assert found.dtype == dtype
    assert np.array_equal(found, right.astype(dtype))


def test_an_index_stays_within_its_table_and_reaches_both_ends() -> None:
    assert set(random_feeds([IDS], 2, wants=TWO_ROWS)["ids"].ravel()) == {0, 1}


def test_an_index_reaches_minus_one_where_that_is_legal() -> None:
    feeds = drawn([IDS], Setting(caution=0), wants=Wants({"ids": (Indices(-1, 99),)}))
    assert {-1, 0, 99} <= set(feeds["ids"].ravel())


def test_a_single_index_takes_the_ends_in_turn() -> None:
    spec, known = TensorSpec("i", "int64", ()), Wants({"i": (Indices(-1, 99),)})
    found = [drawn([spec], Setting(caution=0, turn=n), wants=known)["i"].item() for n in range(3)]
    assert found == [99, -1, 0]


def test_of_two_tables_the_smaller_one_counts() -> None:
    both = Wants({"ids": (Indices(-1, 99), Indices(0, 3))})
    feeds = drawn([IDS], Setting(4, caution=0), wants=both)
    assert (feeds["ids"].min(), feeds["ids"].max()) == (0, 3)


def test_an_index_into_a_free_axis_stays_within_its_size() -> None:
    specs = [TensorSpec("x", "float32", ("N", "S", 2)), TensorSpec("i", "int64", (64,))]
    feeds = drawn(specs, Setting(row=5, caution=0), wants=Wants({"i": (Indices(-1, -1, "S"),)}))
    assert (feeds["i"].min(), feeds["i"].max()) == (-1, 4)


def test_an_index_of_floats_is_whole() -> None:
    spec = TensorSpec("ids", "float32", ("N", 8))
    assert set(random_feeds([spec], 2, wants=TWO_ROWS)["ids"].ravel()) == {0.0, 1.0}


@pytest.mark.parametrize(
    "spec",
    [TensorSpec("b", "bool", ("N", 6)), TensorSpec("attention_mask", "int64", ("N", 6)),
     TensorSpec("known", "float32", ("N", 6)), TensorSpec("b", "bool", ("N", 6, 1))],
    ids=["boolean", "by its name", "by its use", "with a last axis of one"],
)  # fmt: skip
def test_a_mask_has_a_true_and_a_false_in_every_row(spec: TensorSpec) -> None:
    mask = random_feeds([spec], 50, wants=Wants(masks=frozenset({"known"})))[spec.name]
    assert set(np.unique(mask)) == {0, 1}
    rows = mask.reshape(50, 6)
    assert rows.any(1).all()
    assert not rows.all(1).any()


def test_a_training_flag_stays_false_and_another_one_is_tried() -> None:
    specs = [TensorSpec("is_training", "bool", ()), TensorSpec("use_cache", "bool", (1,))]
    feeds = drawn(specs, Setting(flags=True))
    assert (feeds["is_training"].item(), feeds["use_cache"].item()) == (False, True)


def test_what_an_input_is_compared_with_is_fed() -> None:
    spec, known = TensorSpec("rate", "int64", ()), Wants(special={"rate": (8000, 16000)})
    found = {drawn([spec], Setting(caution=0, turn=n), wants=known)["rate"].item() for n in (0, 1)}
    assert found == {8000, 16000}


def test_equal_names_get_equal_sizes() -> None:
    specs = [TensorSpec("image", "float32", ("N", 3, "H", "W")), TensorSpec("row", "bool", ("H",)),
             TensorSpec("state", "float32", (2, "N", 4))]  # fmt: skip
    feeds = drawn(specs, Setting(batch=3, image=10, row=7, uneven=True))
    batch, _, height, width = feeds["image"].shape
    assert feeds["row"].shape == (height,)
    assert feeds["state"].shape == (2, batch, 4)
    assert height != width


@pytest.mark.parametrize("name", ["?", "state.1"])
def test_the_axis_of_a_recurrent_state_without_a_name_of_its_own_is_the_batch(name: str) -> None:
    specs = [TensorSpec("x", "float32", ("N", "L")), TensorSpec("h", "float32", (2, name, 4))]
    assert drawn(specs, Setting(batch=3))["h"].shape == (2, 3, 4)


def test_an_axis_that_is_called_as_a_sum_has_that_size() -> None:
    specs = [
        TensorSpec("ids", "int64", ("N", "now")),
        TensorSpec("key", "float32", ("N", 2, "past", 4)),
        TensorSpec("attention_mask", "int64", ("N", "past + now")),
        TensorSpec("other", "int64", ("N", "past + 1")),
    ]
    feeds = random_feeds(specs, 2, size=6)
    assert feeds["attention_mask"].shape == (2, 6 + 8)
    assert feeds["other"].shape == (2, 7)


def test_text_is_refused_by_the_name_of_the_input() -> None:
    with pytest.raises(InputError, match=r"the input words .* can't be fed"):
        random_feeds([TensorSpec("words", "object", ("N",))], 1)
