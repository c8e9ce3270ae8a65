"""Polygraphy's command goes on from our files, and we from its."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.commands import validate
from onnxgraft.errors import InputError
from onnxgraft.stages.validate import Recorded, read_inputs, save_outputs
from tests.conftest import model_of, only_ci

NET = "net (float[1, 3] x) => (float[1, 3] y) { a = Mul(x, s)  y = Softmax(a) }"


def save(path: Path, scale: float) -> Path:
    onnx.save(model_of(NET, {"s": np.array(scale, np.float32)}).to_onnx(), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "a.onnx", 2.0)
    save(tmp_path / "b.onnx", 2.1)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def polygraphy(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("polygraphy"), "run", *arguments],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


@only_ci
def test_polygraphy_run_goes_on_from_our_files(folder: Path) -> None:
    validate(
        folder / "a.onnx", folder / "b.onnx", folder / "data.npz",
        save_inputs=folder / "in.json", save_outputs=folder / "out.json",
    )  # fmt: skip
    again = ["--onnxrt", "--load-inputs", "in.json", "--load-outputs", "out.json"]
    assert len(read_inputs(folder / "in.json")) == 4
    # The file has both: the original's outputs, and the candidate's, which b.onnx gives again.
    loose = polygraphy(folder, "b.onnx", *again, "--atol", "1")
    assert loose.returncode == 0, loose.stdout + loose.stderr
    # a.onnx differs from what the candidate gave.
    tight = polygraphy(folder, "a.onnx", *again, "--atol", "1e-6", "--rtol", "0")
    assert tight.returncode != 0


def test_what_polygraphy_ran_is_read(folder: Path) -> None:
    done = polygraphy(
        folder, "b.onnx", "--onnxrt", "--save-inputs", "in.json", "--save-outputs", "out.json",
        "--iterations", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    same = validate(folder / "b.onnx", folder / "out.json", folder / "in.json")
    assert same.passed
    assert same.samples == len(read_inputs(folder / "in.json"))
    other = validate(folder / "a.onnx", folder / "out.json", folder / "in.json")
    assert not other.passed


def test_another_number_of_samples_is_told(folder: Path) -> None:
    save_outputs(folder / "out.json", {"run": [{"y": np.zeros((1, 3), np.float32)}]})
    assert len(Recorded(folder / "out.json")) == 1
    with pytest.raises(InputError, match="outputs for 1 sample, the data are 4"):
        validate(folder / "a.onnx", folder / "out.json", folder / "data.npz")


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"lst": 3}'])
def test_another_json_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"other\.json"):
        Recorded(file)
    with pytest.raises(InputError, match=r"other\.json"):
        read_inputs(file)


def test_what_polygraphy_would_print_of_a_damaged_recording_is_not_printed(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the recording it says the same as our sentence, and of packages what does not matter."""
    save_outputs(folder / "out.json", {"run": [{"y": np.zeros((1, 3), np.float32)}]})
    text = (folder / "out.json").read_text()
    (folder / "out.json").write_text(text.replace("RunResults", "RunRe3ults"))
    with pytest.raises(InputError, match="RunRe3ults"):
        Recorded(folder / "out.json")
    assert tuple(capfd.readouterr()) == ("", "")
