"""Bundles: built from on the target with TensorRT and Python alone, safe to open."""

import ast
import hashlib
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine
from onnxgraft.stages.engine.passport import Passport
from onnxgraft.stages.engine.tensorrt import bundle_main
from tests.conftest import model_of
from tests.fuzz.seeds import archive
from tests.hostile import directory

CACHE = b"TRT-101600-EntropyCalibration2\nx: 3c010a14\n"


@pytest.fixture
def net() -> Model:
    return model_of(
        "net (float[N, 16, 8, 8] x) => (float[N, 16, 6, 6] y) { c = Conv(x, w)  y = Relu(c) }",
        {"w": np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)},
    )


def run(archive: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    # The archive comes before everything installed: its own onnxgraft is the one imported.
    return subprocess.run(
        [sys.executable, archive, *map(str, arguments)],
        capture_output=True, text=True, cwd=archive.parent,
    )  # fmt: skip


def test_the_target_builds_an_engine_with_its_passport(net: Model, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    evidence = engine.Evidence({"data": "2" * 64}, {"preprocess": {"color": "rgb"}})
    engine.bundle(net, tmp_path / "net.pyz", evidence=evidence)
    done = run(tmp_path / "net.pyz", "-o", "net.engine")
    assert done.returncode == 0, done.stderr
    assert "trtexec --onnx=model.onnx --saveEngine=net.engine" in done.stdout
    passport = engine.read_passport(tmp_path / "net.engine")
    plan = (tmp_path / "net.engine").read_bytes()
    assert plan[1:4] == b"trt"
    assert passport.engine == hashlib.sha256(plan).hexdigest()
    assert passport.graph == engine.graph_hash(net)
    assert passport.hashes == {"data": "2" * 64}
    assert passport.recipe == {"preprocess": {"color": "rgb"}}
    assert [entry["x"][2][0] for entry in passport.flags.profiles] == [1, 16]
    assert set(passport.versions) == {"tensorrt"}


def test_nothing_but_tensorrt_and_the_standard_library_is_imported(
    net: Model, tmp_path: Path
) -> None:
    engine.bundle(net, tmp_path / "net.pyz")
    allowed = {*sys.stdlib_module_names, "onnxgraft", "tensorrt"}
    with zipfile.ZipFile(tmp_path / "net.pyz") as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                # As Python 3.9, which Jetson and DRIVE may have.
                tree = ast.parse(archive.read(name), feature_version=(3, 9))
                for node in ast.walk(tree):
                    if isinstance(node, ast.Import):
                        assert {alias.name.split(".")[0] for alias in node.names} <= allowed
                    elif isinstance(node, ast.ImportFrom):
                        assert (node.module or "").split(".")[0] in allowed


def test_without_tensorrt_the_status_is_3(net: Model, tmp_path: Path) -> None:
    engine.bundle(net, tmp_path / "net.pyz")
    code = (
        "import sys, runpy; sys.modules['tensorrt'] = None; sys.argv = ['net.pyz']\n"
        "runpy.run_path('net.pyz', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 3
    assert "install TensorRT" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.pyz"]


def test_extracting_writes_the_graph_and_nothing_of_other_names(net: Model, tmp_path: Path) -> None:
    packed = engine.bundle(
        net, tmp_path / "net.pyz", float_model=net,
        options=engine.BuildOptions(calibration=CACHE),
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "net.pyz", "a") as archive:
        archive.writestr("../evil.txt", "x")
        archive.writestr("/evil.txt", "x")
    done = run(tmp_path / "net.pyz", "--extract", "out")
    assert done.returncode == 0, done.stderr
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert names == {
        "net.pyz", "out/calibration.cache", "out/float.onnx", "out/model.onnx",
    }  # fmt: skip
    assert (tmp_path / "out/calibration.cache").read_bytes() == CACHE
    onnx.checker.check_model(onnx.load(tmp_path / "out/model.onnx"))
    assert "--calib=calibration.cache" in packed.trtexec[10]
    assert "--calib" not in packed.trtexec[11]


@pytest.mark.parametrize(
    ("out", "sentence"),
    [("net.pyz", "is this bundle"), ("folder", "is no file"), ("nowhere/e", "is no folder")],
)
def test_a_bundle_replaces_neither_itself_nor_what_is_no_file(
    out: str, sentence: str, net: Model, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    engine.bundle(net, tmp_path / "net.pyz")
    before = (tmp_path / "net.pyz").read_bytes()
    done = run(tmp_path / "net.pyz", "-o", out)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert (tmp_path / "net.pyz").read_bytes() == before


def test_a_changed_member_is_noticed(net: Model, tmp_path: Path) -> None:
    engine.bundle(net, tmp_path / "net.pyz")
    with zipfile.ZipFile(tmp_path / "net.pyz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["model.onnx"] = members["model.onnx"][:-1] + b"\0"
    with zipfile.ZipFile(tmp_path / "net.pyz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    done = run(tmp_path / "net.pyz")
    assert done.returncode == 2
    assert "model.onnx is not the file that was packed" in done.stderr


def test_equal_contents_are_equal_bytes(net: Model, tmp_path: Path) -> None:
    for name in ("a.pyz", "b.pyz"):
        engine.bundle(net, tmp_path / name)
    one, other = ((tmp_path / name).read_bytes() for name in ("a.pyz", "b.pyz"))
    # The names are the archives' own.
    assert one == other


def test_a_half_graph_is_packed_as_one(net: Model, tmp_path: Path) -> None:
    engine.bundle(net, tmp_path / "net.pyz", precision="fp16")
    with zipfile.ZipFile(tmp_path / "net.pyz") as archive:
        graph = onnx.load_from_string(archive.read("model.onnx"))
        manifest = json.loads(archive.read("manifest.json"))
    assert graph.graph.initializer[0].data_type == onnx.TensorProto.FLOAT16
    assert manifest["passport"]["precision"] == "fp16"


def test_a_cache_without_its_float_graph_is_refused(net: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both the float graph and the calibration cache"):
        engine.bundle(net, tmp_path / "n.pyz", options=engine.BuildOptions(calibration=CACHE))
    assert not list(tmp_path.iterdir())


def test_the_manifests_passport_is_one_that_onnxgraft_reads(net: Model, tmp_path: Path) -> None:
    engine.bundle(net, tmp_path / "net.pyz")
    with zipfile.ZipFile(tmp_path / "net.pyz") as archive:
        manifest = json.loads(archive.read("manifest.json"))
    (tmp_path / "e.json").write_text(json.dumps(manifest["passport"]))
    assert isinstance(engine.read_passport(tmp_path / "e"), Passport)


def test_a_member_that_says_to_be_longer_than_the_bundle_is_refused_before_it_is_read(
    tmp_path: Path,
) -> None:
    """Python would take the memory first."""
    small = archive({"manifest.json": b"{}"})
    (tmp_path / "net.pyz").write_bytes(directory(small, 20, struct.pack("<I", (1 << 32) - 2)))
    with pytest.raises(ValueError, match=r"manifest\.json ends behind the archive"):
        bundle_main.read(tmp_path / "net.pyz")
