"""What the tests of the Caffe layers share: nets of one layer, and holding them against numpy."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.caffemodel import Blobs, caffemodel
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original

# float32 rounds to 6e-8 of a value. Sums of some hundred products that are added in another order,
# and the runtimes' own exp, log and pow, are off by some 1e-6 of the largest output.
ROUNDING = 1e-5

# The batch sizes that a net is run at; what it declares is the size of the feeds.
BATCHES = (1, 3)

# Names of the inputs of a net of one layer, in the order of its bottoms.
INPUTS = ("x", "z", "v", "u", "t")

# Given the feeds in float64, returns the output, or the outputs in the order of the tops.
Reference = Callable[..., Array | tuple[Array, ...]]


@dataclass(frozen=True)
class Case:
    """A net of one layer, feeds, and the function that says what it computes.

    Attributes:
        name: Of the behaviour, for people.
        kind: The layer's type.
        params: What stands in the layer's body besides name, type, bottoms and tops.
        reference: The numpy function.
        feeds: The values of the bottoms.
        blobs: The layer's weights.
        tops: Names of the outputs.
        batches: How much of the feeds' first axis to run; None where that is not a batch.
        opencv: Why OpenCV can't confirm the reference; empty if it does.
        spelled_out: The params for OpenCV, where its defaults are not Caffe's.
    """

    name: str
    kind: str
    params: str
    reference: Reference
    feeds: tuple[Array, ...]
    blobs: tuple[Array, ...] = ()
    tops: str = "y"
    batches: tuple[int, ...] | None = BATCHES
    opencv: str = ""
    spelled_out: str = ""

    def __str__(self) -> str:
        """Return the id of the test."""
        return self.name

    @property
    def text(self) -> str:
        """The prototxt."""
        bottoms = INPUTS[: len(self.feeds)]
        shapes = {name: feed.shape for name, feed in zip(bottoms, self.feeds, strict=True)}
        return inputs(**shapes) + layer(self.kind, " ".join(bottoms), self.tops, self.params)

    @property
    def weights(self) -> dict[str, Blobs]:
        """The blobs by layer, for `caffemodel`; empty if there are none."""
        return {"it": (self.kind, self.blobs)} if self.blobs else {}

    def part(self, batch: int | None) -> dict[str, Array]:
        """Return the first ``batch`` samples of the feeds, by input."""
        return {name: feed[:batch] for name, feed in zip(INPUTS, self.feeds, strict=False)}

    def expected(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the reference computes, by output."""
        values = self.reference(*(feed.astype(np.float64) for feed in feeds.values()))
        values = values if isinstance(values, tuple) else (values,)
        return dict(zip(self.tops.split(), values, strict=True))


def case(
    name: str,
    kind: str,
    params: str,
    reference: Reference,
    *feeds: Array,
    blobs: Sequence[Array] = (),
    **more: Any,
) -> Case:
    """Return a `Case`, with the feeds as positional arguments."""
    return Case(name, kind, params, reference, feeds, tuple(blobs), **more)


def cases(*groups: Sequence[Case]) -> pytest.MarkDecorator:
    """Return the decorator that runs a test for each case."""
    return pytest.mark.parametrize("case", [one for group in groups for one in group], ids=str)


def every_case() -> dict[str, list[Case]]:
    """Return the cases of all tests here, by their file and the name of their list."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file.stem == "test_reference_against_opencv":  # it asks
            continue
        module = importlib.import_module(f"tests.convert.caffe.{file.stem}")
        for name, value in vars(module).items():
            group = value if isinstance(value, list) else [value]
            if group and all(isinstance(entry, Case) for entry in group):
                found[f"{file.stem.removeprefix('test_')}-{name.lower()}"] = group
    return found


def inputs(**shapes: Sequence[int]) -> str:
    """Return the prototxt of the net's inputs."""
    return "".join(
        f'input: "{name}"\ninput_shape {{ {" ".join(f"dim: {dim}" for dim in shape)} }}\n'
        for name, shape in shapes.items()
    )


def layer(
    kind: str, bottoms: str = "x", tops: str = "y", params: str = "", name: str = "it"
) -> str:
    """Return the prototxt of a layer; bottoms and tops are separated by spaces."""
    lines = [f'name: "{name}"', f'type: "{kind}"']
    lines += [f'bottom: "{blob}"' for blob in bottoms.split()]
    lines += [f'top: "{blob}"' for blob in tops.split()]
    return "layer {\n  " + "\n  ".join([*lines, *filter(None, [params])]) + "\n}\n"


def load(text: str, blobs: Mapping[str, Blobs] | None = None) -> Model:
    """Write prototxt and caffemodel, and convert them; without blobs there is no caffemodel."""
    with tempfile.TemporaryDirectory() as folder:
        net, weights = Path(folder, "net.prototxt"), Path(folder, "net.caffemodel")
        net.write_text(text)
        if blobs:
            weights.write_bytes(caffemodel(blobs))
        model, _ = Original.of(net, weights=weights if blobs else None).lower()
    return model


def run(
    text: str, blobs: Mapping[str, Blobs] | None, feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """Return what the converted net computes in onnxruntime, without optimizations."""
    with OnnxRuntime(load(text, blobs).to_onnx(), optimize=False) as session:
        return session.infer(feeds)


def check(case: Case) -> None:
    """Convert the net and hold every output, at every batch size, against the reference."""
    with OnnxRuntime(load(case.text, case.weights).to_onnx(), optimize=False) as session:
        for batch in case.batches or (None,):
            feeds = case.part(batch)
            assert_close(session.infer(feeds), case.expected(feeds))


def check_or_refused(case: Case) -> None:
    """Accept a refusal; what is converted must be right."""
    try:
        load(case.text, case.weights)
    except InputError:
        return
    check(case)


def assert_close(
    actual: Mapping[str, Array], expected: Mapping[str, Array], fraction: float = ROUNDING
) -> None:
    """Hold ``actual`` against a fraction of each expected output's largest value."""
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == np.float32
        assert actual[name].shape == value.shape
        if value.size:
            largest = float(np.nanmax(np.abs(value)))
            np.testing.assert_allclose(actual[name], value, rtol=0, atol=fraction * largest)


def normal(*shape: int, seed: int = 0) -> Array:
    """Return seeded normal float32 values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> Array:
    """Return seeded float32 values between 0.5 and 2."""
    return np.random.default_rng([seed, *shape]).uniform(0.5, 2.0, shape).astype(np.float32)
