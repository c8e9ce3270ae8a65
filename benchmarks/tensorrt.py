"""TensorRT on a GPU: latency as NVIDIA's slides have it, outputs, memory of host and device.

    python -m benchmarks.tensorrt [--fcn fcn_camvid.onnx] [--only NAME] > benchmarks/tensorrt.md

needs an NVIDIA GPU and TensorRT. The article's FCN and ResNet-50 are made here with random
weights; the CamVid FCN is the file that ``onnxgraft convert`` made. Each engine is measured in a
process of its own; outputs are held against onnxruntime's FP32 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.heading import made_by, this_gpu

from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions

PRECISIONS = ("fp32", "tf32", "fp16")
NETWORKS = {"fcn_vgg16": (1, 4), "fcn_camvid": (1, 4, 16), "resnet50": (1, 4, 16, 32, 64)}
RUNS = 100
PEER = "PyTorch eager"
_LEGEND = f"""
Median, p90 and p99 of {RUNS} runs after a warm-up. *GPU alone* is between two events around the
engine, data on the GPU, as trtexec's GPU compute time; *from array to array* is `infer` from numpy
to numpy, *from its own array* the same from an array that the engine's `array` made, which needs no
copy on the host. PyTorch's time is with data on the GPU. fp32 is float32 throughout, tf32 what
TensorRT calls FP32 unless it is told otherwise; TensorRT-RTX takes TF32 for both, unless
NVIDIA_TF32_OVERRIDE=0 is in the environment, as it is here for the rows of fp32."""


def percentiles(seconds: list[float]) -> list[float]:
    """Return median, p90 and p99 in milliseconds."""
    return [float(value) for value in 1000 * np.percentile(seconds, (50, 90, 99))]


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition("VmRSS:")[2].split()[0])


def measure(graph: Path, precision: Any, batches: list[int]) -> dict[str, Any]:
    """Build one engine and return everything that is known of it."""
    model = Model.load(graph)
    plan = graph.with_suffix(f".{precision}.engine")
    start = time.perf_counter()
    engine.build(
        model, plan, "tensorrt", precision=precision, options=BuildOptions(batches=batches)
    )
    found: dict[str, Any] = {
        "build": time.perf_counter() - start, "size": plan.stat().st_size, "rows": [],
    }  # fmt: skip
    reference = OnnxRuntime(model.to_onnx())
    expected = {}
    for batch in batches[:2]:
        expected[batch] = reference.infer(random_feeds(reference.inputs, batch))
    reference.close()
    before = resident()
    start = time.perf_counter()
    with engine.load(plan) as built:
        loaded = time.perf_counter() - start
        for batch in batches:
            feeds = random_feeds(built.inputs, batch)
            answers = built.infer(feeds)
            for _ in range(5):
                built.infer(feeds)
            if "first" not in found:
                found["load"], found["first"] = loaded, time.perf_counter() - start
            whole = []
            for _ in range(RUNS):
                began = time.perf_counter()
                built.infer(feeds)
                whole.append(time.perf_counter() - began)
            # The same from an array that lies where the GPU reads it.
            own = {}
            for name, value in feeds.items():
                own[name] = built.array(name, value.shape)  # type: ignore[attr-defined]
                own[name][...] = value
            direct = []
            for _ in range(RUNS):
                began = time.perf_counter()
                built.infer(own)
                direct.append(time.perf_counter() - began)
            alone = built.compute({k: v.shape for k, v in feeds.items()}, RUNS)  # type: ignore[attr-defined]
            row: dict[str, Any] = {
                "batch": batch, "whole": percentiles(whole), "own": percentiles(direct),
                "gpu": percentiles(alone),
                "device": built.memory()["device"], "host": resident() - before,  # type: ignore[attr-defined]
            }  # fmt: skip
            if batch in expected:
                row["off"] = max(
                    float(np.abs(answers[name] - right).max() / np.ptp(right))
                    for name, right in expected[batch].items()
                )
            found["rows"].append(row)
        found["layers"] = len(engine.layers(built))
        found["nodes"] = len(model.graph.nodes)
        found["version"] = engine.read_passport(plan).versions["tensorrt"]
    return found


def peer(precision: str, batches: list[int]) -> dict[str, Any]:
    """Return the latency of torchvision's ResNet-50 in PyTorch, data on the GPU."""
    import torch
    import torchvision

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    kind = torch.float16 if precision == "fp16" else torch.float32
    network = torchvision.models.resnet50().eval().cuda().to(kind)
    rows = []
    with torch.inference_mode():
        for batch in batches:
            data = torch.randn(batch, 3, 224, 224, device="cuda", dtype=kind)
            for _ in range(10):
                network(data)
            torch.cuda.synchronize()
            seconds = []
            for _ in range(RUNS):
                began = time.perf_counter()
                network(data)
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
            rows.append({"batch": batch, "gpu": percentiles(seconds)})
    return {"rows": rows, "version": torch.__version__}


