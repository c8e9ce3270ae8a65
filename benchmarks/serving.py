"""Serving on a CPU: what a call costs over the runtime's own, and many clients over one.

    python -m benchmarks.serving > benchmarks/serving.md

needs the network and photographs beside this checkout (`ONNXGRAFT_SHARED`).

MobileNet for street scenes in INT8, one image of 352 x 480. *Bare* is the library's own call on the
very session or request that the engine has, with inputs and outputs shared as its documentation
shows it; the ways take turns, a few calls each. The fastest tenth of the calls tells least of what
else the machine did. What a call costs by itself is told by a network that computes next to nothing
of an image of that size, in microseconds, and as a part of what MobileNet's bare call takes.

Clients are those of `bench --clients`: each asks again when it is answered, for five rounds in
turn. A ratio with `?` is within the spread of the rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from benchmarks.heading import heading

import onnxgraft
from onnxgraft.graph.tensors import Array
from onnxgraft.run.feeds import random_feeds

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ONNXGRAFT_SHARED", ROOT.parent / "shared"))
MODEL = SHARED / "models/mobilenet_camvid/mobilenet_camvid.pb"
PHOTOGRAPHS = SHARED / "data/camvid/calib"
TARGETS = ("onnxruntime", "openvino")
# The largest value of each channel: an input of MobileNet's size, and hardly a computation.
NOTHING = """<ir_version: 8, opset_import: ["" : 17]>
n (float[N, 3, 352, 480] x) => (float[N, 3, 1, 1] y) { y = GlobalMaxPool(x) }"""
# How often the ways take turns, and calls in a turn.
TURNS, CALLS = 60, 5
CLIENTS = "1,2,4,8"


def built(folder: Path) -> None:
    """Write an INT8 engine for each target, and one of OpenVINO's for throughput."""
    recipe = onnxgraft.read_recipe(ROOT / "benchmarks/fcn_camvid.toml").preprocess
    onnxgraft.convert(MODEL, folder / "net.onnx")
    onnxgraft.calibrate(
        folder / "net.onnx", folder / "ranges.json", data=PHOTOGRAPHS, images=8, preprocess=recipe
    )
    for target in TARGETS:
        graph = folder / f"{target}.onnx"
        onnxgraft.quantize(
            folder / "net.onnx", target, ranges=folder / "ranges.json", out=graph
        )  # fmt: skip
        onnxgraft.build(graph, folder / target, target=target, prove=False)
        onnxgraft.build(
            onnx.parser.parse_model(NOTHING), folder / f"{target}.nothing", target=target,
            prove=False,
        )  # fmt: skip
    onnxgraft.build(
        folder / "openvino.onnx", folder / "openvino.throughput", target="openvino", prove=False,
        hint="throughput",
    )  # fmt: skip


def bare(engine: Any, feeds: dict[str, Array]) -> Callable[[], object]:
    """Return the library's own call."""
    if hasattr(engine, "_session"):
        session, names = engine._session, [spec.name for spec in engine.outputs]
        return lambda: session.run(names, feeds)
    request = engine._model(engine._parts[-1]).create_infer_request()
    values = list(feeds.values())
    return lambda: request.infer(values, share_inputs=True, share_outputs=True)


def calls(path: Path, turns: int) -> dict[str, tuple[float, float]]:
    """Return for each way of calling the milliseconds: of the fastest tenth, and the median."""
    with onnxgraft.ServedEngine(path) as served:
        engine: Any = served._engine
        feeds = random_feeds(engine.inputs, 1)
        into = {name: np.empty_like(value) for name, value in engine.infer(feeds).items()}
        ways: dict[str, Callable[[], object]] = {
            "bare": bare(engine, feeds),
            "`infer`": lambda: engine.infer(feeds),
            "`ServedEngine.infer`": lambda: served.infer(feeds),
            "`infer_into`": lambda: engine.infer_into(feeds, into),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(turns + 2):
            for name, call in ways.items():
                for _ in range(CALLS):
                    begin = time.perf_counter()
                    call()
                    if turn >= 2:  # the first ones warm up
                        times[name].append(1000 * (time.perf_counter() - begin))
    return {
        name: (float(np.percentile(mine, 10)), float(np.median(mine)))
        for name, mine in times.items()
    }


def clients(path: Path, duration: float) -> Iterator[str]:
    """Yield a row for each number of clients."""
    done = onnxgraft.bench([path], clients=CLIENTS, duration=duration, rounds=5)
    for row in done.loads:
        told = row.told
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x{'?' * row.chance}"
        shares = " | ".join(f"{value:.1f}" for value in told.percentiles[:3])
        yield (
            f"{row.clients} | {told.per_second:.1f} | {told.slowest:.1f} to {told.fastest:.1f} | "
            f"{ratio} | {shares}"
        )


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--duration", type=float, default=20.0, help="seconds for each load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        built(folder)
        print(heading("Serving on a CPU", __doc__))
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        print(f"The machine's other work before: {load:.0%} of its {os.cpu_count()} cores.\n")
        print("## A call\n")
        print(
            "| runtime | way | MobileNet, ms: fastest tenth | median | of a call itself, us "
            "| of MobileNet's |"
        )
        print("|---|---|---|---|---|---|")
        for target in TARGETS:
            times, own = calls(folder / target, TURNS), calls(folder / f"{target}.nothing", 300)
            bare_ms, least = times["bare"][0], own["bare"][0]
            for name, (fast, median) in times.items():
                more = own[name][0] - least
                told = f"{1000 * more:.0f} | {100 * more / bare_ms:.2f} %" if more else " | "
                print(f"| {target} | {name} | {fast:.2f} | {median:.2f} | {told} |")
        print("\n## Clients\n")
        columns = ("engine", "clients", "images a second", "of the rounds", "over one")
        print(f"| {' | '.join(columns)} | p50, ms | p90 | p99 |")
        print("|---|---|---|---|---|---|---|---|")
        for name, path in (
            ("openvino INT8, for latency", "openvino"),
            ("openvino INT8, for throughput", "openvino.throughput"),
            ("onnxruntime INT8", "onnxruntime"),
        ):
            for row in clients(folder / path, options.duration):
                print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
