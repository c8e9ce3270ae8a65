"""Weights alone as INT8 and INT4, as a user asks for them and reads of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.commands import validate
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.engine import read_passport
from tests.conftest import Cli, model_of, only_ci
from tests.quantize.networks import attention, pair

pytestmark = pytest.mark.usefixtures("untimed")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Return the file of an attention layer; beside it are 24 samples."""
    model = attention()
    model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **random_feeds(model.inputs, 24, seed=5))
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_no_ranges_are_needed(net: Path, target: str, kind: str, cli: Cli) -> None:
    out = net.with_name("out.onnx")
    done = cli("quantize", net, "--weights", kind, "--target", target, "-o", out)
    assert done.returncode == 0, done.stderr
    assert f"4 of 6 layers with {kind.upper()} weights" in done.stdout
    assert "in float: scores (its weights are not constant; 7.9% of the" in done.stdout
    assert "the weights of 4 layers take 0.0" in done.stdout
    assert Model.load(out).metadata["onnxgraft.precision"].count(f'"{kind}": 4') == 1


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_inspect_counts_weights_and_says_how_they_are_stored(
    net: Path, target: str, cli: Cli
) -> None:
    out = net.with_name("out.onnx")
    cli("quantize", net, "--weights", "int4", "--target", target, "-o", out)
    told = json.loads(cli("inspect", out, "--json").stdout)
    whole = json.loads(cli("inspect", net, "--json").stdout)
    assert told["notes"] == ["weights are stored as int4, activations are float"]
    assert told["parameters"] == whole["parameters"] + 4 * 32  # one scale for each output


def test_onnxruntimes_form_is_none_for_tensorrt(net: Path, cli: Cli) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    out = net.with_name("out.onnx")
    cli("quantize", net, "--weights", "int4", "--target", "onnxruntime", "-o", out)
    done = cli("build", out, "--target", "tensorrt", "-o", net.with_name("e"))
    assert done.returncode == 2
    assert "quantize the float graph with onnxgraft quantize --target tensorrt" in " ".join(
        done.stderr.split()
    )


def test_samples_and_a_block_are_taken(net: Path, cli: Cli) -> None:
    done = cli(
        "quantize", net, "--weights", "int4", "--block", "16", "--target", "openvino",
        "--samples", net.with_name("data.npz"), "-o", net.with_name("out.onnx"), "--json",
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["weights"] == "int4"
    assert any("layer output error" in note for note in told["notes"])
    assert any("INT4 (blocks of 16)" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--ranges", "r.json"), "--weights int4 with --ranges: activations stay float"),
        (("--cache", "c"), "--weights int4 with --cache: activations stay float"),
        (("--from-qdq",), "--weights int4 with --from-qdq: activations stay float"),
        (("--budget", "cosine=0.1", "--data", "d"), "--weights int4 with --budget"),
        (("--improve", "all"), "--weights int4 with --improve"),
        (("--no-int8",), "--weights int4 with --no-int8"),
        (("--block", "48"), "--block 48: one of 16, 32, 64, 128, 256"),
        (("--keep-float", "scores"), "--keep-float scores: no such layer"),
    ],
)
def test_what_makes_no_sense_with_it_is_refused(
    net: Path, more: tuple[str, ...], words: str, cli: Cli
) -> None:
    out = net.with_name("out.onnx")
    done = cli("quantize", net, "--weights", "int4", "--target", "openvino", "-o", out, *more)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert not out.exists()


def test_a_block_alone_is_refused(net: Path, cli: Cli) -> None:
    done = cli("quantize", net, "--block", "16", "--target", "openvino", "-o", net.with_name("o"))
    assert done.returncode == 2
    assert "--block is of --weights int8 or int4; name one" in done.stderr


def test_a_network_of_convolutions_is_told_that_it_hardly_changes(tmp_path: Path, cli: Cli) -> None:
    pair().save(tmp_path / "net.onnx")
    out = tmp_path / "out.onnx"
    done = cli("quantize", tmp_path / "net.onnx", "--weights", "int4", "--target", "openvino",
               "-o", out)  # fmt: skip
    assert done.returncode == 0
    assert "MatMul and Gemm have 0% of this network's weights" in done.stdout
    assert Model.load(out).operators() == pair().operators()


