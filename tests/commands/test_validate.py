"""Validation of files: bisect with stage and pass, explained tolerance, what is wrong with data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft import commands
from onnxgraft.commands._blame import guilty_pass
from onnxgraft.commands._evidence import hash_of_data
from onnxgraft.errors import InputError
from onnxgraft.files import sha256
from onnxgraft.graph.half import to_half
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine, surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.surgery import Pass, Result
from onnxgraft.stages.surgery.running.rewrite import Context
from tests.conftest import Cli, model_of
from tests.validate.planted import THIN, plant, thin

NET = "net (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) { a = Conv(x, w)  y = Relu(a) }"


def net(path: Path, weights: np.ndarray) -> Path:  # type: ignore[type-arg]
    onnx.save(model_of(NET, {"w": weights.astype(np.float32)}).to_onnx(), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2, 3, 1, 1))
    net(tmp_path / "right.onnx", weights)
    net(tmp_path / "wrong.onnx", weights * np.array([1.5, 1, 1]).reshape(1, 3, 1, 1))
    net(tmp_path / "bgr.onnx", weights[:, ::-1])
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((5, 3, 4, 4)).astype(np.float32))
    return tmp_path


def notes(folder: Path, candidate: str, *, passed: bool = False) -> str:
    report = commands.validate(
        folder / "right.onnx", folder / candidate, folder / "data.npz", bisect=True
    )
    assert report.passed is (passed or candidate == "right.onnx")
    return "\n".join(report.notes)


def test_the_guilty_layer_and_its_stage_are_told(files: Path) -> None:
    told = notes(files, "wrong.onnx")
    assert "first difference at a (Conv 'a' of the ONNX graph)" in told
    assert "caused after conversion and surgery" in told
    assert "prepared differently" not in told


def test_the_order_of_channels_is_told_from_a_wrong_layer(files: Path) -> None:
    told = notes(files, "bgr.onnx")
    assert "both agree once its channels are reversed (BGR for RGB); no layer is to blame" in told
    assert "to blame, unless a, which reads it, was changed in this way" in told
    assert "they part" not in told


def test_nobody_is_blamed_where_nothing_is_wrong(files: Path) -> None:
    told = notes(files, "right.onnx")
    assert "they part" not in told
    assert "every layer computes what the original's does" in told


def test_two_without_a_name_in_common_are_paired_by_what_they_hold(files: Path) -> None:
    other = NET.replace("a = Conv", "b = Conv").replace("Relu(a)", "Relu(b)").replace("y", "z")
    weights = onnx.numpy_helper.to_array(onnx.load(files / "right.onnx").graph.initializer[0])
    onnx.save(model_of(other, {"w": weights}).to_onnx(), files / "other.onnx")
    told = notes(files, "other.onnx", passed=True)
    assert "the two have no names in common: 2 tensors were paired" in told
    assert "every layer computes what the original's does" in told
    factors = np.array([1.5, 1, 1], np.float32).reshape(1, 3, 1, 1)
    onnx.save(model_of(other, {"w": weights * factors}).to_onnx(), files / "other.onnx")
    told = notes(files, "other.onnx")
    assert "first difference at a, which is b in the candidate (Conv 'b' of the ONNX graph)" in told
    assert "it is not known what the candidate was made from" in told


def test_two_that_hold_nothing_alike_are_not_looked_into(files: Path) -> None:
    text = (
        "net (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] z) {"
        " p = AveragePool<kernel_shape=[1,1]>(x)  q = Neg(p)  z = Conv(q, w) }"
    )
    weights = np.random.default_rng(9).standard_normal((2, 3, 1, 1)).astype(np.float32)
    onnx.save(model_of(text, {"w": weights}).to_onnx(), files / "other.onnx")
    told = notes(files, "other.onnx")
    assert "no tensor of one holds the values of one of the other" in told
    assert "they part" not in told


def test_the_tolerance_is_explained(files: Path) -> None:
    told = notes(files, "right.onnx")
    assert "the tolerance is 1e-04 of an output's range" in told
    assert "when run twice" in told
    asked = commands.validate(
        files / "right.onnx", files / "wrong.onnx", files / "data.npz", tolerance=10.0
    )
    assert asked.passed
    assert "as requested" in "\n".join(asked.notes)


def test_a_noisy_network_is_given_more(tmp_path: Path) -> None:
    # The sine of 3000 x makes 3000 times as much of an input's rounding as it was.
    text = "net (float[1, 4] x) => (float[1, 4] y) { a = Mul(x, k)  y = Sin(a) }"
    for name in ("one.onnx", "two.onnx"):
        model = model_of(text, {"k": np.array(3000.0, np.float32)})
        onnx.save(model.to_onnx(), tmp_path / name)
    np.savez(tmp_path / "data.npz", x=np.linspace(0.9, 1, 12, dtype=np.float32).reshape(3, 4))
    report = commands.validate(tmp_path / "one.onnx", tmp_path / "two.onnx", tmp_path / "data.npz")
    assert "10 times its noise" in "\n".join(report.notes)


def test_the_tolerance_follows_the_precision(files: Path) -> None:
    half, _ = to_half(Model.load(files / "right.onnx"))
    half.save(files / "half.onnx")
    report = commands.validate(files / "right.onnx", files / "half.onnx", files / "data.npz")
    assert report.passed
    # Rounded to 11 bits: within FP16's tolerance and beyond float32's.
    assert 1e-4 < report.candidates[1].outputs[0].relative < 1e-2
    told = "\n".join(report.notes)
    assert "the tolerance is 1e-02 of an output's range, the least for fp16" in told
    assert "when its inputs are rounded differently to the 11 bits of fp16" in told
    wrong, _ = to_half(Model.load(files / "wrong.onnx"))
    wrong.save(files / "half.onnx")
    assert not commands.validate(
        files / "right.onnx", files / "half.onnx", files / "data.npz"
    ).passed


def test_the_precision_is_the_passports(files: Path) -> None:
    half, _ = to_half(Model.load(files / "right.onnx"))
    engine.build(half, files / "half.engine", "onnxruntime")
    report = commands.validate(files / "right.onnx", files / "half.engine", files / "data.npz")
    assert report.passed
    assert "the least for fp16" in "\n".join(report.notes)


def test_an_engine_without_a_passport_wants_trust(files: Path) -> None:
    engine.build(Model.load(files / "right.onnx"), files / "right.engine", "onnxruntime")
    (files / "right.engine.json").unlink()
    both = (files / "right.onnx", files / "right.engine")
    for first, second in (both, both[::-1]):
        with pytest.raises(InputError, match=r"has no passport .* or one that you --trust"):
            commands.validate(first, second, files / "data.npz")
    with pytest.raises(InputError, match="has no passport"):
        commands.validate(*both, files / "data.npz", trust="another.engine")
    assert commands.validate(*both, files / "data.npz", trust=["right.engine"]).passed
    report = commands.validate(*both, files / "data.npz", trust=True)
    assert report.passed
    assert any("its tolerance is that of float32" in note for note in report.notes)
    assert commands.validate(*both[::-1], files / "data.npz", trust=True).passed
    assert not (files / "right.engine.json").exists()


# The pass that made it.


def break_relu(graph: gs.Graph, context: Context) -> Result:
    """A pass with a bug."""
    result = Result()
    for node in graph.nodes:
        if node.op == "Relu" and not node.attrs.get("spoilt"):
            node.op = "Elu"
            result.did(node, "spoilt")
    return result


@pytest.mark.parametrize("place", [0, 3, 99])
def test_the_guilty_pass_is_named(place: int, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(surgery.PASSES)
    names.insert(place, Pass("break-relu", break_relu))
    for module in ("onnxgraft.stages.surgery.running.runner", "onnxgraft.commands._blame"):
        monkeypatch.setattr(f"{module}.PASSES", tuple(names))
    model = Model.load(files / "right.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)}
    with Original.of(files / "right.onnx").run() as original:
        assert guilty_pass(original, model, feeds) == "break-relu"
        monkeypatch.undo()
        assert guilty_pass(original, model, feeds) is None


# From the command line, on a Caffe network.


def test_a_planted_fault_is_told_on_the_command_line(tmp_path: Path, cli: Cli) -> None:
    assert "squeezenet" in THIN
    network = thin("squeezenet", tmp_path)
    planted = plant(network, "channels", np.random.default_rng(4))
    planted.model.save(tmp_path / "wrong.onnx")
    done = cli(
        "validate", tmp_path / "squeezenet.prototxt", tmp_path / "wrong.onnx",
        "--weights", tmp_path / "squeezenet.caffemodel", "--data", tmp_path / "squeezenet.npz",
        "--bisect", "--report", tmp_path / "report",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    text = " ".join(done.stdout.split())
    assert "first difference at" in text
    assert planted.node.split("/")[0] in text
    assert "caused after conversion and surgery" in text
    assert (tmp_path / "report" / "report.html").is_file()


# What the passport says afterwards.


def test_the_passport_of_an_engine_takes_its_accuracy(files: Path) -> None:
    model = Model.load(files / "right.onnx")
    engine.build(model, files / "right.engine", "onnxruntime")
    report = commands.validate(files / "right.onnx", files / "right.engine", files / "data.npz")
    passport = engine.read_passport(files / "right.engine")
    (row,) = report.candidates[1].outputs
    assert passport.accuracy == {
        "samples": 5.0, "y: largest difference of its range": row.relative,
        "y: cosine": row.cosine, **({"y: SQNR in dB": row.sqnr} if np.isfinite(row.sqnr) else {}),
        "y: same argmax in percent": 100.0,
    }  # fmt: skip
    assert passport.hashes == {"validation": sha256(files / "data.npz")}
    with engine.load(files / "right.engine"):
        pass  # it is still the passport of this engine


def test_the_command_may_write_into_the_passport(files: Path, cli: Cli) -> None:
    built = files / "commanded" / "right.engine"
    built.parent.mkdir()
    engine.build(Model.load(files / "right.onnx"), built, "onnxruntime")
    done = cli("validate", files / "right.onnx", built, "--data", files / "data.npz")
    assert done.returncode == 0, done.stderr
    assert engine.read_passport(built).accuracy["samples"] == 5


def test_a_list_file_is_known_by_what_it_lists(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
    before = hash_of_data(tmp_path / "list.txt")
    (tmp_path / "b.jpg").write_bytes(b"c")
    assert hash_of_data(tmp_path / "list.txt") != before


# Bad data.


def test_missing_labels_are_counted_and_the_first_is_named(tmp_path: Path, files: Path) -> None:
    import cv2

    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(folder / "a.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"2 of 3 images have none, the first is b\.jpg"):
        commands.validate(files / "right.onnx", files / "wrong.onnx", folder, metric="miou")
    (tmp_path / "labels.csv").write_text("a.jpg,0\n")
    with pytest.raises(InputError, match="no label for 2 of 3 images"):
        commands.validate(
            files / "right.onnx", files / "wrong.onnx", folder, metric="top1",
            labels=tmp_path / "labels.csv",
        )  # fmt: skip


def test_a_nan_is_told_with_its_sample_and_its_first_tensor(tmp_path: Path) -> None:
    text = "net (float[1, 2] x) => (float[1, 2] y) {{ a = {}(x)  y = Neg(a) }}"
    for name, op in (("right", "Abs"), ("wrong", "Sqrt")):
        onnx.save(model_of(text.format(op)).to_onnx(), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.array([[1, 1], [1, 1], [1, -1]], np.float32))
    report = commands.validate(
        tmp_path / "right.onnx", tmp_path / "wrong.onnx", tmp_path / "data.npz", bisect=True
    )
    assert not report.passed
    assert "the candidate's y, of " in report.candidates[1].verdict
    assert report.candidates[1].verdict.endswith("data.npz[2]")
    assert any("first difference at a (Sqrt 'a'" in note for note in report.notes)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [("int64", "ArgMax<axis = 1>(a)", "ArgMin<axis = 1>(a)"), ("bool", "Less(a, x)", "Less(x, a)")],
    ids=["integers", "booleans"],
)
def test_a_layer_that_makes_an_output_without_fractions_is_named(
    kind: str, right: str, wrong: str, tmp_path: Path
) -> None:
    text = "net (float[N, 3] x) => ({}[N, M] y) {{ a = Neg(x)  y = {} }}"
    for name, op in (("right", right), ("wrong", wrong)):
        onnx.save(model_of(text.format(kind, op)).to_onnx(), tmp_path / f"{name}.onnx")
    data = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    told = notes(tmp_path, "wrong.onnx")
    assert f"first difference at y ({wrong.partition('<')[0].partition('(')[0]} 'y'" in told
    assert "every layer computes" in notes(tmp_path, "right.onnx")


def test_an_original_in_fp16_is_held_to_what_it_resolves(files: Path) -> None:
    """Fed float32 by float32 inputs or not: what is fed is rounded as the input has it."""
    made, _ = to_half(Model.load(files / "right.onnx"))
    made.save(files / "half.onnx")
    inner = onnx.load(files / "half.onnx")
    del inner.graph.node[0], inner.graph.node[-1]  # the casts at both ends
    (first, *_), (*_, last) = inner.graph.node, inner.graph.node
    first.input[0], last.output[0] = "x", "y"
    for value in (*inner.graph.input, *inner.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(inner, files / "inner.onnx")
    data = files / "data.npz"
    for original in ("half.onnx", "inner.onnx"):
        for candidate in ("right.onnx", "inner.onnx", "half.onnx"):
            report = commands.validate(files / original, files / candidate, data, bisect=True)
            assert report.passed
            assert not [note for note in report.notes if "difference at" in note]
        assert not commands.validate(files / original, files / "wrong.onnx", data).passed


def test_samples_that_all_answer_the_same_are_a_warning(tmp_path: Path) -> None:
    text = "net (float[N, 3] x) => (float[N, 3] y) { a = Mul(x, w)  y = Add(a, b) }"
    bias = np.array([1, 2, 3], np.float32)
    for name, factor in (("right", 2), ("wrong", -2)):
        model = model_of(text, {"w": np.float32(factor), "b": bias})
        onnx.save(model.to_onnx(), tmp_path / f"{name}.onnx")
    names = tmp_path / "right.onnx", tmp_path / "wrong.onnx"
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 3), np.float32))
    report = commands.validate(*names, tmp_path / "data.npz")
    assert report.passed
    assert "answers to all samples are the same" in report.candidates[1].warnings[0]
    np.savez(tmp_path / "data.npz", x=np.array([[0, 0, 0], [1, 0, 0]], np.float32))
    report = commands.validate(names[0], names[0], tmp_path / "data.npz")
    assert not report.candidates[1].warnings


def test_outputs_that_are_empty_on_all_samples_are_a_warning(tmp_path: Path) -> None:
    text = """net (float[N, 3] x) => (int64[M, 2] y) {{
        c = Greater(x, {})  n = NonZero(c)  y = Transpose(n) }}"""
    for name, end in (("right", "high"), ("other", "higher"), ("all", "low")):
        ends = {"high": np.float32(9), "higher": np.float32(10), "low": np.float32(-9)}
        onnx.save(model_of(text.format(end), ends).to_onnx(), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((3, 3), np.float32))
    names = [tmp_path / f"{name}.onnx" for name in ("right", "other", "all")]
    report = commands.validate(*names[:2], tmp_path / "data.npz")
    assert report.passed
    assert "y is empty on all samples" in report.candidates[1].warnings[0]
    # What is found in some samples alone is another answer, of another shape.
    np.savez(tmp_path / "data.npz", x=np.array([[0, 0, 0], [0, 99, 0], [0, 0, 0]], np.float32))
    assert not commands.validate(*names[:2], tmp_path / "data.npz").candidates[1].warnings
    with pytest.raises(InputError, match="found nothing"):
        commands.validate(names[0], names[2], tmp_path / "data.npz")


def test_texts_are_compared_one_by_one(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        net (float[N, 3] x) => (string[N] y) {{
            i = ArgMax<axis = 1, keepdims = 0>(x)
            y = ai.onnx.ml.LabelEncoder<keys_int64s = [0, 1, 2], values_strings = [{}]>(i) }}"""
    for name, said in (("right", '"cat", "dog", "bird"'), ("wrong", '"cat", "cow", "bird"')):
        onnx.save(onnx.parser.parse_model(text.format(said)), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.eye(3, dtype=np.float32))
    names = tmp_path / "right.onnx", tmp_path / "wrong.onnx"
    assert commands.validate(names[0], names[0], tmp_path / "data.npz").passed
    report = commands.validate(*names, tmp_path / "data.npz")
    assert not report.passed
    assert "33 % of y differ" in report.candidates[1].verdict


