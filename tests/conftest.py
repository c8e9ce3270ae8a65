"""Fixtures and small helpers that the tests of all stages share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings

from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from tests.browser import CHROMIUM, Browser
from tests.running import QUIET, Cli, here, in_a_process

ROOT = Path(__file__).parent.parent
# .ci/run sets it, as other such systems do: what is random is tried more often, and some tests that
# take long run there alone.
CI = bool(os.environ.get("CI"))
only_ci = pytest.mark.skipif(not CI, reason="it takes long: set CI=1, as .ci/run does")
# What looks for rare events or at files of hundreds of megabytes, and what is large in other ways:
# `make deep`, before a release.
DEEP = bool(os.environ.get("ONNXGRAFT_DEEP"))
only_deep = pytest.mark.skipif(not DEEP, reason="it takes long: `make deep` does it")


def in_ci() -> None:
    """Skip, for a fixture that takes long, where it is not CI."""
    if not CI:
        pytest.skip(only_ci.kwargs["reason"])


def in_deep() -> None:
    """Skip, for a fixture that takes longest, where it is not `make deep`."""
    if not DEEP:
        pytest.skip(only_deep.kwargs["reason"])


def few(cases: Iterable[Any], count: int, in_ci: int | None = None) -> list[Any]:
    """Return the cases of a test: the first ``count`` always run, the others in CI alone.

    Of those the ones after the first ``in_ci`` are for `make deep`. A case that is a tuple has a
    value for each of several parameters.
    """
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=[only_ci] * (at >= count) + [only_deep] * (in_ci is not None and at >= in_ci),
        )
        for at, case in enumerate(cases)
    ]


# What test files import at their top, the product can't tell to be quiet as it does its own.
os.environ.setdefault(*QUIET)
# TensorRT-RTX computes float32 in TF32 otherwise, which an engine of float32 is not proven to do.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
SHARED = Path(os.environ.get("ONNXGRAFT_SHARED", ROOT.parent / "shared"))


# Where tests take long.
LONG = (
    "test_snippets.py", "test_deploy.py", "test_faults.py", "test_shards.py", "test_trust.py",
    "test_mutants.py", "test_fuzz.py", "test_limits.py", "test_examples.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: at the end the processes share what takes little."""
    items.sort(key=lambda item: item.path.name not in LONG)


_BEGINNING: dict[str, Any] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin the random numbers of a test's file anew, so that they are the same for it alone."""
    generator = getattr(getattr(item, "module", None), "RNG", None)
    if isinstance(generator, np.random.Generator):
        state = _BEGINNING.setdefault(item.module.__name__, generator.bit_generator.state)
        generator.bit_generator.state = state


# Examples are drawn from the test's own text and the modules that are loaded, not by chance: what
# fails once can be looked into.
for name, examples in (("quick", 30), ("ci", 60), ("deep", 500)):
    settings.register_profile(
        name, max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
settings.load_profile("deep" if DEEP else "ci" if CI else "quick")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that ``make`` filled: of the processes that run tests, the first one did.

    What fixtures make so is for reading alone. Those of different modules may have one name.
    """
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    name = f"{name}.{make.__module__}"
    folder, made = place / name, place / f"{name}.made"
    with open(place / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def model_of(text: str, constants: Mapping[str, Array] | None = None, opset: int = 17) -> Model:
    """Return the model written as ONNX text, with ``constants`` as initializers."""
    domains = f'["" : {opset}, "com.microsoft" : 1]' if "com.microsoft." in text else (
        f'["" : {opset}]'
    )  # fmt: skip
    proto = onnx.parser.parse_model(f"<ir_version: 8, opset_import: {domains}>\n{text}")
    for name, value in (constants or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(proto)
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))


def outputs_of(model: Model, batch: int = 2, seed: int = 0) -> dict[str, Array]:
    """Return what onnxruntime, without optimizations, computes for seeded normal feeds."""
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        return session.infer(random_feeds(session.inputs, batch, seed))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with real networks and images, or skip."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"the networks and images are not there ({SHARED})")
    return SHARED


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with LeNet-5, trained for an epoch and frozen, and its digits."""

    def train(folder: Path) -> None:
        subprocess.run(
            [sys.executable, ROOT / "models/lenet5.py", folder, "--epochs", "2"],
            check=True,
            capture_output=True,
        )

    return once(tmp_path_factory, "lenet", train)


@pytest.fixture(scope="module")
def untimed() -> Iterator[None]:
    """Leave out that a deployment times each engine, in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxgraft.commands._deployment._Deployment._latency", lambda self: None)
        yield


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return Ray, or skip; for one test at a time, as a cluster is found by all of this machine."""
    found = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns of it otherwise
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of its own workers
    with open(Path(tempfile.gettempdir(), f"onnxgraft-tests-ray-{os.getuid()}"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield found


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two versions of every input, for `tests.faults.COMMANDS`."""
    from tests.faults import prepare

    return once(tmp_path_factory, "inputs", prepare)


@pytest.fixture(scope="session")
def tensorrt10() -> Callable[..., None]:
    """Return a function that runs code in a Python with TensorRT 10, or skip.

    That Python needs nothing else: packages come from this one, behind its own.
    """
    python = os.environ.get("ONNXGRAFT_TENSORRT10")
    if not python:
        pytest.skip("ONNXGRAFT_TENSORRT10 names no Python with TensorRT 10; .ci/run makes one")
    packages = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    begin = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); sys.path += {packages!r}\n"

    def run(code: str, *arguments: object) -> None:
        done = subprocess.run(
            [python, "-c", begin + code, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Return a function that runs the ``onnxgraft`` command in this process."""
    return here


@pytest.fixture(scope="session")
def process() -> Cli:
    """Return a function that runs the ``onnxgraft`` command in a process of its own."""
    return in_a_process


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a headless Chromium, or skip."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running
