"""ONNX files as originals: loaded, cut, inspected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.inspection import inspect_onnx
from tests.conftest import model_of

WEIGHTS = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
DENSE = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
NETWORK = """
network (float[N, 3, 8, 6] image) => (float[N, 5] score, float[N, 4, 8, 6] features) {
    made = Conv <pads = [1, 1, 1, 1]> (image, weights)
    features = Relu (made)
    pooled = GlobalAveragePool (features)
    flat = Flatten (pooled)
    score = MatMul (flat, dense)
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a small network as an ONNX file."""
    path = tmp_path / "network.onnx"
    onnx.save(model_of(NETWORK, {"weights": WEIGHTS, "dense": DENSE}).to_onnx(), path)
    return path


def infer(proto: onnx.ModelProto, **feeds: Array) -> dict[str, Array]:
    """Return what onnxruntime computes."""
    with OnnxRuntime(proto, optimize=False) as session:
        return session.infer(feeds)


def image(batch: int = 2) -> Array:
    return np.random.default_rng(2).standard_normal((batch, 3, 8, 6)).astype(np.float32)


def test_a_file_without_cuts_is_taken_whole(file: Path) -> None:
    model, notes = Original.of(file).lower()
    assert notes == []
    assert [spec.name for spec in model.inputs] == ["image"]
    assert [spec.name for spec in model.outputs] == ["score", "features"]
    whole = infer(onnx.load(file), image=image())
    for name, value in infer(model.to_onnx(), image=image()).items():
        assert (value == whole[name]).all()


def test_an_output_inside_cuts_the_end_off(file: Path) -> None:
    model, _ = Original.of(file, outputs="flat").lower()
    assert [spec.name for spec in model.outputs] == ["flat"]
    assert "MatMul" not in model.operators()
    features = infer(onnx.load(file), image=image())["features"]
    flat = infer(model.to_onnx(), image=image())["flat"]
    # Sums of 48 float32 values of size 1.
    assert np.abs(flat - features.mean((2, 3))).max() < 1e-6


def test_an_input_inside_cuts_the_beginning_off(file: Path) -> None:
    model, _ = Original.of(file, inputs="features[?,4,8,6]", outputs="score").lower()
    assert [(s.name, s.shape[1:]) for s in model.inputs] == [("features", (4, 8, 6))]
    assert "Conv" not in model.operators()
    whole = infer(onnx.load(file), image=image())
    part = infer(model.to_onnx(), features=whole["features"])
    assert (part["score"] == whole["score"]).all()


def test_an_input_of_unknown_shape_wants_one(tmp_path: Path) -> None:
    model = model_of(
        """network (float[N, 4] x, int64[R] shape) => (float[N, 5] score) {
            flat = Reshape (x, shape)
            score = MatMul (flat, dense)
        }""",
        {"dense": DENSE},
    )
    file = tmp_path / "a.onnx"
    onnx.save(model.to_onnx(), file)
    with pytest.raises(InputError, match=r"the shape of 'flat' is not known; write flat\[1"):
        Original.of(file, inputs="flat", outputs="score").lower()
    model, _ = Original.of(file, inputs="flat[?,4]", outputs="score").lower()
    flat = np.ones((3, 4), np.float32)
    # Sums of four float32 products of size 1.
    assert np.abs(infer(model.to_onnx(), flat=flat)["score"] - DENSE.sum(0)).max() < 1e-6


def test_outputs_keep_the_order_in_which_they_were_named(file: Path) -> None:
    model, _ = Original.of(file, outputs="features,flat,score").lower()
    assert [spec.name for spec in model.outputs] == ["features", "flat", "score"]
    assert list(infer(model.to_onnx(), image=image())) == ["features", "flat", "score"]


def test_the_original_is_cut_alike(file: Path) -> None:
    with Original.of(file, inputs="features[?,4,8,6]", outputs="score").run() as reference:
        assert [spec.name for spec in reference.inputs] == ["features"]
        assert [spec.name for spec in reference.outputs] == ["score"]


def test_an_output_that_is_no_float_keeps_its_type(tmp_path: Path) -> None:
    model = model_of(
        """network (float[N, 5] x) => (float[N, 1] y) {
            best = ArgMax <axis = 1> (x)
            y = Cast <to = 1> (best)
        }"""
    )
    onnx.save(model.to_onnx(), tmp_path / "a.onnx")
    cut, _ = Original.of(tmp_path / "a.onnx", outputs="best").lower()
    x = np.array([[0.0, 3.0, 1.0, 2.0, -1.0]], np.float32)
    best = infer(cut.to_onnx(), x=x)["best"]
    assert best.dtype == np.int64
    assert best.tolist() == [[1]]


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_an_unknown_tensor_names_the_nearest(file: Path, end: str) -> None:
    with pytest.raises(InputError, match=r"'feature'; did you mean features\?"):
        Original.of(file, **{end: "feature"}).lower()


@pytest.mark.parametrize("outputs", ["flat", "made", "pooled"])
def test_a_cut_model_can_be_saved(file: Path, tmp_path: Path, outputs: str) -> None:
    model, _ = Original.of(file, outputs=outputs).lower()
    model.save(tmp_path / "cut.onnx")
    whole, _ = Original.of(tmp_path / "cut.onnx").lower()
    expected = infer(model.to_onnx(), image=image())[outputs]
    assert (infer(whole.to_onnx(), image=image())[outputs] == expected).all()


def test_an_input_that_does_not_reach_all_outputs_names_the_one_left(file: Path) -> None:
    with pytest.raises(InputError, match="image"):
        Original.of(file, inputs="flat[?,4]", outputs="score,features").lower()


def test_set_values_have_no_effect_and_that_is_noted(file: Path) -> None:
    assert Original.of(file, values=["is_training=false"]).lower()[1] == [
        "--set has no effect: it is for TensorFlow graphs"
    ]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a network of opset 11, whose softmax is over several axes."""
    proto = onnx.parser.parse_model(
        """<ir_version: 6, opset_import: ["" : 11]>
        n (float[N, 3, 8, 6] x) => (float[N, 3, 8, 6] y) { c = Clip (x)  y = Softmax (c) }"""
    )
    onnx.save(proto, tmp_path / "old.onnx")
    return tmp_path / "old.onnx"


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_an_onnx_file_is_raised_to_the_opset_that_is_asked_for(old: Path, opset: int) -> None:
    model, notes = Original.of(old).lower(opset)
    assert model.graph.opset == opset
    assert notes == [f"opset 11 was raised to {opset}: every output stayed the same in onnxruntime"]
    with OnnxRuntime(old) as before:
        expected = before.infer({"x": image()[:, :3]})["y"]
    np.testing.assert_allclose(infer(model.to_onnx(), x=image()[:, :3])["y"], expected, rtol=1e-6)


def test_without_an_opset_an_onnx_file_keeps_its_own(old: Path) -> None:
    model, notes = Original.of(old).lower()
    assert (model.graph.opset, notes) == (11, [])
    assert Original.of(old).lower(oldest=13)[0].graph.opset == 13


@pytest.mark.parametrize("opset", [7, 12, 16, 99])
def test_an_opset_is_not_lowered(file: Path, opset: int) -> None:
    with pytest.raises(InputError, match=f"--opset {opset}: .* has opset 17, .* to 17 to 20, and"):
        Original.of(file).lower(opset)


def test_what_can_not_be_verified_is_told(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 6, opset_import: ["" : 11, "acme" : 1]>
        n (float[N, 4] x) => (float[N, 4] y) { c = Clip (x)  y = acme.Own (c) }"""
    )
    onnx.save(proto, tmp_path / "old.onnx")
    _, [note] = Original.of(tmp_path / "old.onnx").lower(17)
    assert note.startswith("opset 11 was raised to 17; not verified: ")


def test_a_graph_that_became_another_is_refused(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: Model, opset: int) -> Model:
        later = raise_opset(model, opset)
        next(node for node in later.graph.nodes if node.op == "Softmax").attrs["axis"] = 0
        return later

    monkeypatch.setattr("onnxgraft.run.raising.raise_opset", wrong)
    with pytest.raises(NotSupportedError, match=r"its output 'y' differs by .* opset 17"):
        Original.of(old).lower(17)


def test_a_corrupted_file_is_refused_by_name(file: Path) -> None:
    file.write_bytes(b"\xff" * 200)
    with pytest.raises(ModelError, match=r"network\.onnx: not a valid ONNX file"):
        Original.of(file).lower()


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_file_cut_short_is_refused(file: Path, part: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelError, match=r"network\.onnx: not a valid ONNX file"):
        Original.of(file).lower()


def test_a_text_under_the_name_of_a_model_is_refused(file: Path) -> None:
    file.write_text("this is not a model\n")
    with pytest.raises(ModelError, match="not a valid ONNX file"):
        Original.of(file).lower()


def test_a_graph_that_breaks_the_rules_of_onnx_is_refused(file: Path) -> None:
    proto = onnx.load(file)
    proto.graph.node[0].input[0] = "nowhere"
    onnx.save(proto, file)
    with pytest.raises(ModelError, match="not a valid ONNX file"):
        Original.of(file).lower()


def test_weights_outside_the_folder_are_not_read(file: Path, tmp_path: Path) -> None:
    proto = onnx.load(file)
    tensor = proto.graph.initializer[0]
    (tmp_path.parent / "outside.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../outside.bin"
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="is not in the model's folder"):
        Original.of(file).lower()


def test_missing_weights_beside_the_file_are_an_error(file: Path) -> None:
    proto = onnx.load(file)
    onnx.save(proto, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert Original.of(file).lower()[0].inputs[0].name == "image"
    (file.parent / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"network\.onnx"):
        Original.of(file).lower()


@pytest.mark.parametrize(
    ("layout", "shape"), [("keep", (3, 8, 6)), ("nchw", (3, 8, 6)), ("nhwc", (8, 6, 3))]
)
def test_the_layout_of_onnx_is_nchw(file: Path, layout: str, shape: tuple[int, ...]) -> None:
    model, _ = Original.of(file).lower(io_layout=layout)  # type: ignore[arg-type]
    assert model.inputs[0].shape[1:] == shape


def test_nhwc_keeps_names_and_numbers(file: Path) -> None:
    model, _ = Original.of(file).lower(io_layout="nhwc")
    whole = infer(onnx.load(file), image=image())
    turned = infer(model.to_onnx(), image=image().transpose(0, 2, 3, 1))
    assert list(turned) == list(whole)
    assert (turned["score"] == whole["score"]).all()
    assert (turned["features"] == whole["features"].transpose(0, 2, 3, 1)).all()


def test_inspect_tells_what_a_file_holds(file: Path) -> None:
    found = Original.of(file).inspect()
    assert found.framework == "onnx"
    assert found.inputs == ["image (N, 3, 8, 6) float32"]
    assert found.outputs == ["score (N, 5) float32", "features (N, 4, 8, 6) float32"]
    assert found.operators == {
        "Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "MatMul": 1,
    }  # fmt: skip
    assert found.parameters == WEIGHTS.size + DENSE.size
    assert (found.variables, found.training) == ([], [])


def test_inspect_names_operators_of_other_domains_with_it() -> None:
    model = model_of("g (float[N] x) => (float[M] y) { [a] u = Unique(x)\n [b] y = Unique(u) }")
    assert inspect_onnx(model).unsupported == ["2 Unique (a, b): TensorRT has no equivalent"]
    model.graph.nodes[0].domain = "acme"
    found = inspect_onnx(model)
    assert found.operators == {"acme.Unique": 1, "Unique": 1}
    assert found.unsupported == ["1 Unique (b): TensorRT has no equivalent"]
