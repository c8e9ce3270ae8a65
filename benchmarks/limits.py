"""What large sound models take, and the most that a small hostile file takes.

    python -m benchmarks.limits > benchmarks/limits.md

needs nothing but the packages with TensorFlow and PyTorch, some 6 GB in the temporary folder and of
memory.

Each row is a command in a process of its own, with the settings that it has by default. Memory is
what all its processes have to themselves, looked at twenty times a second; pages of mapped files
are not in it. Sound models are chains of products with weights as external data, and of 100,000
nodes. The hostile files are those of the tests (`tests/hostile.py`): each has less than 100 MB, and
would become gigabytes when it is read or run. What is called `followed` or `grown` is a network
with a tensor whose size follows from the values that it is fed, which is not known before it runs:
such a network has a closer limit of memory while it runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from benchmarks.heading import heading

from onnxgraft.sandbox.guard import memory_of
from tests import hostile
from tests.test_limits import chain

WIDTH = 5600  # a square of float32 has 125 MB
MOST = 2 << 30


@dataclass(frozen=True)
class Ended:
    """What came of a command.

    Attributes:
        status: Its exit status.
        seconds: That it took.
        bytes: The most memory of all its processes.
        told: The last line on standard error.
    """

    status: int
    seconds: float
    bytes: int
    told: str


def ended(*words: object) -> Ended:
    """Run a command to its end."""
    begin, most = time.monotonic(), 0
    command = [sys.executable, "-m", "onnxgraft", *map(str, words)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        while process.poll() is None:
            most = max(most, memory_of(process.pid))
            time.sleep(0.05)
        log.seek(0)
        told = (log.read().strip().splitlines() or [""])[-1]
    return Ended(process.returncode, time.monotonic() - begin, most, told)


def products(folder: Path, count: int) -> Path:
    """Write a chain of products whose weights are in another file."""
    block = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5
    names = ["x", *(f"t{index}" for index in range(1, count)), "y"]
    nodes = [
        onnx.helper.make_node("MatMul", [names[index], f"w{index}"], [names[index + 1]])
        for index in range(count)
    ]
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["N", WIDTH]) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "net", [x], [y])
    for index in range(count):
        made = onnx.TensorProto(name=f"w{index}", data_type=1, dims=block.shape, data_location=1)
        for key, value in (
            ("location", "w.bin"), ("offset", index * block.nbytes), ("length", block.nbytes),
        ):  # fmt: skip
            made.external_data.add(key=key, value=str(value))
        graph.initializer.append(made)
    with open(folder / "w.bin", "wb") as file:
        for index in range(count):
            (block * np.float32(1 + index / 64)).tofile(file)
    opsets = [onnx.helper.make_opsetid("", 17)]
    file = folder / "net.onnx"
    file.write_bytes(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    return file


def sound() -> Iterator[tuple[str, str, Ended]]:
    """Yield what was done with large sound models."""
    for count, commands in ((42, ["inspect"]), (18, ["inspect", "convert"])):
        with tempfile.TemporaryDirectory() as place:
            file = products(Path(place), count)
            size = (Path(place) / "w.bin").stat().st_size / 1e9
            for command in commands:
                more = ["-o", Path(place) / "out.onnx"] if command == "convert" else []
                yield f"{size:.1f} GB of weights", command, ended(command, file, *more)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "net.onnx"
        file.write_bytes(chain(100_000))
        for command in ("inspect", "convert"):
            more = ["-o", Path(place) / "out.onnx"] if command == "convert" else []
            yield "100,000 nodes", command, ended(command, file, *more)


def harmful() -> Iterator[tuple[str, int, Ended]]:
    """Yield the hostile files with their size, and what `convert` did with each."""
    with tempfile.TemporaryDirectory() as place:
        known = {name: make for name, (make, _) in (hostile.GROWING | hostile.RUNNING).items()}
        for name, make in known.items():
            file = Path(place) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(make())
            (file.parent.parent / "saved_model.pb").write_bytes(b"\x08\x01")
            size, given = file.stat().st_size, file
            if file.name.startswith("saved_model"):
                given = file.parent.parent if file.parent.name == "debug" else file.parent
            more = ("-o", Path(place) / "out.onnx")
            words: tuple[object, ...] = ("convert", given, *more)
            if name.endswith(".caffemodel"):
                net = Path(place) / "net.prototxt"
                net.write_text('input: "x" input_dim: 1 input_dim: 1 input_dim: 2 input_dim: 2\n'
                               'layer { name: "l" type: "ReLU" bottom: "x" top: "y" }')  # fmt: skip
                words = ("convert", net, "--weights", file, *more)
            yield name, size, ended(*words)
            file.unlink()


def main() -> None:
    """Print the tables as Markdown."""
    print(heading("Limits", __doc__))
    print("| sound model | command | seconds | memory | exit status |\n|---|---|---|---|---|")
    for name, command, done in sound():
        print(f"| {name} | `{command}` | {done.seconds:.0f} | {_size(done.bytes)} | "
              f"{done.status} |", flush=True)  # fmt: skip
    print("\n| hostile file | has | seconds | memory | exit status |\n|---|---|---|---|---|")
    worst, silent = 0, list[str]()
    for name, size, done in harmful():
        print(f"| {name} | {_size(size)} | {done.seconds:.0f} | {_size(done.bytes)} | "
              f"{done.status} |", flush=True)  # fmt: skip
        worst = max(worst, done.bytes)
        if done.bytes > MOST and not (done.status == 2 and done.told):
            silent.append(name)
    print(
        f"\nThe worst memory for a file under 100 MB with default settings is {_size(worst)}. "
        f"More than {_size(MOST)} without a sentence: {', '.join(silent) or 'none'}."
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 1 << 30 else f"{count / 2**20:.1f} MB"


if __name__ == "__main__":
    main()
