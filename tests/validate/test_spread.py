"""Samples spread over processes: the result has the same bits, and errors are told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.run.engine import Engine
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.validate import Candidate, make_metric, measure, rows
from onnxgraft.stages.validate.report import CandidateRow
from tests.conftest import model_of, only_ci

NET = """
    net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y)
    { a = Conv<pads = [1, 1, 1, 1]>(x, w)  b = Relu(a)  y = Add(b, a) }
"""


def save(path: Path, noise: float) -> str:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    weights += (noise * rng.standard_normal(weights.shape)).astype(np.float32)
    onnx.save(model_of(NET, {"w": weights}).to_onnx(), path)
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Samples]:
    folder = tmp_path_factory.mktemp("spread")
    rng = np.random.default_rng(1)
    np.savez(
        folder / "data.npz",
        x=rng.standard_normal((23, 3, 8, 8)).astype(np.float32),
        labels=rng.integers(0, 4, (23, 8, 8)).astype(np.uint8),
    )
    first, second = save(folder / "a.onnx", 0.0), save(folder / "b.onnx", 0.01)
    with OnnxRuntime(first) as session:
        samples = open_samples(folder / "data.npz", session.inputs)
    return first, second, samples


def run(
    models: tuple[str, str, Samples], tmp_path: Path, workers: int = 1, ray: str | None = None
) -> list[CandidateRow]:
    first, second, samples = models
    classes = tmp_path / "classes.txt"
    classes.write_text("a\nb\nc\nd\n")
    openers: list[Callable[[], Engine]] = [partial(OnnxRuntime, path) for path in (first, second)]
    with OnnxRuntime(first) as one, OnnxRuntime(second) as other:
        tally = measure(
            one, [other], samples, partial(make_metric, "miou", str(classes)),
            workers=workers, ray=ray, openers=openers,
        )  # fmt: skip
        return rows(one, [Candidate(other, 1e-4)], tally)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bits(
    models: tuple[str, str, Samples], tmp_path: Path, workers: int
) -> None:
    alone = run(models, tmp_path)
    assert alone[1].outputs[0].agreement not in (None, 0.0, 1.0)
    assert run(models, tmp_path, workers) == alone


@only_ci
def test_a_ray_cluster_gives_the_same_bits(
    models: tuple[str, str, Samples], tmp_path: Path, ray: Any
) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray itself
        ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
        try:
            spread = run(models, tmp_path, 2, "auto")
        finally:
            ray.shutdown()
    assert spread == run(models, tmp_path)


def test_what_a_worker_meets_is_told(models: tuple[str, str, Samples], tmp_path: Path) -> None:
    first, _, samples = models
    with OnnxRuntime(first) as one, pytest.raises(InputError, match="miou over 11 classes"):
        measure(
            one, [], samples, partial(make_metric, "miou", "camvid"), workers=2,
            openers=[partial(OnnxRuntime, first)],
        )  # fmt: skip


def test_no_workers_are_too_few(models: tuple[str, str, Samples]) -> None:
    first, _, samples = models
    with OnnxRuntime(first) as one, pytest.raises(InputError, match="--workers 0"):
        measure(one, [], samples, workers=0)