def test_two_that_both_make_nan_are_not_prepared_differently(tmp_path: Path) -> None:
    text = "net (float[1, 2] x) => (float[1, 2] y) { a = Neg(x)  y = Log(a) }"
    onnx.save(model_of(text).to_onnx(), tmp_path / "right.onnx")
    np.savez(tmp_path / "data.npz", x=np.array([[1, 2], [3, 4]], np.float32))
    report = commands.validate(
        tmp_path / "right.onnx", tmp_path / "right.onnx", tmp_path / "data.npz", bisect=True
    )
    assert not report.passed
    assert not [note for note in report.notes if "prepared differently" in note]
    assert any("of the layers that could be compared, each computes" in n for n in report.notes)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_sample_that_is_furthest_off_is_looked_into(workers: int, tmp_path: Path) -> None:
    text = "net (float[N, 2] x) => (float[N, 2] y) {{ a = Neg(x)  b = {}  y = Neg(b) }}"
    ends = {"low": np.float32(-3), "high": np.float32(3)}
    for name, op in (("right", "Identity(a)"), ("wrong", "Clip(a, low, high)")):
        onnx.save(model_of(text.format(op), ends).to_onnx(), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.array([[1, 2], [2, 1], [1, 4], [7, 0]], np.float32))
    report = commands.validate(
        tmp_path / "right.onnx", tmp_path / "wrong.onnx", tmp_path / "data.npz",
        bisect=True, workers=workers,
    )  # fmt: skip
    assert any("first difference at b (Clip 'b'" in note for note in report.notes)
    assert any(note.endswith("data.npz[3]") for note in report.notes)


