"""Calibration and validation on a Ray cluster: the same bits, the time by part, and how it grows.

    python -m benchmarks.cluster > benchmarks/ray.md

needs Ray and fsspec. It makes pictures of 28 x 28 in an archive, and clusters of 1, 2 and 4 nodes,
as `ray.cluster_utils` simulates them.

The nodes are simulated on one machine, with a CPU each. LeNet-5 reads its pictures by URL,
`zip::file://`, in each worker for itself: nothing is unpacked or copied to the nodes. It is
calibrated on them, and the graph in INT8 is validated beside the float one. "The same bits" are
those of one process without Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from benchmarks.heading import heading

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import quantize
from onnxgraft.stages.validate import Tally, measure
from tests.conftest import model_of

NODES = (1, 2, 4)
# The smaller is as large as every actor needs to be there before the end.
COUNTS = (4_000, 16_000)
MANY = 100_000
MANY_ON = 2
# So many pictures are different; the others are copies under other names.
DIFFERENT = 2_000
LENET = """
lenet (float[N,1,28,28] image) => (float[N,10] score) {
    a = Conv(image, w1, b1)
    b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
    c = Conv(b, w2, b2)
    d = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
    e = Flatten(d)
    f = Gemm(e, w3, b3)
    g = Relu(f)
    score = Gemm(g, w4, b4)
}
"""
SHAPES = {"w1": (20, 1, 5, 5), "w2": (50, 20, 5, 5), "w3": (800, 500), "w4": (500, 10)}
RECIPE = Preprocess(color="gray", scale=(1 / 255,))
LAW = """\
## The law

    seconds = joining + listing + start + samples * each / min(nodes, cores)

`each` is what processors take for a sample: that of one node, and up to a quarter more where the
nodes share two cores, as the table has it. `start` is for the actors to begin: each imports
onnxgraft, opens the graphs and the archive's list of names. What is sent does not grow with the
samples of a part: it is two numbers there and sums back. More nodes than cores gain nothing here
({cores} cores); on machines of their own they are of use until the parts run out: validation makes
four for each worker; calibration at least ten, of 32 samples up to 32,000 samples and a thousand
from there on, so that a sample then costs less than the law says. Held against runs that the lines
above were not made of, without joining and listing:
"""


@dataclass(frozen=True)
class Took:
    """What a run took.

    Attributes:
        what: ``calibrate`` or ``validate``.
        nodes: Of the cluster; 0 stands for this process, without Ray.
        samples: How many there were.
        seconds: Of the whole.
        processor: Seconds of processors, of all processes of the cluster and of this one.
        same: Whether the result has the bits of this process's.
    """

    what: str
    nodes: int
    samples: int
    seconds: float
    processor: float
    same: bool


def lenet() -> Model:
    """Return LeNet-5 in Caffe's form, with random weights."""
    rng = np.random.default_rng(0)
    constants = {}
    for name, shape in SHAPES.items():
        scale = np.sqrt(2 / (np.prod(shape[1:]) if len(shape) == 4 else shape[0]))
        constants[name] = (scale * rng.normal(size=shape)).astype(np.float32)
        outputs = shape[0] if len(shape) == 4 else shape[1]
        constants[f"b{name[1]}"] = np.zeros(outputs, np.float32)
    return model_of(LENET, constants)


def pictures(path: Path, count: int) -> None:
    """Write an archive of so many pictures."""
    rng = np.random.default_rng(1)
    different = []
    for _ in range(DIFFERENT):
        pixels = cv2.resize(rng.integers(0, 256, (7, 7), np.uint8), (28, 28))
        different.append(cv2.imencode(".png", pixels)[1].tobytes())
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number:06}.png", different[number % DIFFERENT])


