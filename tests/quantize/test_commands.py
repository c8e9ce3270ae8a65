"""`calibrate` and `quantize` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from onnxgraft.stages.quantize import read_cache
from tests.conftest import Cli, model_of
from tests.quantize.test_calibration import NETWORK, constants
from tests.running import Done


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Return the file of a network."""
    model_of(NETWORK, constants()).save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with nine images, the last of them corrupt."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 255, (8, 8, 3), np.uint8))
    (folder / "9.png").write_bytes(b"\x89PNG damaged")
    return folder


def test_from_data_to_a_cache_and_from_the_cache_to_a_graph(
    net: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "mine.toml").write_text('"seen1" = 3.0\n')
    done = cli(
        "calibrate", net, "--data", images, "-o", tmp_path / "r.json", "--skip-bad", "--images",
        "9", "--validation", images, "--overrides", tmp_path / "mine.toml", "--per-channel",
        "seen2", "--cache-out", tmp_path / "t.cache", "--trt-version", "8.6.1", "--workers", "2",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == 8
    assert [Path(name).name for name in told["skipped"]] == ["9.png"]
    notes = " ".join(told["notes"])
    assert "8 of 8 samples are in" in notes
    assert "1 of 9 samples were skipped" in notes
    assert told["tensors"]["seen1"]["origin"] == "by hand"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images", "mine.toml", "net.onnx", "r.json", "r.json.histograms.npz", "t.cache",
        "t.cache.json",
    ]  # fmt: skip
    stored = json.loads((tmp_path / "r.json").read_text())
    assert len(stored["channels"]["seen2"]) == 6
    assert len(stored["samples"]) == 8
    assert read_cache(tmp_path / "t.cache").version == "8601"
    done = cli(
        "quantize", net, "--cache", tmp_path / "t.cache", "--target", "tensorrt",
        "-o", tmp_path / "q.onnx",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 of 3 layers in INT8" in done.stdout
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}