def test_a_nan_of_the_original_is_told_with_its_first_tensor(tmp_path: Path) -> None:
    text = "net (float[1, 2] x) => (float[1, 2] y) { a = Abs(x)  b = Sqrt(x)  y = Add(a, b) }"
    onnx.save(model_of(text).to_onnx(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.array([[1, 1], [1, -1]], np.float32))
    report = commands.validate(
        tmp_path / "net.onnx", tmp_path / "net.onnx", tmp_path / "data.npz", bisect=True
    )
    assert "the original's y, of " in report.candidates[1].verdict
    assert any(note.endswith("the first of them is b") for note in report.notes)


def test_where_shapes_part_the_layer_is_named(tmp_path: Path) -> None:
    text = (
        "net (float[1, 1, 8, 8] x) => (float[1, 1, {size}, {size}] y)"
        " {{ a = Conv<pads = [{pads}]>(x, w)  b = Relu(a)  y = Conv(b, w) }}"
    )
    weights = {"w": np.ones((1, 1, 3, 3), np.float32)}
    for name, size, pads in (("right", 6, "1, 1, 1, 1"), ("wrong", 4, "0, 0, 0, 0")):
        made = model_of(text.format(size=size, pads=pads), weights)
        onnx.save(made.to_onnx(), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((2, 1, 8, 8), np.float32))
    files = [tmp_path / name for name in ("right.onnx", "wrong.onnx", "data.npz")]
    with pytest.raises(InputError, match=r"--bisect names the layer$"):
        commands.validate(*files)
    with pytest.raises(
        InputError, match=r"first difference at a \(Conv 'a'.*its shape is \(1, 1, 6, 6\)"
    ):
        commands.validate(*files, bisect=True)


def test_other_numbers_of_boxes_are_no_reason_to_stop_before_their_metric(tmp_path: Path) -> None:
    text = (
        "net (float[1, 4] x) => (float[1, 1, n, 7] y)"
        " {{ s = ReduceMean<keepdims = 1>(x)  z = Mul(s, zero)  a = Add(z, rows)"
        "  y = Slice(a, from, {}, axis) }}"
    )
    rows = np.array([[0, 1, 0.9, 0, 0, 5, 5], [0, 1, 0.1, 6, 6, 9, 9]], np.float32)
    for name, count in (("two", "two"), ("one", "one")):
        made = model_of(
            text.format(count),
            {
                "zero": np.zeros(1, np.float32), "rows": rows.reshape(1, 1, 2, 7),
                "from": np.array([0]), "one": np.array([1]), "two": np.array([2]),
                "axis": np.array([2]),
            },
        )  # fmt: skip
        onnx.save(made.to_onnx(), tmp_path / f"{name}.onnx")
    labels = np.array([[[1, 0, 0, 5, 5]]], np.float32)
    np.savez(tmp_path / "data.npz", x=np.ones((1, 4), np.float32), labels=labels)
    files = [tmp_path / name for name in ("two.onnx", "one.onnx", "data.npz")]
    report = commands.validate(*files, metric="map", bisect=True)
    assert report.passed
    assert "y has another number of boxes on 1 sample" in report.candidates[1].verdict
    with pytest.raises(InputError, match="one found more boxes, which --metric map is for"):
        commands.validate(*files)


def test_an_output_before_its_softmax_is_told_and_no_layer_blamed(tmp_path: Path) -> None:
    begin = "net (float[1, 4] x) => (float[1, 4] {}) {{ s = Mul(x, x) "
    for name, text in (
        ("soft", begin.format("p") + " p = Softmax(s) }"), ("bare", begin.format("s") + "}"),
    ):  # fmt: skip
        onnx.save(model_of(text).to_onnx(), tmp_path / f"{name}.onnx")
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    report = commands.validate(
        tmp_path / "soft.onnx", tmp_path / "bare.onnx", tmp_path / "data.npz", bisect=True
    )
    assert not report.passed
    told = "\n".join(report.notes)
    assert "the original's output 'p' is the softmax of the candidate's" in told
    assert "they part" not in told


def test_a_recording_is_not_spread_over_workers(files: Path) -> None:
    commands.validate(
        files / "right.onnx", files / "right.onnx", files / "data.npz",
        save_outputs=files / "outputs.json",
    )  # fmt: skip
    both = (files / "right.onnx", files / "outputs.json", files / "data.npz")
    assert commands.validate(*both).passed
    with pytest.raises(InputError, match="leave out --workers"):
        commands.validate(*both, workers=2)


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ([1, 4, 3, 2], "the layout"),
        ([1, 24], "the same values reshaped"),
        ([1, 6, 4], "the same values reshaped"),
    ],
    ids=["layout", "flat", "merged"],
)
def test_another_shape_has_a_likely_cause(shape: list[int], cause: str, tmp_path: Path) -> None:
    for name, made in (("a", [1, 2, 3, 4]), ("b", shape)):
        sizes = ", ".join(map(str, made))
        text = f"net (float[1, 24] x) => (float[{sizes}] y) {{ y = Reshape(x, s) }}"
        target = np.array(made, np.int64)
        onnx.save(model_of(text, {"s": target}).to_onnx(), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.zeros((1, 24), np.float32))
    with pytest.raises(InputError, match=cause):
        commands.validate(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "data.npz")


def test_data_that_an_engine_was_calibrated_on_are_a_warning(files: Path) -> None:
    from onnxgraft.commands._evidence import evidence
    from onnxgraft.data.samples import open_samples
    from onnxgraft.stages.quantize import calibrate, quantize

    model = Model.load(files / "right.onnx")
    data = files / "data.npz"
    ranges = calibrate(model, open_samples(data, model.inputs), "minmax")
    graph, _ = quantize(model, ranges, "onnxruntime")
    engine.build(graph, files / "engine", "onnxruntime", evidence=evidence(data=data))
    x = np.random.default_rng(1).standard_normal((5, 3, 4, 4)).astype(np.float32)
    np.savez(files / "others.npz", x=x)
    for name, warned in (("data", True), ("others", False)):
        report = commands.validate(files / "right.onnx", files / "engine", files / f"{name}.npz")
        assert report.passed
        assert any("it was calibrated on samples of" in text for text in report.warnings) is warned