@contextlib.contextmanager
def joined(nodes: int) -> Iterator[tuple[str, float]]:
    """Join a cluster of so many nodes of a CPU each; yield its address, and what joining took."""
    import ray
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args={**settings, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(**settings)
        made.wait_for_nodes()
        began = time.perf_counter()
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
        yield made.address, time.perf_counter() - began
    finally:
        ray.shutdown()
        made.shutdown()


def bits(result: Ranges | Tally) -> object:
    """Return all that a result says, so that two can be compared."""
    if isinstance(result, Ranges):
        counts = {name: one.counts.tobytes() for name, one in result.histograms.items()}
        return result.tensors, result.samples, counts
    return [
        {name: (one.sqnr, one.max_abs, one.mean_abs, one.cosine) for name, one in each.items()}
        for each in result.differences
    ]


class Work:
    """Calibration and validation of LeNet-5 on pictures in an archive."""

    def __init__(self, folder: Path) -> None:
        self.model = lenet()
        self.url = f"zip::{(folder / 'pictures.zip').as_uri()}"
        pictures(folder / "pictures.zip", MANY)
        began = time.perf_counter()
        self.all = open_samples(self.url, self.model.inputs, RECIPE)
        self.listing = time.perf_counter() - began
        ranges = self.calibrate(self.all.head(100), None, 0)
        small, _ = quantize.quantize(self.model, ranges, "onnxruntime")
        self.files = folder / "float.onnx", folder / "int8.onnx"
        for model, file in zip((self.model, small), self.files, strict=True):
            model.save(file)

    def calibrate(self, samples: Samples, address: str | None, nodes: int) -> Ranges:
        """Calibrate on samples, on a cluster or here."""
        return quantize.calibrate(
            self.model, samples, "minmax", workers=nodes or 1, ray=address, targets=["onnxruntime"]
        )

    def validate(self, samples: Samples, address: str | None, nodes: int) -> Tally:
        """Validate the INT8 graph beside the float one, likewise."""
        openers = [
            partial(OnnxRuntime, str(file), optimize=False, threads=1) for file in self.files
        ]
        with openers[0]() as original, openers[1]() as other:
            return measure(
                original, [other], samples, workers=nodes or 1, ray=address, openers=openers
            )


def timed(
    work: Work, address: str | None, nodes: int, counts: Sequence[int],
    right: dict[tuple[str, int], object],
) -> Iterator[Took]:  # fmt: skip
    """Yield what each work took on a cluster, with each count."""
    for what in ("calibrate", "validate"):
        for count in counts:
            began = time.perf_counter()
            with Processors() as used:
                found = bits(getattr(work, what)(work.all.head(count), address, nodes))
            took = time.perf_counter() - began, used.seconds
            same = right.setdefault((what, count), found) == found
            yield Took(what, nodes, count, *took, same)
            print(what, nodes, count, *took, same, file=sys.stderr, flush=True)


class Processors:
    """What processes take of the processors, from the beginning of the block to its end.

    They are looked at again and again, for one that is killed leaves no account behind.
    """

    def __enter__(self) -> Processors:
        """Begin."""
        self._first, self._last = _taken(), dict[int, int]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()
        ticks = sum(value - self._first.get(number, 0) for number, value in self._last.items())
        self.seconds = ticks / os.sysconf("SC_CLK_TCK")

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self._last |= _taken()
        self._last |= _taken()


def _taken() -> dict[int, int]:
    """Return the ticks that this process and those under it have taken, by process."""
    parents: dict[int, int] = {}
    taken: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            number = int(file.parent.name)
            parents[number], taken[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    mine = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {number: taken[number] for number in mine if number in taken}


def each(runs: Sequence[Took], of: str) -> tuple[float, float]:
    """Return what is taken before the first sample, and for each, of runs with two counts."""
    one, other = runs
    slope = (getattr(other, of) - getattr(one, of)) / (other.samples - one.samples)
    return getattr(one, of) - slope * one.samples, slope


def main() -> None:
    """Measure, and print the page."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    right: dict[tuple[str, int], object] = {}
    runs: list[Took] = []
    join: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder))
        runs += timed(work, None, 0, COUNTS, right)
        for nodes in NODES:
            with joined(nodes) as (address, join[nodes]):
                runs += timed(work, address, nodes, COUNTS, right)
        print(heading("Ray", __doc__))
        print(
            f"{cores} cores, which {load:.0f} tasks wanted when it began: so what processors took "
            "is told beside the seconds, and what the cores allow is by it.\n"
        )
        print(
            f"| | nodes | joining, s | before the first sample, s | {COUNTS[-1]:,} samples, s | "
            "processors, ms a sample | of what the cores allow | the same bits |"
        )
        print("|---|---|---|---|---|---|---|---|")
        law: dict[tuple[str, int], tuple[float, float]] = {}
        for what in ("calibrate", "validate"):
            for nodes in (0, *NODES):
                mine = [run for run in runs if (run.what, run.nodes) == (what, nodes)]
                law[what, nodes] = each(mine, "processor")
                first = law.get((what, 1))
                share = "" if first is None else f"{first[1] / law[what, nodes][1]:.2f}"
                print(
                    f"| {what} | {nodes or 'without Ray'} | {join.get(nodes, 0):.1f} | "
                    f"{each(mine, 'seconds')[0]:.1f} | {mine[-1].seconds:.1f} | "
                    f"{1000 * law[what, nodes][1]:.2f} | {share} | "
                    f"{'yes' if all(run.same for run in mine) else 'NO'} |"
                )
        print(f"\nListing the archive's {MANY:,} pictures took {work.listing:.1f} s, once.\n")
        print(LAW.format(cores=cores))
        print("| | nodes | samples | seconds | processors, s | by the law, s |")
        print("|---|---|---|---|---|---|", flush=True)
        with joined(MANY_ON) as (address, _):
            for run in timed(work, address, MANY_ON, (MANY,), right):
                start, slope = law[run.what, run.nodes]
                print(
                    f"| {run.what} | {run.nodes} | {run.samples:,} | {run.seconds:.0f} | "
                    f"{run.processor:.0f} | {start + slope * run.samples:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