def test_tensorrt_gets_it_in_fp16(net: Path, cli: Cli) -> None:
    out = net.with_name("out.onnx")
    done = cli("quantize", net, "--weights", "int4", "--target", "tensorrt", "--float", "fp16",
               "-o", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    nodes = [node for node in Model.load(out).graph.nodes if node.op == "DequantizeLinear"]
    assert len(nodes) == 4
    assert {np.asarray(node.inputs[1].values).dtype.name for node in nodes} == {"float16"}


@only_ci
def test_deploy_makes_engines_of_it_without_calibrating(
    net: Path, tmp_path: Path, cli: Cli
) -> None:
    pytest.importorskip("openvino")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'model = "net.onnx"\n[calibrate]\ndata = "data.npz"\n[quantize]\nweights = "int8"\n'
        "[bench]\nruns = 1\nrounds = 1\n"
    )
    done = cli("deploy", recipe, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.int8.openvino.onnx", "model.int8.onnxruntime.onnx"} <= names
    assert "ranges.json" not in names
    for target in ("openvino", "onnxruntime"):
        passport = read_passport(tmp_path / "out" / f"engine.{target}")
        assert passport.proven
        assert passport.label == "int8 weights"
        assert set(passport.hashes) >= {"data", "recipe"}
    report = json.loads((tmp_path / "out/report.json").read_text())
    rows = {row["name"]: row for row in report["candidates"]}
    assert rows["openvino int8 weights"]["passed"]
    assert any("int8 graph for openvino" in row["stage"] for row in report["stages"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('budget = "cosine=0.1"', "weights int4 with budget"),
        ('improve = ["bias"]', "weights int4 with improve"),
        ("block = 20", "--block 20: one of"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(
    net: Path, tmp_path: Path, line: str, words: str
) -> None:
    from onnxgraft.commands import deploy

    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'model = "net.onnx"\n[calibrate]\ndata = "data.npz"\n[quantize]\nweights = "int4"\n'
        f"{line}\n"
    )
    with pytest.raises(InputError, match=words):
        deploy(recipe, tmp_path / "out")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_candidate_with_stored_weights_is_judged_as_one_in_integers(
    net: Path, target: str, cli: Cli
) -> None:
    out = net.with_name("out.onnx")
    cli("quantize", net, "--weights", "int4", "--target", target, "--samples",
        net.with_name("data.npz"), "-o", out)  # fmt: skip
    report = validate(net, out, data=net.with_name("data.npz"), bisect=True)
    row = report.candidates[1]
    assert report.passed
    assert "weights in 4 bits make as much noise as" in row.verdict
    assert {layer.precision for layer in report.layers} == {"int4", "fp32"}


def test_broken_weights_do_not_pass_and_their_layer_is_named(net: Path, cli: Cli) -> None:
    out = net.with_name("out.onnx")
    cli("quantize", net, "--weights", "int4", "--target", "onnxruntime", "-o", out)
    model = Model.load(out)
    node = next(node for node in model.graph.nodes if node.name == "output")
    node.inputs[2].values = -np.asarray(node.inputs[2].values)
    model.save(out)
    report = validate(net, out, data=net.with_name("data.npz"), bisect=True)
    assert not report.passed
    assert any("at o " in note and "its SQNR in INT4 is" in note for note in report.notes)


def test_an_older_opset_is_raised_with_a_note(tmp_path: Path, cli: Cli) -> None:
    model = model_of(
        "n (float[N, 64] x) => (float[N, 8] y) { y = MatMul (x, w) }",
        {"w": np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)},
    )
    model.save(tmp_path / "net.onnx")
    done = cli("quantize", tmp_path / "net.onnx", "--weights", "int4", "--target", "openvino",
               "-o", tmp_path / "out.onnx")  # fmt: skip
    assert "opset 17 was raised to 21: every output stayed the same" in done.stdout
