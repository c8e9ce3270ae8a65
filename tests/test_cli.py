"""The command line as a user meets it: exit statuses, sentences, JSON; nothing written on error."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from tests.conftest import Cli, model_of


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
    assert empty(tmp_path, but={"net.onnx", "images"})


def test_deploy_writes_nothing_when_an_image_is_unreadable(
    tmp_path: Path, net: Path, images: Path, cli: Cli
) -> None:
    (images / "zz.jpg").write_bytes(b"\xff\xd8 not a photograph")
    refused(cli("deploy", net, "--data", images, "-o", tmp_path / "out"), "zz.jpg")
    assert empty(tmp_path, but={"net.onnx", "images"})


def test_deploy_asks_for_labels_before_it_works(
    tmp_path: Path, net: Path, images: Path, cli: Cli
) -> None:
    done = cli("deploy", net, "--data", images, "--metric", "top1", "-o", tmp_path / "out")
    refused(done, "labels")
    assert empty(tmp_path, but={"net.onnx", "images"})


def test_a_wrong_recipe_names_the_field(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "r.toml").write_text('model = "x.pb"\n[calibrate]\ndata = "."\nmethode = "kl"\n')
    refused(cli("deploy", tmp_path / "r.toml"), "calibrate.methode", "validate")


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", "--data", "images", "-o", "r.json", "--workers", "2"],
        ["calibrate", "--data", "images", "-o", "r.json", "--ray", "auto"],
        ["calibrate", "--data", "images", "-o", "r.json", "--cache-out", "c"],
        ["quantize", "--cache", "c", "--target", "tensorrt", "-o", "q.onnx"],
        ["quantize", "--ranges", "r", "--budget", "top1=1", "--target", "tensorrt", "-o", "q.onnx"],
        ["build", "--target", "openvino", "--precision", "fp16", "-o", "e"],
    ],
    ids=" ".join,
)
def test_what_can_not_be_done_yet_says_so(
    arguments: list[str], tmp_path: Path, net: Path, images: Path, cli: Cli
) -> None:
    command, *rest = arguments
    refused(cli(command, net, *rest, cwd=tmp_path), "yet")
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
    from onnxgraft.surgery import PASSES

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
