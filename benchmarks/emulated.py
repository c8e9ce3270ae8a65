"""onnxruntime's engines on a processor without VNNI, which is emulated: what do they compute?

    python -m benchmarks.emulated > benchmarks/emulated.md

needs what `benchmarks.proven` does, and qemu-x86_64.

Each network is calibrated on 100 images and
quantized for onnxruntime on a processor with AVX2 and no VNNI, as `deploy` does, and once as for
one with VNNI. The engines run on one validation image in an emulated Haswell; decibels are SQNR of
the first output. `precise` is `session.x64quantprecision`. An emulator says nothing of times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.heading import heading
from benchmarks.networks import Road, chosen

from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.run.difference import sqnr
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import quantize
from onnxgraft.targets.cpu import find_cpu

# What qemu's Haswell has and user mode does not emulate.
_CPU = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm"
_COLUMNS = ("exact", "fast exact", "fast float", "precise exact", "precise float")


def made(road: Road, cpu: str, place: Path) -> None:
    """Write the graph for a processor, and what it and the float graph say of an image."""
    table = quantize.placement("onnxruntime", find_cpu(cpu))
    options = QuantizeOptions(
        table, improvements=quantize.IMPROVEMENTS, calibration=road.calibration
    )
    graph = int8_graph(road.model, road.ranges, options).model
    graph.save(place.with_suffix(".onnx"))
    feeds = next(iter(road.validation)).feeds
    with exact(graph) as right, OnnxRuntime(road.model.to_onnx()) as reference:
        said = {
            "exact": next(iter(right.infer(feeds).values())),
            "float": next(iter(reference.infer(feeds).values())),
        }
    np.savez(place.with_suffix(".npz"), **said, **{f"fed {n}": v for n, v in feeds.items()})


def emulated(place: Path) -> dict[str, float]:
    """Return decibels by pair and mode, of the engine on the emulated processor."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from benchmarks.emulated import measured\n"
        f"measured({str(place)!r})"
    )
    command = ["qemu-x86_64", "-cpu", _CPU, os.path.realpath(sys.executable), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(place: str) -> None:
    """Run the engine here, in both modes, and print the decibels."""
    stored = np.load(f"{place}.npz")
    feeds = {name[4:]: stored[name] for name in stored.files if name.startswith("fed ")}
    found = {"exact": sqnr(stored["float"], stored["exact"])}
    for mode, entry in (("fast", "0"), ("precise", "1")):
        with OnnxRuntime(
            f"{place}.onnx",
            configure=lambda options, entry=entry: options.add_session_config_entry(
                "session.x64quantprecision", entry
            ),
        ) as run:
            answer = next(iter(run.infer(feeds).values()))
        found[f"{mode} exact"] = sqnr(stored["exact"], answer)
        found[f"{mode} float"] = sqnr(stored["float"], answer)
    print(json.dumps(found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default="fcn_camvid,mobilenet_camvid,yolo_camvid")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if shutil.which("qemu-x86_64") is None:
        raise SystemExit("qemu-x86_64 is not installed")
    print(heading("onnxruntime without VNNI, emulated", __doc__))
    print(
        "| network | weights for | exact against float | engine against exact | engine against "
        "float | precise: against exact | against float |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        for network in chosen(given.networks.split(",")):
            road = Road(network, folder, 1)
            for cpu in ("avx2", "avx512-vnni"):
                place = Path(temporary) / f"{network.name}-{cpu}"
                made(road, cpu, place)
                found = emulated(place)
                cells = " | ".join(f"{found[key]:.1f} dB" for key in _COLUMNS)
                print(f"| {network.name} | {cpu} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
