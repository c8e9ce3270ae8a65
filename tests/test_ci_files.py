"""The workflow and the hook of the examples fail where something is worse, and there alone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.stages import engine
from onnxgraft.stages.validate.report import CandidateRow, Report
from tests.conftest import ROOT, model_of, once, only_ci
from tests.running import Done

yaml = pytest.importorskip("yaml")

CI = ROOT / "examples/ci"
WORKFLOW = yaml.safe_load((CI / "validate.yml").read_text(encoding="utf-8"))
[HOOK] = yaml.safe_load((CI / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
    "hooks"
]
NET = "n (float[1, 2] x) => (float[1, 2] y) { y = Mul(x, w) }"
# To YAML 1.1 the key `on` is a truth.
CALLED = WORKFLOW[True]["workflow_call"]["inputs"]
[JOB] = WORKFLOW["jobs"].values()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two engines and their graphs: the second computes something else, and is worse."""

    def make(folder: Path) -> None:
        for name, factor in (("good", 1), ("bad", 2)):
            model = model_of(NET, {"w": np.full(2, factor, np.float32)})
            model.save(folder / f"{name}.onnx")
            file = folder / f"{name}.engine"
            engine.build(model, file, "onnxruntime", prove=False)
            engine.record(file, accuracy={"top1": 90.0 - factor})
        np.savez(folder / "data.npz", x=np.ones((3, 1, 2), np.float32))
        program = folder / "programs/onnxgraft"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m onnxgraft "$@"\n')
        program.chmod(0o755)
        (folder / "programs/python").symlink_to(sys.executable)

    return once(tmp_path_factory, "made", make)


def environment(made: Path, **more: str) -> dict[str, str]:
    """Return one in which the command `onnxgraft` is this checkout's."""
    git = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    path = f"{made}/programs{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **git, "PYTHONPATH": str(ROOT / "src"), "PATH": path, **more}


# The workflow ---------------------------------------------------------------------------------


def step(given: dict[str, str]) -> dict[str, Any]:
    """Return the step that compares, where the workflow is called so."""
    whether = {"inputs.data == ''": not given["data"], "inputs.data != ''": bool(given["data"])}
    [found] = [each for each in JOB["steps"] if whether.get(each.get("if"), False)]
    return found


def run_workflow(made: Path, folder: Path, **inputs: str) -> Done:
    needed = {name for name, each in CALLED.items() if each.get("required")}
    assert needed <= set(inputs) <= set(CALLED)
    given = {name: each.get("default", "") for name, each in CALLED.items()} | inputs
    values = {
        name: given[re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", value)[1]]
        for name, value in JOB["env"].items()
    }
    script = folder / "step.sh"
    script.write_text(step(given)["run"])
    call = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]  # as GitHub does
    return subprocess.run(
        call, cwd=folder, env=environment(made, **values), capture_output=True, text=True
    )