def test_the_method_changes_without_the_data(
    net: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    (images / "9.png").unlink()
    first, second, straight = (tmp_path / name for name in ("a.json", "b.json", "c.json"))
    assert cli("calibrate", net, "--data", images, "-o", first).returncode == 0
    assert cli("calibrate", net, "--data", images, "-o", straight, "--method", "mse").stderr == ""
    for path in images.iterdir():
        path.unlink()
    done = cli("calibrate", net, "--ranges", first, "--method", "mse", "-o", second)
    assert done.returncode == 0, done.stderr
    assert "a quarter of the data, kept apart, moved the ranges by" in done.stdout
    assert second.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "r.json"], "name either the data with --data"),
        (["-o", "r.json", "--data", "images", "--ranges", "x"], "name either the data with --data"),
        (["-o", "r.json", "--data", "images", "--cache-out", "c"], "go together"),
        (["-o", "r.json", "--data", "images", "--cache-out", "c", "--trt-version", "x"],
         "such as 10.3.0"),
        (["-o", "r.json", "--data", "images", "--workers", "-1"], "at least 1 is needed"),
        (["-o", "r.json", "--data", "none"], "no images"),
        (["-o", "r.json", "--ranges", "net.onnx"], "not a ranges file"),
        (["-o", "r.json", "--data", "images", "--overrides", "none.toml"], "does not exist"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence_and_nothing_is_left(
    net: Path,
    images: Path,
    tmp_path: Path,
    cli: Cli,
    arguments: list[str],
    told: str,
) -> None:
    (tmp_path / "none").mkdir()
    done = cli("calibrate", "net.onnx", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "images", "none"}


def test_a_range_of_no_tensor_is_told_before_the_work(
    net: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "o.toml").write_text('"typo" = 2.5\n')
    place = tmp_path / "o.toml"
    done = cli("calibrate", net, "--data", images, "-o", tmp_path / "r.json", "--overrides", place)
    assert done.returncode == 2
    assert "typo: no such tensor" in done.stderr
    assert not list(tmp_path.glob("r.json*"))


def test_what_was_counted_before_a_corrupt_image_is_kept(
    net: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    arguments = ["calibrate", net, "--data", images, "-o", tmp_path / "r.json"]
    done = cli(*arguments)
    assert done.returncode == 2
    assert "9.png" in done.stderr
    assert "r.json.partial, --resume goes on there" in done.stderr
    (images / "9.png").write_bytes((images / "0.png").read_bytes())
    done = cli(*arguments, "--resume")
    assert done.returncode == 0
    assert "1 of 9 samples occur more than once" in done.stdout
    assert not (tmp_path / "r.json.partial").exists()


def test_a_cache_with_a_bad_line_and_one_of_another_network_are_refused(
    net: Path, tmp_path: Path, cli: Cli
) -> None:
    cache = tmp_path / "t.cache"
    for text, told in (
        ("TRT-8401-EntropyCalibration2\nimage 3c010a14\n", "t.cache, line 2"),
        ("TRT-8401-EntropyCalibration2\nfoo: 3c010a14\n", "belongs to another model"),
    ):
        cache.write_text(text)
        done = cli("quantize", net, "--cache", cache, "--target", "tensorrt", "-o", tmp_path / "q")
        assert done.returncode == 2
        assert told in done.stderr
    assert not (tmp_path / "q").exists()


def test_ranges_of_another_network_are_refused_by_name(
    net: Path, images: Path, tmp_path: Path, cli: Cli
) -> None:
    (images / "9.png").unlink()
    ranges, other = tmp_path / "r.json", tmp_path / "other.onnx"
    model_of(NETWORK, constants(seed=4)).save(other)

    def run(*arguments: object) -> Done:
        return cli(*arguments, "-o", ranges, "--force")

    assert run("calibrate", net, "--data", images).returncode == 0
    before = ranges.read_bytes()
    for command in (["quantize", other, "--target", "tensorrt"], ["calibrate", other]):
        done = run(*command, "--ranges", ranges)
        assert done.returncode == 2
        assert "r.json: was measured on another graph" in done.stderr
    assert ranges.read_bytes() == before


def old_net(path: Path, opset: int, head: str) -> Path:
    """Write a convolution in an old opset, after ``head``, which makes ``h`` of ``x``."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 3, opset_import: ["" : {opset}]>
        n (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4, 6, 6] y)
        {{ {head}  y = Conv (h, w) }}"""
    )
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, path)
    data = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    np.savez(path.with_suffix(".npz"), x=data)
    return path


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_an_old_opset_is_raised_and_that_is_told(opset: int, tmp_path: Path, cli: Cli) -> None:
    net = old_net(tmp_path / "old.onnx", opset, "h = Clip <min = 0.0, max = 6.0> (x)")
    ranges, out = tmp_path / "r.json", tmp_path / "q.onnx"
    told = f"opset {opset} was raised to 13: every output stayed the same in onnxruntime"
    done = cli("calibrate", net, "--data", tmp_path / "old.npz", "-o", ranges)
    assert done.returncode == 0 and told in done.stderr + done.stdout
    done = cli("quantize", net, "--ranges", ranges, "--target", "openvino", "-o", out)
    assert done.returncode == 0 and told in done.stderr + done.stdout
    assert onnx.load(out).opset_import[0].version == 13


def test_what_can_not_be_raised_is_told_before_the_data_are_read(tmp_path: Path, cli: Cli) -> None:
    net = old_net(tmp_path / "old.onnx", 8, "h, mask = Dropout (x)  z = Relu (mask)")
    proto = onnx.load(net)
    proto.graph.output.add().CopyFrom(proto.graph.input[0])
    proto.graph.output[1].name = "z"
    onnx.save(proto, net)
    done = cli("calibrate", net, "--data", tmp_path / "nowhere.npz", "-o", tmp_path / "r.json")
    assert done.returncode == 2
    assert "opset 8 can't be raised to 13: the mask of Dropout" in done.stderr
