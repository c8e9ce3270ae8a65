"""Saving and loading models: nothing is lost, and large weights are written as they are."""

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.errors import ModelError
from onnxgraft.files import release_pages
from onnxgraft.graph.external import LARGE
from onnxgraft.graph.model import Model, Origin
from onnxgraft.graph.tensors import Array
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of, outputs_of

RNG = np.random.default_rng(0)
BIG = RNG.standard_normal((64, 512)).astype(np.float32)
SMALL = RNG.standard_normal(512).astype(np.float32)


def large_model() -> Model:
    assert BIG.nbytes > LARGE
    return model_of(
        "net (float[N, 64] x) => (float[N, 512] y) { m = MatMul(x, big)  y = Add(m, small) }",
        {"big": BIG, "small": SMALL},
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


# Models that do not fit into one message --------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model that was saved with its weights in a file beside it."""
    monkeypatch.setattr("onnxgraft.graph.onnx_file.MOST_BYTES", 1000)
    large_model().save(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").stat().st_size < 10_000
    return tmp_path / "a.onnx"


def test_a_tensor_with_a_shape_and_no_type_is_saved_without(tmp_path: Path) -> None:
    model = large_model()
    tensor = model.graph.tensors()["m"]
    tensor.shape, tensor.dtype = [2, 512], None
    model.save(tmp_path / "a.onnx")
    assert not onnx.load(tmp_path / "a.onnx").graph.value_info
    assert (tensor.shape, tensor.dtype) == ([2, 512], None)


def test_what_is_too_large_for_one_file_is_written_beside_it_as_onnx_reads_it(split: Path) -> None:
    assert sorted(path.name for path in split.parent.iterdir()) == ["a.onnx", "a.onnx.data"]
    onnx.checker.check_model(str(split), full_check=True)
    weights = {entry.name: entry for entry in onnx.load(split).graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weights["big"]), BIG)
    with OnnxRuntime(split) as session:
        feeds = random_feeds(session.inputs, 2)
        expected = outputs_of(large_model())["y"]
        np.testing.assert_allclose(session.infer(feeds)["y"], expected, atol=1e-4)


def test_external_data_are_read_without_a_copy(split: Path) -> None:
    model = Model.load(split)
    value = model.graph.tensors()["big"].values
    np.testing.assert_array_equal(value, BIG)
    assert not value.flags.owndata and not value.flags.writeable
    np.testing.assert_array_equal(outputs_of(model)["y"], outputs_of(large_model())["y"])


def test_small_external_data_are_read_too(tmp_path: Path) -> None:
    onnx.save(
        large_model().to_onnx(), tmp_path / "a.onnx", save_as_external_data=True,
        all_tensors_to_one_file=False, size_threshold=0,
    )  # fmt: skip
    model = Model.load(tmp_path / "a.onnx")
    np.testing.assert_array_equal(outputs_of(model)["y"], outputs_of(large_model())["y"])


def relocated(model: Path, **entries: str) -> Path:
    """Change where a model says that its external data are."""
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)
    model.write_bytes(proto.SerializeToString())
    return model


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../secret", "not in the model's folder"),
        ("/etc/hostname", "not in the model's folder"),
        ("sub/../../secret", "not in the model's folder"),
        ("", "not in the model's folder"),
        ("nowhere", "does not exist"),
        ("folder", "is not a file"),
        ("empty", "is empty"),
        ("link", "is a link"),
        ("linked_folder/data", "is a link"),
        ("hard", "is a hard link"),
        ("a\0b", "does not exist"),
    ],
)  # fmt: skip
def test_external_data_elsewhere_are_refused(split: Path, location: str, reason: str) -> None:
    folder = split.parent
    secret = folder.parent / "secret"
    secret.write_bytes(bytes(BIG.nbytes))
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "link").symlink_to(secret)
    (folder / "linked_folder").symlink_to(folder.parent, target_is_directory=True)
    os.link(secret, folder / "hard")
    with pytest.raises(ModelError, match=f"the external data of 'big' are refused: .*{reason}"):
        Model.load(relocated(split, location=location))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": "999999999"}, "beyond the end"),
        ({"offset": "-4096"}, "not at a place"),
        ({"length": "999999999999"}, "beyond the end"),
        ({"length": "4096"}, "the declared shape and type"),
        ({"offset": "here"}, "not at a place"),
        ({"offset": "٤٠٩٦"}, "not at a place"),
        ({"offset": "4_096"}, "not at a place"),
        ({"length": " 4096"}, "not at a place"),
    ],
    ids=["offset", "negative", "length", "short", "word", "arabic", "underscore", "space"],
)
def test_external_data_that_do_not_fit_are_refused(
    split: Path, entries: dict[str, str], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        Model.load(relocated(split, **entries))


@pytest.mark.parametrize("cut", [1, 50, 1000, BIG.nbytes, -1])
def test_a_file_that_ends_too_early_is_refused(tmp_path: Path, cut: int) -> None:
    large_model().save(tmp_path / "a.onnx")
    whole = (tmp_path / "a.onnx").read_bytes()
    (tmp_path / "a.onnx").write_bytes(whole[:-1] if cut < 0 else whole[:cut])
    with pytest.raises(ModelError, match="not a valid ONNX file"):
        Model.load(tmp_path / "a.onnx")


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    """Bytes are changed anywhere but in the weights; nothing but a ModelError may come of it."""
    whole = bytearray(WRITTEN)
    at = data.draw(st.integers(0, len(whole) - BIG.nbytes - 1))
    whole[at] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.onnx")
        file.write_bytes(whole)
        try:
            Model.load(file)
        except ModelError:
            return


def _written() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        large_model().save(Path(folder, "a.onnx"))
        return Path(folder, "a.onnx").read_bytes()


WRITTEN = _written()


def test_pages_that_were_given_back_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BIG.tobytes())
    with open(tmp_path / "a", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view: Array = np.frombuffer(memoryview(mapped), np.float32).reshape(BIG.shape)
    release_pages([view, BIG])
    np.testing.assert_array_equal(view, BIG)


def test_a_graph_is_exported_again_only_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(
        "net (float[N, 4] x) => (float[N, 4] y) { h = Mul(x, a)  y = Relu(h) }",
        {"a": np.float32(2)},
    )
    exported = []
    real = gs.export_onnx
    monkeypatch.setattr(
        gs, "export_onnx", lambda *given, **more: exported.append(1) or real(*given, **more)
    )
    first = model.to_onnx()
    first.graph.ClearField("node")  # a copy, which belongs to who asked for it
    assert len(model.to_onnx().graph.node) == 2
    model.metadata["onnxgraft.more"] = "1"
    assert any(prop.key == "onnxgraft.more" for prop in model.to_onnx().metadata_props)
    assert len(exported) == 1
    mul, relu = model.graph.nodes
    mul.inputs[1].values = np.float32(3) * np.ones(())
    relu.op = "Sigmoid"
    changed = model.to_onnx()
    assert [node.op_type for node in changed.graph.node] == ["Mul", "Sigmoid"]
    assert onnx.numpy_helper.to_array(changed.graph.initializer[0]) == 3
    relu.attrs["note"] = [1]
    model.to_onnx()
    assert len(exported) == 3
