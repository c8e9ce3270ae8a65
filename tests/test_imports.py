"""Every module imports, and every ``--help`` answers, without any optional package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgraft.cli import COMMANDS

# What is imported inside functions alone: the extras, and what is slow to load.
LATE = [
    "cv2", "jinja2", "keras", "numba", "onnxruntime", "openvino", "polygraphy", "ray",
    "sklearn", "tensorflow", "tensorrt", "tf2onnx",
]  # fmt: skip
BLOCK = f"""
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {LATE}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True)


def test_every_module_imports_without_optional_packages() -> None:
    code = """
import importlib, json, pkgutil, onnxgraft
found = [m.name for m in pkgutil.walk_packages(onnxgraft.__path__, "onnxgraft.")]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(json.dumps(found))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) > 50


@pytest.mark.parametrize("command", [None, *(command.__name__ for command in COMMANDS)])
def test_help_answers_without_loading_onnx(command: str | None) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    code = f"""
from onnxgraft.cli import app
try:
    app({arguments})
except SystemExit as end:
    assert end.code == 0
heavy = {{"numpy", "onnx", "onnx_graphsurgeon"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_a_missing_framework_is_named_with_its_install_line(tmp_path: Path) -> None:
    (tmp_path / "x.pb").write_bytes(b"x")
    code = f"""
from onnxgraft.cli import app
app(["convert", {str(tmp_path / "x.pb")!r}, "-o", {str(tmp_path / "x.onnx")!r}])
"""
    done = run(code)
    assert done.returncode == 3
    assert done.stderr.strip() == (
        "onnxgraft convert: Reading a TensorFlow graph needs tensorflow: "
        "pip install 'onnxgraft[tensorflow]'"
    )
