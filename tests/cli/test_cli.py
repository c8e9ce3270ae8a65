"""The command line as a user meets it: exit statuses, sentences, JSON; nothing written on error."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.stages.convert import Original
from tests.conftest import Cli, model_of, outputs_of


@pytest.fixture
def net(tmp_path: Path) -> Path:
    model = model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {"
        " c = Conv<pads=[1,1,1,1]>(x, w)  i = Identity(c)  y = Relu(i) }",
        {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)},
    )
    model.save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 255, (8, 8, 3), np.uint8))
    return folder


def refused(done: object, *words: str) -> None:
    """Assert exit status 2 with one sentence that has ``words``, and no traceback."""
    assert done.returncode == 2, done.stderr  # type: ignore[attr-defined]
    lines = done.stderr.strip().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    for word in words:
        assert word in lines[0]


def empty(folder: Path, *, but: set[str]) -> bool:
    return {path.name for path in folder.iterdir()} == but


BAD_MODELS = {
    "missing": (None, "does not exist"),
    "empty": (b"", "is empty"),
    "text": (b"this is a letter to a friend\n" * 9, "not a TensorFlow GraphDef"),
    "truncated": ("half", "not a TensorFlow GraphDef"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_bad_pb_is_refused_in_a_sentence(
    kind: str, tmp_path: Path, lenet: Path, cli: Cli
) -> None:
    content, words = BAD_MODELS[kind]
    file = tmp_path / "x.pb"
    if content == "half":
        whole = (lenet / "lenet5.pb").read_bytes()
        content = whole[: len(whole) // 2]
    if isinstance(content, bytes):
        file.write_bytes(content)
    refused(cli("convert", file, "-o", tmp_path / "x.onnx"), str(file), words)
    assert empty(tmp_path, but=set() if kind == "missing" else {"x.pb"})


def test_unfrozen_variables_are_named(tmp_path: Path, cli: Cli) -> None:
    tf = pytest.importorskip("tensorflow").compat.v1
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None, 4], name="x")
        w = tf.get_variable("dense/weights", [4, 2], use_resource=False)
        tf.matmul(x, w, name="y")
        (tmp_path / "x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    done = cli("convert", tmp_path / "x.pb", "-o", tmp_path / "x.onnx")
    refused(done, "variables are not frozen", "dense/weights")
    assert empty(tmp_path, but={"x.pb"})


def test_an_unknown_output_suggests_the_nearest(tmp_path: Path, lenet: Path, cli: Cli) -> None:
    done = cli("convert", lenet / "lenet5.pb", "-o", tmp_path / "x.onnx", "--outputs", "fc2/BiasAd")
    refused(done, "fc2/BiasAd", "did you mean", "fc2/BiasAdd:0")
    assert empty(tmp_path, but=set())


def test_an_empty_calibration_folder_is_refused(tmp_path: Path, net: Path, cli: Cli) -> None:
    (tmp_path / "none").mkdir()
    done = cli("calibrate", net, "--data", tmp_path / "none", "-o", tmp_path / "r.json")
    refused(done, "no images")
    assert empty(tmp_path, but={"net.onnx", "none"})


def test_an_unreadable_image_is_named(tmp_path: Path, net: Path, images: Path, cli: Cli) -> None:
    (images / "zz.jpg").write_bytes(b"\xff\xd8 not a photograph")
    done = cli("calibrate", net, "--data", images, "-o", tmp_path / "r.json")
    refused(done, "zz.jpg", "not an image")
    # What was counted before is kept for --resume.
    assert empty(tmp_path, but={"net.onnx", "images", "r.json.partial"})


def test_deploy_writes_nothing_when_an_image_is_unreadable(
    tmp_path: Path, net: Path, images: Path, cli: Cli
) -> None:
    (images / "zz.jpg").write_bytes(b"\xff\xd8 not a photograph")
    refused(cli("deploy", net, "-q", "--data", images, "-o", tmp_path / "out"), "zz.jpg")
    assert empty(tmp_path, but={"net.onnx", "images", "out.kept"})


def test_deploy_asks_for_labels_before_it_works(
    tmp_path: Path, net: Path, images: Path, cli: Cli
) -> None:
    done = cli("deploy", net, "-q", "--data", images, "--metric", "top1", "-o", tmp_path / "out")
    refused(done, "labels")
    assert empty(tmp_path, but={"net.onnx", "images", "out.kept"})


def test_a_wrong_recipe_names_the_field(tmp_path: Path, cli: Cli) -> None:
    text = 'model = "x.pb"\n[calibrate]\ndata = "."\nmethode = "kl"\n[validate]\nmetrik = "top1"\n'
    (tmp_path / "r.toml").write_text(text)
    refused(
        cli("deploy", tmp_path / "r.toml"),
        "line 4: [calibrate] methode: there is no such key; did you mean method?",
        "line 6: [validate] metrik: ",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "--target", "tensorrt", "--precision", "bf16", "-o", "e"],
    ],
    ids=" ".join,
)
def test_what_can_not_be_done_yet_says_so(
    arguments: list[str], tmp_path: Path, net: Path, images: Path, cli: Cli
) -> None:
    command, *rest = arguments
    refused(cli(command, net, *rest, cwd=tmp_path), "not built in bf16 here")
    assert empty(tmp_path, but={"net.onnx", "images"})


def test_a_missing_folder_for_the_result_is_refused(tmp_path: Path, net: Path, cli: Cli) -> None:
    done = cli("surgery", net, "-o", tmp_path / "no" / "such" / "x.onnx")
    refused(done, "can't be written")


def test_inspect_prints_inputs_outputs_and_operators(net: Path, cli: Cli) -> None:
    done = cli("inspect", net)
    assert done.returncode == 0
    assert "x (N, 3, 8, 8) float32" in done.stdout
    assert "1 Conv" in done.stdout


def test_json_is_one_object_on_standard_output(net: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("surgery", net, "-o", tmp_path / "c.onnx", "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["after"] == {"Conv": 1, "Relu": 1}
    assert done.stderr == ""


def test_surgery_explains_node_by_node(net: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("surgery", net, "-o", tmp_path / "c.onnx", "--explain")
    assert "Identity removed" in done.stdout
    assert "3 nodes became 2" in done.stdout


def test_surgery_lists_its_passes_with_a_line_each(cli: Cli) -> None:
    from onnxgraft.stages.surgery import PASSES

    document = json.loads(cli("surgery", "--list", "--json").stdout)["passes"]
    assert list(document) == [item.name for item in PASSES]
    assert all(re.fullmatch(r"[A-Z].*\.", line) for line in document.values())


def test_the_stages_one_by_one(net: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    clean, ranges = tmp_path / "clean.onnx", tmp_path / "r.json"
    quantized, engine = tmp_path / "q.onnx", tmp_path / "e"
    for arguments in (
        ["surgery", net, "-o", clean],
        ["calibrate", clean, "--data", images, "-o", ranges, "--method", "minmax"],
        ["quantize", clean, "--ranges", ranges, "--target", "onnxruntime", "-o", quantized],
        ["build", quantized, "--target", "onnxruntime", "-o", engine, "--precision", "int8"],
        ["validate", net, engine, "--data", images, "--report", tmp_path / "report"],
        ["bench", engine, clean, "--rounds", "1", "--runs", "2", "--batch", "1,2"],
        ["infer", engine, images / "0.png", "-o", tmp_path / "answer.npz"],
    ):
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(quantized).graph.node}
    assert np.load(tmp_path / "answer.npz")["y"].shape == (1, 4, 8, 8)
    assert {"junit.xml", "report.html", "report.json"} == {
        path.name for path in (tmp_path / "report").iterdir()
    }


def test_a_candidate_that_differs_is_exit_status_1(
    net: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    wrong = onnx.load(net)
    weights = onnx.numpy_helper.to_array(wrong.graph.initializer[0]).copy()
    weights[0, 0, 0, 0] += 0.1
    wrong.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    done = cli("validate", net, tmp_path / "wrong.onnx", "--data", images)
    assert done.returncode == 1
    assert "FAIL" in done.stdout


BILINEAR = """
input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4
layer { name: "up" type: "Deconvolution" bottom: "data" top: "up" convolution_param {
  num_output: 2 group: 2 kernel_size: 4 stride: 2 pad: 1 bias_term: false
  weight_filler { type: "bilinear" } } }
