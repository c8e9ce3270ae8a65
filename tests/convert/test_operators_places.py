"""Operators that are told places by numbers, each against TensorFlow itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from tests.conftest import few
from tests.convert.one_operator import outputs, x

tf = pytest.importorskip("tensorflow")

INDICES = np.array([[-1, 0, 4], [-5, -6, 5], [7, 1, 2]], np.int32)
RNG = np.random.default_rng(0)

ONE_HOTS = {
    "last_axis": lambda v: tf.one_hot(v, 5),
    "first_axis": lambda v: tf.one_hot(v, 5, 2.0, -1.0, axis=0),
    "axis_1": lambda v: tf.one_hot(v, 5, 2.0, -1.0, axis=1),
    "axis_2": lambda v: tf.one_hot(v, 5, axis=2),
    "of_booleans": lambda v: tf.one_hot(v, 5, True, False),
    "of_whole_numbers": lambda v: tf.one_hot(v, 5, dtype=tf.int32),
    "of_a_scalar": lambda v: tf.one_hot(v[0, 0], 5),
    "free_depth": lambda v: tf.one_hot(v, tf.shape(v)[1]),
    "of_bytes": lambda v: tf.one_hot(tf.cast(v, tf.uint8), 5),
}


@pytest.mark.parametrize("kind", ONE_HOTS)
def test_an_index_that_is_out_of_range_is_hot_nowhere(tmp_path: Path, kind: str) -> None:
    theirs, mine = outputs(tmp_path, lambda: ONE_HOTS[kind](x(None, 3, dtype=tf.int32)), x=INDICES)
    assert theirs.dtype == mine.dtype
    np.testing.assert_array_equal(mine, theirs)


def test_what_an_argmax_gives_stays_a_one_hot(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        tf.one_hot(tf.argmax(x(None, 5), 1), 5, name="out")
        (tmp_path / "x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    model, _ = Original.of(tmp_path / "x.pb").lower()
    assert model.operators()["OneHot"] == 1


TWICE = np.array([1, 1, 3], np.int32)
UPDATES = np.array([1.5, 2.5, 3.5], np.float32)


def scattered(kind: Any) -> Any:
    """Return a scatter into six zeros, of updates of a type."""
    return lambda v: tf.scatter_nd(x(3, dtype=tf.int32, name="i")[:, None], tf.cast(v, kind), [6])


def into(operator: Any) -> Any:
    return lambda v: operator(tf.zeros([6]), x(3, dtype=tf.int32, name="i")[:, None], v)


SCATTERS = {
    "floats": scattered(tf.float32),
    "whole_numbers": scattered(tf.int32),
    "halves": scattered(tf.float16),
    "booleans": scattered(tf.bool),
    "added": into(tf.tensor_scatter_nd_add),
    "subtracted": into(tf.tensor_scatter_nd_sub),
    "updated": into(tf.tensor_scatter_nd_update),
    "largest": into(tf.tensor_scatter_nd_max),
    "least": into(tf.tensor_scatter_nd_min),
}


@pytest.mark.parametrize("kind", SCATTERS)
def test_what_comes_to_one_place_twice_is_put_together(tmp_path: Path, kind: str) -> None:
    theirs, mine = outputs(tmp_path, lambda: SCATTERS[kind](x(3)), x=UPDATES, i=TWICE)
    assert theirs.dtype == mine.dtype
    np.testing.assert_array_equal(mine, theirs)


def graph_of_scatter(folder: Path) -> Path:
    with tf.Graph().as_default() as graph:
        tf.identity(into(tf.tensor_scatter_nd_max)(x(3)), name="out")
        (folder / "x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return folder / "x.pb"


def test_the_opset_is_raised_to_what_an_operator_needs(tmp_path: Path) -> None:
    model, notes = Original.of(graph_of_scatter(tmp_path)).lower()
    assert model.graph.opset == 18
    assert notes[-1].startswith("written in opset 18: TensorScatterMax")
    onnx.checker.check_model(model.to_onnx(), full_check=True)


def test_an_opset_that_is_asked_for_stays(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"x\.pb: TensorScatterMax .* needs --opset 18"):
        Original.of(graph_of_scatter(tmp_path)).lower(17)


IDS = np.array([1, 0, 4, -1, 1, -1], np.int32)
SORTED = np.array([0, 0, 1, 1, 3, 3], np.int32)


@pytest.mark.parametrize("kind", ["sum", "prod", "max", "min", "mean"])
@pytest.mark.parametrize("order", ["unsorted", "sorted"])
def test_a_segment_takes_its_rows_together_and_may_be_empty(
    tmp_path: Path, order: str, kind: str
) -> None:
    def build() -> Any:
        ids = x(6, dtype=tf.int32, name="i")
        if order == "sorted":
            return getattr(tf.math, f"segment_{kind}")(x(6, 3), ids)
        return getattr(tf.math, f"unsorted_segment_{kind}")(x(6, 3), ids, 5)

    data = RNG.standard_normal((6, 3)).astype(np.float32)
    theirs, mine = outputs(tmp_path, build, x=data, i=SORTED if order == "sorted" else IDS)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("count", [None, 7], ids=["as_needed", "seven"])
@pytest.mark.parametrize("kind", ["sum", "mean", "sqrt_n"])
def test_a_sparse_segment_takes_the_rows_that_are_picked_and_may_be_empty(
    tmp_path: Path, kind: str, count: int | None
) -> None:
    def build() -> Any:
        indices, ids = x(6, dtype=tf.int32, name="j"), x(6, dtype=tf.int32, name="i")
        return getattr(tf.sparse, f"segment_{kind}")(x(6, 3), indices, ids, num_segments=count)

    data = RNG.standard_normal((6, 3)).astype(np.float32)
    picked = np.array([5, 0, 0, 2, 4, 1], np.int32)
    theirs, mine = outputs(tmp_path, build, x=data, i=SORTED, j=picked)
    assert not np.diff(SORTED).max() <= 1  # one is empty in the middle
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_an_infinite_row_stays_so_in_a_segment(tmp_path: Path, kind: str) -> None:
    worst = {"max": -np.inf, "min": np.inf}[kind]
    data = np.full((6, 3), worst, np.float32)
    theirs, mine = outputs(
        tmp_path,
        lambda: getattr(tf.math, f"segment_{kind}")(x(6, 3), x(6, dtype=tf.int32, name="i")),
        x=data,
        i=SORTED,
    )
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("band", [(0, -1), (-1, 0), (1, 2), (-1, -1), (0, 0), None])
def test_a_band_of_a_matrix_is_cut_out_of_infinite_values(
    tmp_path: Path, band: tuple[int, int] | None
) -> None:
    def build() -> Any:
        if band is None:  # told at run time
            ends = x(2, dtype=tf.int64, name="i")
            return tf.linalg.band_part(x(2, 4, 5), ends[0], ends[1])
        return tf.linalg.band_part(x(2, None, 5), *band)

    data = RNG.standard_normal((2, 4, 5)).astype(np.float32)
    data[0, ::2], data[1, :, 1] = np.inf, np.nan
    more = {"i": np.array([2, -1])} if band is None else {}
    theirs, mine = outputs(tmp_path, build, x=data, **more)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("axis", "batches"), [(-1, 1), (-1, -1), (2, -1), (-2, 0), (1, 1)])
def test_a_gather_counts_its_axes_from_the_end_too(tmp_path: Path, axis: int, batches: int) -> None:
    def build() -> Any:
        indices = x(3, 2, dtype=tf.int32, name="i")
        return tf.gather(x(3, 5, 4), indices, axis=axis, batch_dims=batches)

    data = RNG.standard_normal((3, 5, 4)).astype(np.float32)
    theirs, mine = outputs(tmp_path, build, x=data, i=np.array([[0, 3], [2, 2], [1, 0]], np.int32))
    np.testing.assert_array_equal(mine, theirs)


def test_a_permutation_is_inverted(tmp_path: Path) -> None:
    value = np.array([2, 0, 3, 1], np.int32)
    theirs, mine = outputs(
        tmp_path, lambda: tf.math.invert_permutation(x(4, dtype=tf.int32)), x=value
    )
    np.testing.assert_array_equal(mine, theirs)


VALUES = np.array([[0, 3, 3, 5, 1], [2, 2, 2, 4, 9]], np.int32)
COUNTS = {
    "rows": lambda v: tf.math.bincount(v, minlength=6, maxlength=6, axis=-1),
    "binary": lambda v: tf.math.bincount(v, minlength=6, maxlength=6, axis=-1, binary_output=True),
    "all": lambda v: tf.math.bincount(v[0], minlength=6, maxlength=6),
    "weighted": lambda v: tf.math.bincount(
        v[0], weights=tf.cast(v[1], tf.float32), minlength=6, maxlength=6
    ),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_values_are_counted(tmp_path: Path, kind: str) -> None:
    theirs, mine = outputs(tmp_path, lambda: COUNTS[kind](x(2, 5, dtype=tf.int32)), x=VALUES)
    np.testing.assert_array_equal(mine, theirs)


EDGES = np.array([[-1.0, 0.0, 0.5, 1.0, 2.0, 7.0]], np.float32)
SEARCHES = {
    "Bucketize": lambda v: tf.raw_ops.Bucketize(input=v, boundaries=[0.0, 1.0, 2.0]),
    "LowerBound": lambda v: tf.searchsorted([[0.0, 1.0, 1.0, 2.0]], v),
    "UpperBound": lambda v: tf.searchsorted([[0.0, 1.0, 1.0, 2.0]], v, side="right"),
}


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_value_finds_its_place_among_sorted_ones(tmp_path: Path, kind: str) -> None:
    theirs, mine = outputs(tmp_path, lambda: SEARCHES[kind](x(1, 6)), x=EDGES)
    np.testing.assert_array_equal(mine, theirs)


DIAGONALS = {
    "made": lambda v: tf.linalg.diag(v),
    "filled": lambda v: tf.linalg.diag(v, padding_value=7.0),
    "set_wide": lambda v: tf.linalg.set_diag(tf.ones([3, 3, 5]), v),
    "set_tall": lambda v: tf.linalg.set_diag(tf.ones([3, 5, 3]), v),
    "set_above": lambda v: tf.linalg.set_diag(tf.ones([3, 4, 5]), v, k=2),
    "set_below": lambda v: tf.linalg.set_diag(tf.ones([3, 5, 4]), v, k=-2),
}


@pytest.mark.parametrize("kind", DIAGONALS)
def test_a_diagonal_is_put_into_its_matrix(tmp_path: Path, kind: str) -> None:
    value = RNG.standard_normal((3, 3)).astype(np.float32)
    theirs, mine = outputs(tmp_path, lambda: DIAGONALS[kind](x(None, 3)), x=value)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "align", few(["RIGHT_LEFT", "LEFT_RIGHT", "LEFT_LEFT", "RIGHT_RIGHT"], 2, 2)
)
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 6), (6, 3)])
@pytest.mark.parametrize("band", [(-1, 1), (-2, 0), (0, 2), (1, 2), (-2, -1)])
def test_a_band_of_diagonals_is_put_into_its_matrix(
    tmp_path: Path, band: tuple[int, int], rows: int, columns: int, align: str
) -> None:
    count = band[1] - band[0] + 1
    longest = min(rows + min(band[1], 0), columns - max(band[0], 0))
    value = RNG.standard_normal((2, count, longest)).astype(np.float32)

    def build() -> Any:
        given = x(None, count, longest)
        return tf.linalg.set_diag(tf.ones([2, rows, columns]), given, k=band, align=align)

    theirs, mine = outputs(tmp_path, build, x=value)
    np.testing.assert_array_equal(mine, theirs)


def test_diagonals_of_a_matrix_of_unknown_size_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"MatrixSetDiagV3 \(.*the size of the matrix"):
        outputs(tmp_path, lambda: tf.linalg.set_diag(x(None, None), x(3, name="d")))


# Order ----------------------------------------------------------------------------------------

# What TopK of floats would round, or take for another sign.
LARGE = {
    kind: np.array([[2**24 + 1, 2**24, -(2**24) - 3, 7], [*np.iinfo(kind).min + np.arange(2), 3,
                    np.iinfo(kind).max]], kind)
    for kind in ("int32", "int64")
}  # fmt: skip
ORDERED = {
    **LARGE,
    "float64": np.array([[1.0, 1 + 1e-12, 1 - 1e-12, 0]]),
    "float16": np.array([[1, 2, 2, -3]], np.float16),
    "int8": np.array([[5, -128, 127, 5]], np.int8),
    "int16": np.array([[5, -(2**15), 2**15 - 1, 5]], np.int16),
    "uint8": np.array([[5, 255, 0, 5]], np.uint8),
    "uint32": np.array([[2**32 - 1, 2**32 - 2, 2**31, 1]], np.uint32),
}


@pytest.mark.parametrize("part", ["values", "indices"])
@pytest.mark.parametrize("kind", ORDERED)
def test_the_largest_are_found_as_they_are(tmp_path: Path, kind: str, part: str) -> None:
    def build() -> Any:
        return getattr(tf.math.top_k(x(None, 4, dtype=tf.as_dtype(kind)), 3), part)

    theirs, mine = outputs(tmp_path, build, x=ORDERED[kind])
    assert theirs.dtype == mine.dtype
    np.testing.assert_array_equal(mine, theirs)


COMPARISONS = {
    "greater": tf.greater, "less": tf.less, "greater_equal": tf.greater_equal,
    "less_equal": tf.less_equal, "equal": tf.equal, "not_equal": tf.not_equal,
    "branch": lambda a, b: tf.cond(a[0, 1] < b[0, 1], lambda: a, lambda: b),
}  # fmt: skip


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("kind", ORDERED)
def test_neighbours_are_told_apart(tmp_path: Path, kind: str, comparison: str) -> None:
    """The second value and the first are equal as float32, where there are more digits."""
    value = ORDERED[kind]

    def build() -> Any:
        given = (x(None, 4, dtype=tf.as_dtype(kind), name=name) for name in "xz")
        return COMPARISONS[comparison](*given)

    theirs, mine = outputs(tmp_path, build, x=value, z=np.roll(value, 1, axis=1))
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("batch", "steps"), [(0, 1), (1, 0), (2, 0), (0, 3), (3, 1), (2, 3)])
def test_sequences_lie_along_any_axis(tmp_path: Path, batch: int, steps: int) -> None:
    value = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    lengths = np.arange(value.shape[batch], dtype=np.int32) % value.shape[steps]

    def build() -> Any:
        given = x(*value.shape[:1], *value.shape[1:]), x(*lengths.shape, dtype=tf.int32, name="n")
        return tf.reverse_sequence(*given, seq_axis=steps, batch_axis=batch)

    theirs, mine = outputs(tmp_path, build, x=value, n=lengths)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_loss_of_an_unlikely_class_is_finite(tmp_path: Path, kind: str) -> None:
    value = np.array([[-3e4, 0, 1], [1, 2, 3], [200, 0, -200]], kind)
    labels = np.array([0, 1, 2], np.int32)

    def build() -> Any:
        logits = x(None, 3, dtype=tf.as_dtype(kind))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            x(None, dtype=tf.int32, name="n"), logits
        )

    theirs, mine = outputs(tmp_path, build, x=value, n=labels)
    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_the_gradient_of_a_loss_is_refused_by_name(tmp_path: Path) -> None:
    def build() -> Any:
        labels = x(None, dtype=tf.int32, name="n")
        return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=x(None, 3), labels=labels)[1]

    with pytest.raises(NotSupportedError, match=r"CrossEntropyWithLogits \(.*its gradient is read"):
        outputs(tmp_path, build)


def test_an_output_that_is_constant_is_there(tmp_path: Path) -> None:
    """As the anchors of a detector are."""
    module = tf.Module()

    def call(v: Any) -> dict[str, Any]:
        return {"twice": 2 * v, "anchors": tf.constant([[1.0, 2.0]]), "rank": tf.rank(v)}

    module.call = tf.function(call, input_signature=[tf.TensorSpec([None, 2], tf.float32, "v")])
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.call)
    model, _ = Original.of(tmp_path / "saved").lower()
    feeds: dict[str, Array] = {"v": np.ones((3, 2), np.float32)}
    with OnnxRuntime(model.to_onnx()) as session:
        found = session.infer(feeds)
    assert found["anchors"].tolist() == [[1.0, 2.0]]
    assert found["rank"] == 2
