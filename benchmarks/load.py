"""Memory over many images: 1,000 and 10,000 through calibrate and validate, each on its own.

    python -m benchmarks.load > benchmarks/load.md

makes a hundred small photographs and names each of them again and again, by links: what is decoded,
hashed and counted is ten thousand files. Peak memory is that of the command's processes together,
looked at every 50 ms, and the largest single process by the system's own count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import onnx

from tests.figures import put, versions

ROOT = Path(__file__).parent.parent
COUNTS = (1000, 10000)
SIZE = 64
NET = """
n (float[N,3,64,64] x) => (float[N,10] y) {
    a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)
    b = Relu(a)
    c = Conv <pads = [1,1,1,1], strides = [2,2]> (b, w2)
    d = Relu(c)
    e = GlobalAveragePool(d)
    f = Flatten(e)
    y = Gemm(f, w3)
}
"""


def network(path: Path) -> None:
    """Write a small convolutional network."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{NET}')
    for name, shape in {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 10)}.items():
        value = (rng.normal(size=shape) / 8).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    path.write_bytes(proto.SerializeToString())


def images(folder: Path, count: int) -> None:
    """Fill a folder with so many images, a hundred of them different."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(count):
        path = folder / f"{index:05}.jpg"
        if index < 100:
            pixels = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (SIZE, SIZE))
            cv2.imwrite(str(path), pixels)
        else:
            os.link(folder / f"{index % 100:05}.jpg", path)


def measured(*words: object) -> tuple[float, int, int]:
    """Run a command; return seconds, the peak of all its processes and of the largest, in MB."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxgraft", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    most = largest = 0
    while process.poll() is None:
        found = [_memory(pid) for pid in _family(process.pid)]
        most = max(most, sum(resident for resident, _ in found))
        largest = max([largest, *(peak for _, peak in found)])
        time.sleep(0.05)
    assert process.stderr is not None
    with process.stderr as stream:
        told = stream.read()
    if process.returncode not in (0, 1):
        raise RuntimeError(told.decode())
    return time.monotonic() - begin, most >> 10, largest >> 10


def _family(process: int) -> list[int]:
    found, waiting = [], [process]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return found


def _memory(pid: int) -> tuple[int, int]:
    """Return a process's own share of memory, and the most it ever had, in KB."""
    try:
        share = Path(f"/proc/{pid}/smaps_rollup").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
        return _kilobytes(share, "Pss:"), _kilobytes(status, "VmHWM:")
    except (OSError, IndexError):
        return 0, 0


def _kilobytes(text: str, name: str) -> int:
    return int(text.partition(name)[2].split()[0])


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", type=json.loads, default=list(COUNTS))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        network(here / "m.onnx")
        (here / "recipe.toml").write_text("scale = [0.0078]\nmean = [127.0]\n")
        more = ["--preprocess", here / "recipe.toml"]
        for count in options.counts:
            data = here / f"images{count}"
            images(data, count)
            commands: dict[str, list[object]] = {
                "calibrate": ["calibrate", here / "m.onnx", "--data", data, *more,
                              "-o", here / "r.json"],
                "validate": ["validate", here / "m.onnx", here / "q.onnx", "--data", data, *more,
                             "--report", here / "report"],
            }  # fmt: skip
            for name, words in commands.items():
                if name == "validate" and not (here / "q.onnx").exists():
                    measured("quantize", here / "m.onnx", "--ranges", here / "r.json", "--target",
                             "onnxruntime", "-o", here / "q.onnx")  # fmt: skip
                seconds, most, largest = measured(*words)
                rows.append(f"| {name} | {count:,} | {seconds:.0f} | {most} | {largest} |")
                print(rows[-1], file=sys.stderr)
    lines = [
        f"Made by `python -m benchmarks.load` on {versions('onnxruntime', 'numpy')}",
        "",
        "| command | images | seconds | peak MB, all processes | peak MB, the largest |",
        "|---|---|---|---|---|",
        *rows,
    ]
    print("# Load\n")
    put("load", lines)


if __name__ == "__main__":
    main()
