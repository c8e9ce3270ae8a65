"""The Dockerfile of the examples: its steps are run, and its container's command answers."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

import onnxgraft
from tests.conftest import ROOT, model_of, once, only_ci

DOCKERFILE = ROOT / "examples/docker/Dockerfile"
# The modules that are installed, and no others.
ALONE = """
import importlib.abc, sys
there = {modules!r} | set(sys.stdlib_module_names)
class Alone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in there and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Alone())
"""


class Step(NamedTuple):
    name: str
    words: str


def steps() -> list[Step]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [Step(*line.split(maxsplit=1)) for line in lines if line.strip()]


def of(name: str) -> list[str]:
    return [step.words for step in steps() if step.name == name]


def installed() -> list[str]:
    """Return what pip installs from elsewhere, with the arguments' values in it."""
    [line] = [words for words in of("RUN") if "--no-deps" not in words]
    for name, value in (words.split("=", 1) for words in of("ARG")):
        line = line.replace(f"${name}", value)
    command = shlex.split(line)
    assert command[:2] == ["pip", "install"]
    return [word for word in command[2:] if not word.startswith("-")]


def modules(names: list[str]) -> set[str]:
    """Return the modules of distributions, and of all that they need."""
    wanted = [Requirement(name) for name in names]
    seen: set[str] = set()
    while wanted:
        each = wanted.pop()
        name = re.sub(r"[-_.]+", "-", each.name).lower()
        if name in seen:
            continue
        seen.add(name)
        needs = map(Requirement, importlib.metadata.requires(name) or [])
        wanted += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    owners = importlib.metadata.packages_distributions()
    found = {re.sub(r"[-_.]+", "-", o).lower(): set() for each in owners.values() for o in each}
    for module, each in owners.items():
        for owner in each:
            found[re.sub(r"[-_.]+", "-", owner).lower()].add(module)
    return set().union(*(found[name] for name in seen))


def test_the_runtime_is_the_pinned_one() -> None:
    pins = re.findall(r"^(onnxruntime==\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert [name for name in installed() if Requirement(name).specifier] == pins


def test_the_image_has_what_serving_needs_and_nothing_that_builds() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = {Requirement(name).name for name in installed()}
    assert {Requirement(name).name for name in extras["serve"]} <= names
    assert not names & {"onnx", "onnx-graphsurgeon", "polygraphy", "tensorflow", "jinja2"}


def test_the_command_runs_as_nobody_and_gets_signals() -> None:
    assert steps()[0].name == "FROM"
    assert "slim" in steps()[0].words
    [user] = of("USER")
    assert int(user.partition(":")[0]) > 0
    after = [step.name for step in steps()][[step.name for step in steps()].index("USER") :]
    assert not {"RUN", "COPY", "ADD", "USER"} & set(after[1:])
    assert json.loads(of("CMD")[0])[:2] == ["onnxgraft", "serve"]  # no shell between


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the steps were run, as if it were the image's root."""

    def make(folder: Path) -> None:
        given, root, programs = (folder / name for name in ("given", "root", "programs"))
        for each in (given, root, programs):
            each.mkdir()
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
        subprocess.run([*pip, given, ROOT], check=True, capture_output=True, cwd=folder)
        model_of("n (float[N,3,8,8] x) => (float[N,3,1,1] y) { y = GlobalAveragePool(x) }").save(
            folder / "net.onnx"
        )
        onnxgraft.build(
            folder / "net.onnx", given / "model.engine", target="onnxruntime", prove=False
        )
        into = f"--no-index --target {root}/site"
        (programs / "pip").write_text(
            f'#!/bin/sh\nshift\nexec {sys.executable} -m pip install {into} "$@"\n'
        )
        (programs / "pip").chmod(0o755)
        at = root
        for step in steps():
            if step.name == "WORKDIR":
                at = root / step.words.lstrip("/")
                at.mkdir(parents=True)
            elif step.name == "COPY":
                *names, to = step.words.split()
                place = root / to.lstrip("/") if to.startswith("/") else at / to
                place.mkdir(parents=True, exist_ok=True)
                for file in (file for name in names for file in given.glob(name)):
                    (place / file.name).write_bytes(file.read_bytes())
            elif step.name == "RUN" and "--no-deps" in step.words:
                path = f"{programs}{os.pathsep}{os.environ['PATH']}"
                subprocess.run(
                    step.words.replace(" /", f" {root}/"), shell=True, check=True, cwd=at,
                    env={**os.environ, "PATH": path}, capture_output=True,
                )  # fmt: skip
        there = modules(installed()) | {"onnxgraft", "sitecustomize"}
        (root / "site/sitecustomize.py").write_text(ALONE.format(modules=there))

    return once(tmp_path_factory, "image", make) / "root"


@pytest.fixture
def environment(image: Path) -> dict[str, str]:
    path = f"{image}/site/bin{os.pathsep}{Path(sys.executable).parent}"
    return {"PATH": path, "PYTHONPATH": str(image / "site"), "PYTHONSAFEPATH": "1"}


@pytest.fixture
def port(image: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run the command of the container at a port that is free, and yield that."""
    command = [*json.loads(of("CMD")[0]), "--port", "0"]
    with subprocess.Popen(
        [image / "site/bin" / command[0], *command[1:]], cwd=image / of("WORKDIR")[0].lstrip("/"),
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if "answers on" in line:
                break
        found = re.search(r"http://0\.0\.0\.0:(\d+)", told)
        assert found is not None, told
        yield found[1]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


@only_ci
def test_the_command_answers_with_what_is_installed_alone(
    port: str, environment: dict[str, str]
) -> None:
    check = health(port, environment)
    assert check.returncode == 0, check.stderr


@only_ci
def test_the_health_check_fails_where_nothing_answers(environment: dict[str, str]) -> None:
    assert health("1", environment).returncode == 1


def health(port: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    [check] = of("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert "/v2/health/ready" in command[-1]
    command = [word.replace(":8000/", f":{port}/") for word in command]
    assert of("EXPOSE") == ["8000"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
