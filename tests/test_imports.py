"""Every module imports, and every ``--help`` answers, without any optional package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxgraft.cli import COMMANDS
from onnxgraft.targets import TARGETS

# What is imported inside functions alone: the extras, and what is slow to load.
LATE = [
    "cv2", "jinja2", "keras", "numba", "polygraphy", "ray", "sklearn", "tensorflow", "tf2onnx",
    *(target.package for target in TARGETS),
]  # fmt: skip
# Packages whose names are loaded when they are asked for.
ROOMS = ["commands", "stages.engine", "stages.validate"]
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


LATE_NAMES = """
import importlib, pkgutil, types, onnxgraft
packages = [m.name for m in pkgutil.walk_packages(onnxgraft.__path__, "onnxgraft.") if m.ispkg]
for name in ["onnxgraft", *packages]:
    package = importlib.import_module(name)
    for one in getattr(package, "__all__", ()) if "__getattr__" in vars(package) else ():
        assert not isinstance(getattr(package, one), types.ModuleType), f"{name}.{one}"
        print(name, one)
"""


def test_no_name_that_is_loaded_late_is_taken_by_a_module() -> None:
    # A module that is imported becomes an attribute of its package, over which none is asked for.
    done = run("import onnxgraft.stages.validate.measure.tally\n" + LATE_NAMES)
    assert done.returncode == 0, done.stderr
    named = {line.split()[0] for line in done.stdout.splitlines()}
    assert named == {"onnxgraft", *(f"onnxgraft.{n}" for n in ROOMS)}


HELP = """
import io, json
from contextlib import redirect_stdout
from onnxgraft.cli import app
told = {}
for command in COMMANDS:
    with redirect_stdout(io.StringIO()) as printed:
        try:
            app([*command.split(), "--help"], prog_name="onnxgraft")
        except SystemExit as end:
            status = end.code
    heavy = {"numpy", "onnx", "onnx_graphsurgeon"} & set(sys.modules)
    told[command] = (status, printed.getvalue(), sorted(heavy))
print(json.dumps(told))
"""
NAMES = ["", *(command.__name__.replace("_", "-") for command in COMMANDS)]


@pytest.fixture(scope="module")
def helps() -> dict[str, Any]:
    """Return for each command the exit status and the text of its help, and what that imported."""
    done = run(f"COMMANDS = {NAMES!r}\n{HELP}")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("command", NAMES, ids=lambda name: name or "onnxgraft")
def test_help_answers_without_loading_onnx(command: str, helps: dict[str, Any]) -> None:
    status, text, heavy = helps[command]
    assert status == 0
    assert " ".join(text.split()).startswith(f"Usage: onnxgraft {command}".strip())
    assert not heavy


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


@pytest.mark.parametrize("command", ["inspect", "surgery", "export"])
def test_a_command_loads_no_stage_that_it_does_not_need(command: str) -> None:
    done = run(f"""
import onnxgraft
onnxgraft.{command}
print(*(name for name in sys.modules if name.startswith("onnxgraft.stages.validate")))
print(*(name for name in sys.modules if name.startswith("onnxgraft.stages.convert.caffe")))
""")
    assert done.stdout.split() == []
    assert done.returncode == 0, done.stderr
