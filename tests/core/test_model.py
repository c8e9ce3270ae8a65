"""Saving and loading models: nothing is lost, and large weights are written as they are."""

import mmap
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError
from onnxgraft.files import release_pages
from onnxgraft.model import Model, Origin
from onnxgraft.onnx_file import LARGE, split_weights, write_model
from onnxgraft.runtime import Array
from tests.conftest import model_of, outputs_of

RNG = np.random.default_rng(0)
BIG = RNG.standard_normal((64, 512)).astype(np.float32)


def large_model() -> Model:
    assert BIG.nbytes > LARGE
    return model_of(
        "net (float[N, 64] x) => (float[N, 512] y) { m = MatMul(x, big)  y = Add(m, small) }",
        {"big": BIG, "small": RNG.standard_normal(512).astype(np.float32)},
    )


def test_a_saved_model_is_what_onnx_itself_would_write(tmp_path: Path) -> None:
    model = large_model()
    model.save(tmp_path / "a.onnx")
    mine, theirs = onnx.load(tmp_path / "a.onnx"), model.to_onnx()
    key = lambda entry: entry.name  # noqa: E731
    assert sorted(mine.graph.initializer, key=key) == sorted(theirs.graph.initializer, key=key)
    for proto in (mine, theirs):
        del proto.graph.initializer[:]
    assert mine == theirs


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_constants_of_any_type_come_back(tmp_path: Path, dtype: type, order: str) -> None:
    value = np.asarray(RNG.integers(0, 2, (300, 999)), dtype, order=order)
    kind = onnx.TensorProto.DataType.Name(onnx.helper.np_dtype_to_tensor_dtype(value.dtype)).lower()
    model = model_of(f"net ({kind}[M] x) => ({kind}[300, 999] y) {{ y = Identity(c) }}",
                     {"c": value})  # fmt: skip
    model.save(tmp_path / "a.onnx")
    [stored] = onnx.load(tmp_path / "a.onnx").graph.initializer
    assert (onnx.numpy_helper.to_array(stored) == value).all()


def test_a_round_trip_keeps_numbers_source_and_names(tmp_path: Path) -> None:
    model = large_model()
    model.names["m"] = Origin("dense/MatMul:0", (1, 0))
    model.save(tmp_path / "a.onnx")
    again = Model.load(tmp_path / "a.onnx")
    assert again.source == model.source
    assert again.names == model.names
    np.testing.assert_array_equal(outputs_of(again)["y"], outputs_of(model)["y"])


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = large_model()
    model.save(tmp_path / "a.onnx")
    assert model.graph.tensors()["big"].values is not None
    np.testing.assert_array_equal(model.graph.tensors()["big"].values, BIG)


def test_more_than_two_gigabytes_are_refused(tmp_path: Path) -> None:
    light, _ = split_weights(large_model().graph)
    proto = Model(light, large_model().source).to_onnx()
    endless = np.broadcast_to(np.float32(0), (1 << 16, 1 << 15))
    with pytest.raises(InputError, match=r"8\.6 GB"), open(tmp_path / "a.onnx", "wb") as file:
        write_model(file, proto, {"big": endless})


def test_pages_that_were_given_back_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BIG.tobytes())
    with open(tmp_path / "a", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view: Array = np.frombuffer(memoryview(mapped), np.float32).reshape(BIG.shape)
    release_pages([view, BIG])
    np.testing.assert_array_equal(view, BIG)