@pytest.mark.parametrize(("after", "status"), [("good", 0), pytest.param("bad", 1, marks=only_ci)])
def test_the_workflow_fails_where_an_engine_is_worse(
    after: str, status: int, made: Path, tmp_path: Path
) -> None:
    done = run_workflow(
        made, tmp_path, before=f"{made}/good.engine", after=f"{made}/{after}.engine",
        options="--metric-drop 0.5 --larger 10",
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert (tmp_path / "report/changes.html").is_file()


@only_ci
@pytest.mark.parametrize(("after", "status"), [("good", 0), ("bad", 1)])
def test_the_workflow_fails_where_a_candidate_computes_something_else(
    after: str, status: int, made: Path, tmp_path: Path
) -> None:
    done = run_workflow(
        made, tmp_path, before=f"{made}/good.onnx", after=f"{made}/{after}.onnx",
        data=f"{made}/data.npz",
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert (tmp_path / "report/report.json").is_file()


def test_no_value_of_a_caller_is_pasted_into_a_script() -> None:
    scripts = [each["run"] for each in JOB["steps"] if "run" in each]
    assert len(scripts) == 3
    assert not [text for text in scripts if "${{" in text]
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_what_the_workflow_installs_is_an_extra_there_is() -> None:
    from packaging.requirements import Requirement

    from onnxgraft.targets import TARGETS

    wanted = Requirement(CALLED["install"]["default"])
    assert wanted.extras <= {target.package for target in TARGETS}


# The hook -------------------------------------------------------------------------------------


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    """Return a repository that holds an engine, a run and a graph of no run, and the hook."""
    write_run(tmp_path / "run", 70.0)
    copy(made, "good", tmp_path / "net.engine")
    copy(made, "good", tmp_path / "run/e.onnxruntime")
    shutil.copyfile(made / "good.onnx", tmp_path / "run/model.onnx")
    shutil.copyfile(made / "good.onnx", tmp_path / "loose.onnx")
    shutil.copyfile(CI / "not_worse.py", tmp_path / "not_worse.py")
    git(made, tmp_path, "init", "--quiet")
    git(made, tmp_path, "add", ".")
    git(made, tmp_path, "commit", "--quiet", "-m", "m")
    return tmp_path


def write_run(folder: Path, miou: float) -> None:
    folder.mkdir(exist_ok=True)
    row = CandidateRow("openvino int8", [], {"miou": miou}, {}, True, "")
    Report("net", "net.pb", candidates=[row]).save(folder / "report.json")


def copy(made: Path, name: str, to: Path) -> None:
    shutil.copyfile(made / f"{name}.engine", to)
    shutil.copyfile(made / f"{name}.engine.json", f"{to}.json")


def git(made: Path, folder: Path, *words: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=n@n"]
    subprocess.run(
        ["git", *who, *words], cwd=folder, env=environment(made), check=True, capture_output=True
    )


def run_hook(made: Path, folder: Path, *files: str) -> Done:
    """Run what pre-commit would for changed files."""
    chosen = [name for name in files if re.search(HOOK["files"], name)]
    return subprocess.run(
        [*shlex.split(HOOK["entry"]), *chosen], cwd=folder, env=environment(made),
        capture_output=True, text=True,
    )  # fmt: skip


@only_ci
@pytest.mark.parametrize(("name", "status"), [("good", 0), ("bad", 1)])
def test_a_commit_fails_where_an_engine_is_worse(
    name: str, status: int, made: Path, repository: Path
) -> None:
    copy(made, name, repository / "net.engine")
    done = run_hook(made, repository, "net.engine", "net.engine.json")
    assert done.returncode == status, done.stderr
    assert done.stdout.count("net.engine, beside HEAD") == 1
    assert ("top1: lost 1, and 0.5 is allowed" in done.stdout) == bool(status)


@only_ci
@pytest.mark.parametrize(("miou", "status"), [(69.9, 0), (60.0, 1)])
def test_a_commit_fails_where_the_run_of_a_graph_is_worse(
    miou: float, status: int, made: Path, repository: Path
) -> None:
    shutil.copyfile(made / "bad.onnx", repository / "run/model.onnx")
    write_run(repository / "run", miou)
    done = run_hook(made, repository, "run/model.onnx", "run/report.json")
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.count("run, beside HEAD") == 1


def test_a_changed_graph_that_nothing_judged_fails_a_commit(made: Path, repository: Path) -> None:
    shutil.copyfile(made / "bad.onnx", repository / "loose.onnx")
    done = run_hook(made, repository, "loose.onnx")
    assert done.returncode == 1
    assert "loose.onnx: has no passport or report.json beside it" in done.stdout


def test_what_is_new_is_no_change(made: Path, repository: Path) -> None:
    copy(made, "bad", repository / "other.engine")
    shutil.copyfile(made / "bad.onnx", repository / "other.onnx")
    write_run(repository / "second", 1.0)
    names = ("other.engine", "other.onnx", "second/report.json", "unrelated.json", "a.py")
    done = run_hook(made, repository, *names)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
