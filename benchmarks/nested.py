"""What INT8 gains in recurrent layers and in the bodies of If and Loop.

    python -m benchmarks.nested > benchmarks/nested.md

needs nothing but the packages.

Networks of random weights, each answer by one thread, engines in processes of their own that take
turns. Calibrated on eight random samples. Of an INT8 engine the passport says whether it computes
what its graph does.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from benchmarks.heading import heading

from onnxgraft.commands._bench import BenchTarget, measure
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model, Source
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.convert import Original
from onnxgraft.stages.engine.options import BuildOptions

ROUNDS, RUNS, SAMPLES = 7, 20, 8


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        title: In the table.
        text: As ONNX's parser reads it.
        constants: Sizes of its weights, by name.
        shape: Of its input ``x``.
        targets: That run it in INT8.
    """

    title: str
    text: str
    constants: dict[str, tuple[int, ...]]
    shape: tuple[int, ...]
    targets: tuple[str, ...] = ("onnxruntime", "openvino")

    def model(self) -> Model:
        """Return it with seeded weights, each layer's about as large as what it reads."""
        rng = np.random.default_rng(0)
        graph = onnx.parser.parse_graph(self.text)
        for name, size in self.constants.items():
            fan = np.sqrt(np.prod(size[1:]))
            value = (rng.standard_normal(size) / fan).astype(np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        imports = [onnx.helper.make_opsetid("", 17)]
        proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
        return Model.from_onnx(proto, Source(self.title, "onnx", ""))


CASES = (
    Case(
        "an LSTM of 512 inputs and units, 50 steps",
        """
        lstm (float[50, 1, 512] x) => (float[50, 1, 1, 512] y) {
            [memory] y = LSTM <hidden_size = 512> (x, w, r)
        }
        """,
        {"w": (1, 2048, 512), "r": (1, 2048, 512)},
        (50, 1, 512),
        ("onnxruntime",),
    ),
    Case(
        "three Convs of 64 channels on 28 x 28, one of them in a branch",
        """
        branch (float[1, 64, 28, 28] x) => (float[1, 64, 28, 28] y) {
            [first] a = Conv <pads = [1, 1, 1, 1]> (x, k1)
            b = Relu (a)
            total = ReduceSum <keepdims = 0> (b)
            zero = Constant <value_float = 0.0> ()
            positive = Greater (total, zero)
            [choice] c = If (positive) <
                then_branch = one () => (float[1, 64, 28, 28] e) {
                    [inner] d = Conv <pads = [1, 1, 1, 1]> (b, k2)
                    e = Relu (d)
                },
                else_branch = other () => (float[1, 64, 28, 28] e) { e = Relu (b) }
            >
            [last] y = Conv <pads = [1, 1, 1, 1]> (c, k3)
        }
        """,
        dict.fromkeys(("k1", "k2", "k3"), (64, 64, 3, 3)),
        (1, 64, 28, 28),
    ),
    Case(
        "a MatMul of 512 by 512 in four turns of a Loop",
        """
        loop (float[64, 512] x) => (float[64, 512] y) {
            count = Constant <value_int = 4> ()
            always = Constant <value = bool {1}> ()
            [loop] y = Loop (count, always, x) <
                body = turn (int64 i, bool go, float[64, 512] state)
                    => (bool on, float[64, 512] next) {
                    on = Identity (go)
                    [inner] a = MatMul (state, w)
                    next = Tanh (a)
                }
            >
        }
        """,
        {"w": (512, 512)},
        (64, 512),
    ),
)


def rows(case: Case, folder: Path) -> None:
    """Print the rows of a network."""
    model, data = case.model(), folder / "data.npz"
    values = np.random.default_rng(1).standard_normal((SAMPLES, *case.shape)).astype(np.float32)
    np.savez(data, x=values)
    samples = open_samples(data, model.inputs)
    for target in case.targets:
        ranges = quantize.calibrate(model, samples, targets=[target])
        graph, report = quantize.quantize(model, ranges, target)
        targets, proven = [], {}
        for name, made in (("float32", model), ("INT8", graph)):
            place = folder / f"{target}.{name}"
            passport = engine.build(
                made, place, target, options=BuildOptions(threads=1),
                samples=(sample.feeds for sample in samples),
            )  # fmt: skip
            proven[name] = "yes" if passport.proven else "NO"
            targets.append(BenchTarget(name, "engine", Original.of(place)))
        # The first axis of the inputs is fixed.
        timed = measure(targets, batches=case.shape[:1], rounds=ROUNDS, runs=RUNS)
        times = {row.name: row.median_ms for row in timed}
        cells = [
            case.title, target, str(len(report.layers)),
            *(f"{times[name]:.2f} ms" for name in ("float32", "INT8")),
            f"{times['float32'] / times['INT8']:.2f}x", proven["INT8"],
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table as Markdown."""
    print(heading("Recurrent layers and bodies in INT8", __doc__))
    print("| network | engine | layers in INT8 | float32 | INT8 | as fast | proven |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows(case, Path(folder))


if __name__ == "__main__":
    main()