"""


def test_a_net_of_fillers_converts_without_weights(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "up.prototxt").write_text(BILINEAR)
    done = cli("convert", tmp_path / "up.prototxt", "-o", tmp_path / "up.onnx")
    assert done.returncode == 0, done.stderr
    assert "not compared with the original" in done.stdout
    assert "does not fill in weights" in done.stdout


def test_where_nothing_runs_the_original_the_converted_graph_judges(
    tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "up.prototxt").write_text(BILINEAR)
    data = np.random.default_rng(0).standard_normal((6, 2, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", data=data)
    done = cli(
        "deploy", tmp_path / "up.prototxt", "--data", tmp_path / "d.npz", "-o", tmp_path / "out",
        "--targets", "openvino",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the converted graph stands in for the original" in done.stdout


def test_a_caffe_net_is_cut_at_both_ends(tmp_path: Path, cli: Cli) -> None:
    layer = 'layer {{ name: "{0}" type: "TanH" bottom: "{1}" top: "{0}" }}\n'
    text = 'input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4\n'
    text += layer.format("a", "data") + layer.format("b", "a") + layer.format("c", "b")
    (tmp_path / "net.prototxt").write_text(text)
    done = cli(
        "convert", tmp_path / "net.prototxt", "-o", tmp_path / "x.onnx", "--inputs", "a[1,2,4,4]",
        "--outputs", "b",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "OpenCV can't be fed inside the net" in done.stdout


def test_outputs_that_are_given_twice_all_count(tmp_path: Path, cli: Cli) -> None:
    layer = 'layer {{ name: "{0}" type: "TanH" bottom: "{1}" top: "{0}" }}\n'
    text = 'input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4\n'
    text += layer.format("a", "data") + layer.format("b", "a") + layer.format("c", "b")
    (tmp_path / "net.prototxt").write_text(text)
    done = cli(
        "convert", tmp_path / "net.prototxt", "-o", tmp_path / "x.onnx", "--outputs", "a",
        "--outputs=b", "--outputs", "c",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [spec.name for spec in Model.load(tmp_path / "x.onnx").outputs] == ["a", "b", "c"]


def test_calibrate_leaves_data_of_the_same_stem_alone(tmp_path: Path, net: Path, cli: Cli) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((3, 3, 8, 8), np.float32))
    before = (tmp_path / "data.npz").read_bytes()
    done = cli("calibrate", net, "--data", tmp_path / "data.npz", "-o", tmp_path / "data.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data.npz").read_bytes() == before


@pytest.mark.parametrize("opset", ["3", "12", "99"])
def test_an_opset_that_can_not_be_written_is_refused(
    opset: str, tmp_path: Path, lenet: Path, cli: Cli
) -> None:
    (tmp_path / "up.prototxt").write_text(BILINEAR)
    for model, newest in ((tmp_path / "up.prototxt", 20), (lenet / "lenet5.pb", 18)):
        done = cli("convert", model, "-o", tmp_path / "x.onnx", "--opset", opset)
        refused(done, f"--opset {opset}: from 13 to {newest}")
    assert empty(tmp_path, but={"up.prototxt"})


@pytest.mark.parametrize("opset", ["13", "18", "20"])
def test_caffe_in_other_opsets_computes_the_same(opset: str, tmp_path: Path, cli: Cli) -> None:
    layers = [
        'layer { name: "n" type: "Softmax" bottom: "data" top: "n" }',
        'layer { name: "r" type: "Reduction" bottom: "n" top: "r" reduction_param { axis: 1 } }',
        'layer { name: "m" type: "MVN" bottom: "n" top: "m" }',
    ]
    text = 'input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4\n' + "\n".join(layers)
    (tmp_path / "net.prototxt").write_text(text)
    answers = []
    for name, options in (("a", []), ("b", ["--opset", opset])):
        out = tmp_path / f"{name}.onnx"
        done = cli("convert", tmp_path / "net.prototxt", "-o", out, *options)
        assert done.returncode == 0, done.stderr
        answers.append(outputs_of(Model.load(out)))
    for blob, value in answers[0].items():
        np.testing.assert_allclose(answers[1][blob], value, rtol=1e-6, atol=1e-7)


def test_a_file_that_can_not_be_read_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, net: Path
) -> None:
    from onnxgraft.errors import InputError
    from onnxgraft.files import existing_file

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    with pytest.raises(InputError, match=r"the model can't be read \(Permission denied\)"):
        existing_file(net, "the model")


def test_an_internal_error_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, net: Path, cli: Cli
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Original, "inspect", broken)
    done = cli("inspect", net)
    assert done.returncode == 70
    assert "internal error, ZeroDivisionError: a bug" in done.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("foo[2]", "no input has that name"),
        ("x[2,3,9,9]", "does not fit the input x"),
        ("x", "write its shape"),
    ],
)
def test_shapes_of_an_engine_are_checked(
    option: str, words: str, tmp_path: Path, net: Path, cli: Cli
) -> None:
    done = cli("build", net, "--target", "openvino", "-o", tmp_path / "e", "--shapes", option)
    refused(done, words)
    assert empty(tmp_path, but={"net.onnx"})


def test_a_recipe_takes_no_other_options(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "r.toml").write_text("")
    refused(cli("deploy", tmp_path / "r.toml", "--metric", "top1"), "--metric goes with a model")


@pytest.mark.parametrize("option", [["--rounds", "0"], ["--runs", "0"], ["--batch", "0"]])
def test_nothing_can_not_be_timed(option: list[str], net: Path, cli: Cli) -> None:
    refused(cli("bench", net, *option), "from 1 on")


def test_damaged_metadata_of_an_onnx_file_is_refused(tmp_path: Path, net: Path, cli: Cli) -> None:
    proto = onnx.load(net)
    onnx.helper.set_model_props(proto, {"onnxgraft.names": '{"x": 5}'})
    onnx.save(proto, tmp_path / "m.onnx")
    refused(cli("inspect", tmp_path / "m.onnx"), "metadata is damaged")


def test_json_never_holds_what_json_does_not_have(tmp_path: Path, cli: Cli) -> None:
    model = model_of("net (float[N, 2] x) => (float[N, 2] y) { z = Div(x, zero)  y = Relu(z) }",
                     {"zero": np.zeros(1, np.float32)})  # fmt: skip
    model.save(tmp_path / "inf.onnx")
    done = cli("surgery", tmp_path / "inf.onnx", "-o", tmp_path / "c.onnx", "--json")
    json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))


def test_a_failed_candidate_says_why(net: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    wrong = onnx.load(net)
    weights = -onnx.numpy_helper.to_array(wrong.graph.initializer[0])
    wrong.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    done = cli("validate", net, tmp_path / "wrong.onnx", "--data", images)
    assert done.returncode == 1
    assert "of the range, at most 1e-04 allowed" in done.stdout


def test_surgery_verifies_each_pass_and_says_what_it_did_not_verify(
    net: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("surgery", net, "-o", tmp_path / "c.onnx", "--json")
    assert json.loads(done.stdout)["verdicts"]
    done = cli("surgery", net, "-o", tmp_path / "c.onnx", "--no-verify", "--json")
    assert json.loads(done.stdout)["verdicts"] == []


def test_surgery_reports_operators_before_and_after_each_pass(
    net: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("surgery", net, "-o", tmp_path / "c.onnx", "--report", tmp_path / "r.json")
    assert done.returncode == 0
    report = json.loads((tmp_path / "r.json").read_text())
    steps = [step for entry in report["passes"] for step in entry["steps"]]
    assert all(step["before"] != {} for step in steps)
    if steps:
        assert steps[0]["before"] == report["before"]
        assert sum(steps[-1]["after"].values()) == sum(report["after"].values())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--plugin", "Op=Name"], "say --for tensorrt too"),
        (["--for", "tensorrt", "--plugin", "Op"], "write OP=NAME"),
        (["--for", "tpu"], "no target is called 'tpu'"),
        (["--extra", "dense_to_con"], "did you mean dense_to_conv"),
        (["--outputs", "nobody"], "no tensor is called 'nobody'"),
    ],
    ids=["plugin_alone", "plugin_form", "target", "extra", "outputs"],
)
def test_surgery_refuses_wrong_options_with_a_sentence(
    options: list[str], sentence: str, net: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("surgery", net, "-o", tmp_path / "c.onnx", *options)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert not (tmp_path / "c.onnx").exists()


def test_surgery_explains_without_writing(net: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("surgery", net, "--explain")
    assert done.returncode == 0
    assert "Identity removed" in done.stdout
    assert empty(tmp_path, but={"net.onnx"})


def test_nodes_of_branches_and_functions_are_counted(tmp_path: Path, cli: Cli) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        net (float[1, 4] x) => (float[1, 4] y) {
            s = ReduceSum<keepdims=0>(x)
            c = Greater(s, x)
            one = ReduceMax<keepdims=0>(s)
            nought = Sub(one, one)
            choice = Greater(one, nought)
            z = acme.Twice(x)
            y = If(choice) <
                then_branch = t () => (float[1, 4] a) { b = Sin(z)  a = Cos(b) },
                else_branch = e () => (float[1, 4] d) { d = Tanh(z) }
            >
        }
        <domain: "acme", opset_import: ["" : 17]>
        Twice (x) => (y) { a = Exp(x)  b = Neg(a)  y = Abs(b) }
    """)
    onnx.save(proto, tmp_path / "m.onnx")
    for command, told in (
        ("convert", ": 12 nodes, 13 before"), ("surgery", ": 13 nodes became 12"),
    ):  # fmt: skip
        done = cli(command, tmp_path / "m.onnx", "-o", tmp_path / "o.onnx")
        assert done.returncode == 0, done.stderr
        assert told in done.stdout
    assert "13 nodes" in cli("inspect", tmp_path / "m.onnx").stdout
