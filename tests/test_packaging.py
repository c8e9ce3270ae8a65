import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import onnxgraft
from onnxgraft import commands
from onnxgraft.files import sha256
from onnxgraft.stages import engine
from onnxgraft.targets import TARGETS
from tests.conftest import ROOT, in_ci, once, only_ci

STAGES = ["convert", "engine", "quantize", "surgery", "validate"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    in_ci()

    def make(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
        subprocess.run([*pip, folder, ROOT], check=True, capture_output=True, cwd=folder)

    [path] = once(tmp_path_factory, "wheel", make).glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src" / "onnxgraft"
    wanted = {
        f"onnxgraft/{path.relative_to(source)}"
        for folder in [source, *(source / "stages" / stage for stage in STAGES)]
        for path in folder.rglob("*")
        if path.suffix in {".cmake", ".cpp", ".j2", ".py", ".txt", ".typed"}
        and "__pycache__" not in path.parts
    }
    assert len(wanted) > 50
    assert wanted <= set(wheel.namelist())


@only_ci
def test_two_builds_of_the_wheel_are_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for number in range(2):
        # Elsewhere, and files of another time.
        copy, out = tmp_path / f"copy{number}" / "onnxgraft", tmp_path / f"out{number}"
        tracked = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split("\0")
        for name in filter(None, tracked):
            place = copy / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place, follow_symlinks=False)
            if not place.is_symlink():
                os.utime(place, (1e9 + 1e6 * number,) * 2)
                place.chmod(0o644)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
        subprocess.run(
            [*pip, "--no-build-isolation", "--wheel-dir", out, copy], check=True,
            capture_output=True, cwd=tmp_path,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONHASHSEED": str(number)},
        )  # fmt: skip
        made += [sha256(path) for path in out.iterdir()]
    assert len(made) == 2
    assert made[0] == made[1]


def test_the_wheel_installs_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {Path(name).parts[0] for name in wheel.namelist()}
    assert tops == {"onnxgraft", f"onnxgraft-{onnxgraft.__version__}.dist-info"}


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"onnxgraft-{onnxgraft.__version__}.dist-info"
    told = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    kinds = set(told.get_all("Classifier", []))
    pythons = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)}
    assert pythons | {"Typing :: Typed"} <= kinds
    assert told["Requires-Python"] == ">=3.11"
    assert {"int8", "onnx", "quantization"} <= set(told["Keywords"].split(","))
    extras = set(told.get_all("Provides-Extra", []))
    assert {target.package for target in TARGETS} <= extras
    scripts = wheel.read(f"{info}/entry_points.txt").decode()
    assert "onnxgraft = onnxgraft.__main__:main" in scripts


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_folder_is_reached_through_a_link(stage: str) -> None:
    link = ROOT / "src/onnxgraft/stages" / stage
    assert link.is_symlink()
    assert link.resolve() == ROOT / stage


@pytest.mark.parametrize("package", [onnxgraft, commands, engine], ids=lambda p: p.__name__)
def test_public_names_are_sorted_and_there(package: ModuleType) -> None:
    """Also where they are loaded when they are asked for."""
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name