def apart(task: dict[str, Any]) -> dict[str, Any]:
    """Run ``measure`` or ``peer`` in a process of its own."""
    # TensorRT-RTX rounds float32 to TF32 even with that flag off, unless CUDA forbids it.
    exact = {"NVIDIA_TF32_OVERRIDE": "0"} if task["precision"] == "fp32" else {}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tensorrt", "--task", json.dumps(task)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **exact},
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": f"it ended with status {done.returncode}"}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def networks(folder: Path, fcn: Path | None, only: str | None) -> dict[str, Path]:
    """Return the graphs by name; those with random weights are made here."""
    graphs = {}
    for name in NETWORKS:
        if only not in (None, name) or (name == "fcn_camvid" and fcn is None):
            continue
        if name == "fcn_camvid" and fcn is not None:
            (folder / "fcn_camvid.onnx").write_bytes(fcn.read_bytes())
        else:
            for command in (
                ["models.caffe_networks", name, folder],
                ["onnxgraft", "convert", folder / f"{name}.prototxt", "--weights",
                 folder / f"{name}.caffemodel", "-o", folder / f"{name}.onnx", "--no-verify"],
            ):  # fmt: skip
                subprocess.run(
                    [sys.executable, "-m", *map(str, command)],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
        graphs[name] = folder / f"{name}.onnx"
    return graphs


def table(name: str, found: dict[str, dict[str, Any]], peers: dict[str, Any]) -> list[str]:
    """Return one network's part of the page."""
    lines = [f"\n## {name}\n"]
    good = {precision: result for precision, result in found.items() if "error" not in result}
    lines += [f"{p}: {result['error']}" for p, result in found.items() if "error" in result]
    if "fp32" not in good:
        return lines
    lines.append(
        "| precision | batch | GPU alone: median ms | p90 | p99 | images/s | over FP32 | "
        "from array to array: median ms | p90 | p99 | from its own array: median ms | "
        "difference, of the range |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    base = {row["batch"]: row["gpu"][0] for row in good["fp32"]["rows"]}
    for precision, result in good.items():
        for row in result["rows"]:
            alone, whole = row["gpu"], row["whole"]
            off = f"{row['off']:.1e}" if "off" in row else ""
            lines.append(
                f"| {precision} | {row['batch']} | {alone[0]:.3f} | {alone[1]:.3f} | "
                f"{alone[2]:.3f} | {1000 * row['batch'] / alone[0]:.0f} | "
                f"{base[row['batch']] / alone[0]:.2f}x | {whole[0]:.3f} | {whole[1]:.3f} | "
                f"{whole[2]:.3f} | {row['own'][0]:.3f} | {off} |"
            )
    for precision, result in peers.items():
        for row in result.get("rows", ()):
            alone = row["gpu"]
            lines.append(
                f"| {PEER} {result['version']} {precision} | {row['batch']} | {alone[0]:.3f} | "
                f"{alone[1]:.3f} | {alone[2]:.3f} | {1000 * row['batch'] / alone[0]:.0f} | "
                f"{base[row['batch']] / alone[0]:.2f}x | | | | | |"
            )
    lines.append(
        "\n| precision | nodes -> layers | build s | engine MB | load s | to the first answer s | "
        "device MB at the largest batch | host MB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for precision, result in good.items():
        last = result["rows"][-1]
        lines.append(
            f"| {precision} | {result['nodes']} -> {result['layers']} | {result['build']:.1f} | "
            f"{result['size'] / 1e6:.1f} | {result['load']:.2f} | {result['first']:.2f} | "
            f"{last['device'] / 1e6:.0f} | {last['host'] / 1e6:.0f} |"
        )
    return lines


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fcn", type=Path, help="the CamVid FCN as ONNX")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task is not None:
        task = dict(options.task)
        do: Callable[..., dict[str, Any]] = peer if task.pop("kind") == "peer" else measure
        if "graph" in task:
            task["graph"] = Path(task["graph"])
        print(json.dumps(do(**task)))
        return
    where = this_gpu()
    print("# TensorRT on a GPU\n")
    print(made_by(where=where))
    print(_LEGEND)
    with tempfile.TemporaryDirectory() as place:
        for name, graph in networks(Path(place), options.fcn, options.only).items():
            batches = list(NETWORKS[name])
            found = {
                precision: apart({
                    "kind": "measure", "graph": str(graph), "precision": precision,
                    "batches": batches,
                })
                for precision in PRECISIONS
            }  # fmt: skip
            peers = {}
            if name == "resnet50":
                peers = {p: apart({"kind": "peer", "precision": p, "batches": batches})
                         for p in PRECISIONS}  # fmt: skip
            print("\n".join(table(name, found, peers)), flush=True)
            version = next((r["version"] for r in found.values() if "version" in r), "")
            print(f"\nTensorRT {version}.")


if __name__ == "__main__":
    main()
