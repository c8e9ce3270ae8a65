"""Outputs written where the caller says: the same bits, and nothing written elsewhere or later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxgraft
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from tests.conftest import model_of, once

TARGETS = ("onnxruntime", "openvino")
NET = (
    "net (float[N, 3, H, 6] x) => (float[N, 3, H, 6] y, int64[N, H, 6] best) {"
    " y = Relu(x)  best = ArgMax<axis=1, keepdims=0>(x) }"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        for name, height in (("free", "H"), ("fixed", "4")):
            model_of(NET.replace("H", height)).save(folder / f"{name}.onnx")
            for target in TARGETS:
                onnxgraft.build(
                    folder / f"{name}.onnx", folder / f"{name}.{target}", target=target,
                    prove=False,
                )  # fmt: skip

    return once(tmp_path_factory, "into", make)


@pytest.fixture(params=[f"{name}.{target}" for name in ("free", "fixed") for target in TARGETS])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    with onnxgraft.load_engine(folder / request.param) as loaded:
        yield loaded


def feed(batch: int = 2, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(batch, 3, 4, 6)).astype(np.float32)


def room(batch: int = 2) -> dict[str, Array]:
    return {
        "y": np.full((batch, 3, 4, 6), 7, np.float32), "best": np.full((batch, 4, 6), 7, np.int64),
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2])
def test_the_bits_are_those_of_infer(batch: int, engine: Any) -> None:
    into = room(batch)
    for seed in range(3):
        engine.infer_into({"x": feed(batch, seed)}, into)
        wanted = engine.infer({"x": feed(batch, seed)})
        for name, value in wanted.items():
            np.testing.assert_array_equal(into[name], value)


def test_an_array_that_is_no_longer_given_is_no_longer_written(engine: Any) -> None:
    first, second = room(), room()
    engine.infer_into({"x": feed(seed=1)}, first)
    kept = {name: value.copy() for name, value in first.items()}
    engine.infer_into({"x": feed(seed=2)}, {"best": second["best"]})
    engine.infer_into({"x": feed(seed=3)}, {"y": second["y"]})
    engine.infer({"x": feed(seed=4)})
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)


def test_a_slice_of_a_larger_array_is_written_alone(engine: Any) -> None:
    large = np.full((6, 3, 4, 6), 7, np.float32)
    engine.infer_into({"x": feed()}, {"y": large[2:4]})
    np.testing.assert_array_equal(large[2:4], np.maximum(feed(), 0))
    assert (large[:2] == 7).all()
    assert (large[4:] == 7).all()


def test_a_feed_that_is_not_contiguous_is_read_rightly(engine: Any) -> None:
    turned, into = np.asfortranarray(feed()), room()
    engine.infer_into({"x": turned}, into)
    np.testing.assert_array_equal(into["y"], np.maximum(feed(), 0))


def test_threads_write_into_their_own_arrays(engine: Any) -> None:
    def ask(seed: int) -> Array:
        into = room()
        engine.infer_into({"x": feed(seed=seed)}, into)
        return into["y"]

    with ThreadPoolExecutor(4) as threads:
        for seed, found in enumerate(threads.map(ask, range(40))):
            np.testing.assert_array_equal(found, np.maximum(feed(seed=seed), 0))


@pytest.mark.parametrize(
    ("into", "sentence"),
    [
        ({"z": np.zeros(3, np.float32)}, "did you mean|there are"),
        ({"y": np.zeros((2, 3, 4, 6))}, "can't be written into"),
        ({"y": np.zeros((2, 3, 4), np.float32)}, "can't be written into"),
        ({"y": np.zeros((3, 3, 4, 6), np.float32)}, "is .2, 3, 4, 6. for these feeds"),
        ({"y": np.zeros((1, 3, 4, 6), np.float32)}, "is .2, 3, 4, 6. for these feeds"),
        ({"y": np.zeros((2, 6, 4, 3), np.float32).T.reshape(2, 3, 4, 6, order="F")}, "contiguous"),
    ],
    ids=["name", "type", "axes", "larger", "smaller", "order"],
)
def test_an_array_that_does_not_fit_is_told(
    into: dict[str, Array], sentence: str, engine: Any
) -> None:
    with pytest.raises(InputError, match=sentence):
        engine.infer_into({"x": feed()}, into)
    whole = room()
    engine.infer_into({"x": feed()}, whole)
    np.testing.assert_array_equal(whole["y"], np.maximum(feed(), 0))


ON_ONE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np, onnxgraft
small = np.full((1, 3, 4, 6), 7, np.float32)
with onnxgraft.load_engine(sys.argv[1]) as engine:
    try:
        engine.infer_into({"x": np.ones((2, 3, 4, 6), np.float32)}, {"y": small})
    except onnxgraft.errors.InputError as error:
        print(error)
    engine.infer_into({"x": np.full((1, 3, 4, 6), 5, np.float32)}, {"y": small})
print(set(small.reshape(-1)) == {5})
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
@pytest.mark.parametrize("target", TARGETS)
def test_an_array_that_is_too_small_is_told_on_one_processor(target: str, folder: Path) -> None:
    """A library counts processors when it is loaded, so this takes a new Python."""
    done = subprocess.run(
        [sys.executable, "-c", ON_ONE, folder / f"free.{target}"], capture_output=True, text=True
    )
    assert "y is (2, 3, 4, 6) for these feeds" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "True"


def test_an_array_that_may_not_be_written_is_told(engine: Any) -> None:
    fixed = room()
    fixed["y"].flags.writeable = False
    with pytest.raises(InputError, match="writable"):
        engine.infer_into({"x": feed()}, fixed)


def test_an_array_over_a_feed_is_refused(engine: Any) -> None:
    both = feed()
    with pytest.raises(InputError, match="lies over a feed"):
        engine.infer_into({"x": both}, {"y": both})


@pytest.mark.parametrize("target", TARGETS)
def test_a_served_engine_writes_one_sample_too(target: str, folder: Path) -> None:
    with onnxgraft.ServedEngine(folder / f"fixed.{target}") as engine:
        into = room(1)
        engine.infer_into(feed(1)[0], {"y": into["y"]})
        np.testing.assert_array_equal(into["y"], np.maximum(feed(1), 0))


def test_an_engine_that_can_only_copy_gives_the_same() -> None:
    from onnxgraft.graph.tensors import TensorSpec
    from onnxgraft.run.engine import Computing

    class Copying(Computing):
        name, outputs = "copying", (TensorSpec("y", "float32", ("N",)),)

        def infer(self, feeds: Any) -> Any:
            return {"y": feeds["x"] * 2}

    into = {"y": np.zeros(3, np.float32)}
    Copying().infer_into({"x": np.arange(3, dtype=np.float32)}, into)
    assert into["y"].tolist() == [0, 2, 4]
    with pytest.raises(InputError, match="for these feeds"):
        Copying().infer_into({"x": np.zeros(2, np.float32)}, into)
