"""Data as Python gives them: arrays, iterables, datasets, loaders and generator functions."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.data.functions import Function
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.data.split import split, without
from onnxgraft.data.streams import _Store
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec

VECTOR = TensorSpec("x:0", "float32", ("N", 4))
BATCH = TensorSpec("x:0", "float32", (2, 4))
IMAGE = TensorSpec("image", "float32", ("N", 3, 5, 6))
OTHER = TensorSpec("y", "float32", ("N", 2))
ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)
CLASSES = np.arange(6) % 3


def fed(samples: Samples, name: str = "x:0") -> list[Array]:
    """Return what is fed of each sample."""
    return [sample.feeds[name] for sample in samples]


def labels(samples: Samples) -> list[int]:
    """Return the class of each sample."""
    return [int(sample.label) for sample in samples if sample.label is not None]


def test_an_array_is_as_many_samples_as_it_has_rows() -> None:
    samples = open_samples(ROWS, [VECTOR])
    assert len(samples) == 6
    assert [value.tolist() for value in fed(samples)] == [[row.tolist()] for row in ROWS]
    assert not samples.labelled


@pytest.mark.parametrize(
    "data",
    [
        (ROWS, CLASSES), {"x": ROWS, "labels": CLASSES}, {"x:0": ROWS, "label": CLASSES},
        list(zip(ROWS, CLASSES, strict=True)), lambda: zip(ROWS, CLASSES, strict=True),
        [{"x": row, "label": kind} for row, kind in zip(ROWS, CLASSES, strict=True)],
        [({"x": row}, kind) for row, kind in zip(ROWS, CLASSES, strict=True)],
        [[ROWS[:4], CLASSES[:4]], [ROWS[4:], CLASSES[4:]]],
    ],
    ids=[
        "a_pair_of_arrays", "a_mapping", "a_mapping_by_full_name", "tuples", "a_function",
        "mappings", "mapping_and_label", "batches_in_lists",
    ],
)  # fmt: skip
def test_every_form_gives_the_same_samples(data: Any) -> None:
    samples = open_samples(data, [VECTOR])
    assert len(samples) == 6
    assert np.array_equal(np.concatenate(fed(samples)), ROWS)
    assert labels(samples) == CLASSES.tolist()
    assert samples.labelled


def test_a_generator_is_read_once_and_its_samples_many_times() -> None:
    samples = open_samples((row for row in ROWS), [VECTOR])
    first, second = fed(samples), fed(samples)
    assert np.array_equal(np.concatenate(first), np.concatenate(second))
    assert np.array_equal(np.concatenate(first), ROWS)


def test_what_is_made_anew_each_time_is_the_same_in_every_pass() -> None:
    rng = np.random.default_rng()
    samples = open_samples(lambda: (rng.random(4, np.float32) for _ in range(5)), [VECTOR])
    assert np.array_equal(fed(samples), fed(samples))
    assert [samples.identity(k) for k in range(5)] == [samples.identity(k) for k in range(5)]


def test_a_sample_is_hashed_by_its_contents() -> None:
    one, other = (open_samples(list(rows), [VECTOR]) for rows in (ROWS, ROWS[::-1]))
    assert [one.identity(k) for k in range(6)] == [other.identity(5 - k) for k in range(6)]
    assert len({one.identity(k) for k in range(6)}) == 6


def test_a_tensorflow_dataset_is_read_in_its_batches() -> None:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((ROWS, CLASSES)).batch(4)
    samples = open_samples(data, [VECTOR])
    assert np.array_equal(np.concatenate(fed(samples)), ROWS)
    assert labels(samples) == CLASSES.tolist()


def test_a_dataset_that_never_ends_is_refused_or_cut() -> None:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(ROWS).repeat()
    with pytest.raises(InputError, match=r"never ends.*images="):
        open_samples(data, [VECTOR])
    samples = open_samples(data, [VECTOR], images=8)
    assert len(samples) == 8
    assert any("the first 8 samples" in note for note in samples.notes)


def test_a_torch_loader_is_read_with_its_labels() -> None:
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.tensor(ROWS), torch.tensor(CLASSES))
    for data in (torch.utils.data.DataLoader(pairs, batch_size=4), pairs):
        samples = open_samples(data, [VECTOR])
        assert np.array_equal(np.concatenate(fed(samples)), ROWS)
        assert labels(samples) == CLASSES.tolist()


def test_several_inputs_come_as_a_mapping_or_in_their_order() -> None:
    second = np.arange(12, dtype=np.float32).reshape(6, 2)
    forms: list[Any] = [
        {"x": ROWS, "y": second, "labels": CLASSES},
        list(zip(ROWS, second, CLASSES, strict=True)),
        [((x, y), kind) for x, y, kind in zip(ROWS, second, CLASSES, strict=True)],
    ]
    for data in forms:
        samples = open_samples(data, [VECTOR, OTHER])
        assert np.array_equal(np.concatenate(fed(samples, "y")), second)
        assert labels(samples) == CLASSES.tolist()


def test_images_are_arranged_as_the_input_wants() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), np.uint8)
    for data in (pictures, list(pictures), [pictures]):
        samples = open_samples(data, [IMAGE])
        assert np.array_equal(np.concatenate(fed(samples, "image")), pictures.transpose(0, 3, 1, 2))
        assert fed(samples, "image")[0].dtype == np.float32


def test_an_input_without_a_batch_takes_one_image() -> None:
    plain = TensorSpec("image", "float32", (3, 5, 6))
    pictures = np.random.default_rng(0).random((3, 5, 6, 3)).astype(np.float32)
    samples = open_samples(list(pictures), [plain])
    assert np.array_equal(fed(samples, "image"), pictures.transpose(0, 3, 1, 2))


def test_samples_may_differ_in_length() -> None:
    spec = TensorSpec("ids", "int64", ("N", "T"))
    texts = [[3, 1, 4], [1, 5, 9, 2, 6], [5]]
    samples = open_samples(texts, [spec])
    assert [value.tolist() for value in fed(samples, "ids")] == [[text] for text in texts]


def test_the_last_sample_may_be_empty() -> None:
    spec = TensorSpec("ids", "int8", ("N", "T"))
    samples = open_samples([np.array([3, 1, 4], np.int8), np.zeros(0, np.int8)], [spec])
    assert [value.tolist() for value in fed(samples, "ids")] == [[[3, 1, 4]], [[]]]


def test_rows_are_gathered_to_a_fixed_batch_and_a_remainder_is_told() -> None:
    samples = open_samples([(row, 1) for row in ROWS[:5]], [BATCH])
    assert [value.shape for value in fed(samples)] == [(2, 4), (2, 4)]
    assert [len(sample.labels) for sample in samples] == [2, 2]
    assert any("1 of 5 rows were not used" in note for note in samples.notes)


def test_a_batch_of_another_size_is_divided() -> None:
    samples = open_samples([ROWS[:4], ROWS[4:]], [BATCH])
    assert np.array_equal(np.concatenate(fed(samples)), ROWS)
    assert len(samples) == 3


def test_a_function_is_called_for_each_entry_without_its_label() -> None:
    seen = []

    def halved(row: Array) -> Array:
        seen.append(row.shape)
        return row / 2

    recipe = Preprocess(function=Function.of(halved))
    for data in ([(row, 1) for row in ROWS], (ROWS, np.ones(6, int))):
        samples = open_samples(data, [VECTOR], recipe)
        assert np.array_equal(np.concatenate(fed(samples)), ROWS / 2)
        assert labels(samples) == [1] * 6
    assert set(seen) == {(4,)}


def test_arrays_are_fed_as_they_are_and_that_is_told() -> None:
    samples = open_samples(list(ROWS), [VECTOR], Preprocess(mean=(9.0,)))
    assert np.array_equal(np.concatenate(fed(samples)), ROWS)
    assert any("arrays are fed as they are" in note for note in samples.notes)


def test_samples_are_split_and_kept_apart_by_their_contents() -> None:
    first, second = split(open_samples(list(ROWS), [VECTOR]))
    assert len(first) + len(second) == 6
    left = without(open_samples(list(ROWS), [VECTOR]), first)
    assert {left.identity(k) for k in range(len(left))} == {
        second.identity(k) for k in range(len(second))
    }


def test_samples_travel_to_another_process() -> None:
    samples = open_samples(iter([(row, 1) for row in ROWS]), [VECTOR])
    code = (
        "import pickle, sys; samples = pickle.load(sys.stdin.buffer); "
        "print(sum(sample.feeds['x:0'].sum() + sample.label for sample in samples))"
    )
    sent = pickle.dumps(samples)
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert float(done.stdout) == ROWS.sum() + 6


def test_samples_whose_process_is_gone_are_not_taken_for_others(tmp_path: Path) -> None:
    samples = open_samples(list(ROWS), [VECTOR])
    state = samples.arrays["x:0"]._store.__getstate__()  # type: ignore[attr-defined]
    other = tmp_path / "other"
    other.write_bytes(bytes(state["size"]))
    for path in (str(other), str(tmp_path / "none")):
        store = object.__new__(_Store)
        with pytest.raises(InputError, match=r"samples that Python gave .* use one worker"):
            store.__setstate__({**state, "path": path})


def test_mapped_arrays_travel_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    samples = open_samples(np.load(tmp_path / "x.npy", mmap_mode="r"), [VECTOR])
    assert np.array_equal(fed(pickle.loads(pickle.dumps(samples))), fed(samples))


def test_nothing_is_left_behind_in_the_temporary_folder(tmp_path: Path, monkeypatch: Any) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    samples = open_samples(list(ROWS), [VECTOR])
    assert len(fed(samples)) == 6
    assert not list(tmp_path.iterdir())


# What can't be used.


def broken() -> Iterator[Array]:
    """Yield two rows, and fail."""
    yield ROWS[0]
    yield ROWS[1]
    raise KeyError("row 2")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (broken, r"broken: sample 2 can't be made \(KeyError: 'row 2'\)"),
        ([], r"the data: gave no samples; an iterator can be read only once: give the function"),
        ([ROWS[0], ROWS[0][:3]], r"the data\[1\].*\(1, 3\).*x:0 \(N, 4\)"),
        ([ROWS[0], np.float32(3)], r"sample 1: an array of \(\) does not fit the input x:0"),
        ([ROWS[0], "text"], r"sample 1: holds <U4, numbers are needed"),
        ([{"z": ROWS[0], "q": 1}], r"sample 0: nothing for the input 'x:0'"),
        ([(ROWS[0], 1), ROWS[1]], r"sample 1: has no label, and those before it have"),
        ([ROWS[0], (ROWS[1], 1)], r"sample 1: has a label, and those before it have none"),
        ([(ROWS[:2], [1, 2, 3])], r"sample 0: 2 rows have labels of the shape \(3,\)"),
        ([(ROWS[0], 1, 2, 3)], r"sample 0: is a tuple of 4; 1 for the inputs \(x:0\)"),
        (7, r"int: is no data that can be gone through"),
    ],
    ids=[
        "fails", "empty", "width", "scalar", "text", "name", "label_lost", "label_late",
        "label_count", "tuple", "number",
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_by_its_number(data: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        list(open_samples(data, [VECTOR]))


def test_too_few_rows_for_a_batch_are_told() -> None:
    with pytest.raises(InputError, match=r"has 1 sample, and the model takes 2 at once"):
        open_samples([ROWS[0]], [BATCH])


def test_inputs_that_do_not_go_together_are_told() -> None:
    data = [{"x": ROWS[:2], "y": np.zeros((3, 2))}]
    with pytest.raises(
        InputError, match=r"sample 0: the inputs have rows for different numbers of"
    ):
        open_samples(data, [VECTOR, OTHER])


def test_a_function_that_fails_is_told_with_the_sample() -> None:
    def fails(row: Array) -> Array:
        raise ValueError(f"{row.shape}")

    with pytest.raises(InputError, match=r"sample 0: the preprocessing .*fails failed \(ValueErr"):
        open_samples(list(ROWS), [VECTOR], Preprocess(function=Function.of(fails)))
