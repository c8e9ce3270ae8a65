"""Mutated ONNX files, frozen TensorFlow graphs and Caffe nets through the whole conversion.

    python -m tests.fuzz.mutants KIND COUNT [--seed S]

KIND is ``onnx``, ``tensorflow`` or ``caffe``. Each mutant goes through the conversion, the clean-up
and the comparison in a process that was forked for it, with limits on memory and time. It ends in a
model, in one of our own errors, or in a crash or a limit of a library, which the command line makes
a sentence, as it runs everything in a process of its own: those are counted, and told by name.
Anything else is a traceback, and an error.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxgraft import commands
from onnxgraft.errors import OnnxgraftError
from onnxgraft.stages.convert.caffe import LAYERS
from tests.figures import part, put, today, versions

__all__ = ["KINDS", "Tried", "tried"]

SECONDS, MEMORY = 30, 4 << 30
# The status by which a forked process tells what came of its mutant.
_CONVERTED, _REFUSED, _WRONG, _MEMORY = 0, 2, 70, 71
# The files of a network by their names: that of the model is the first.
Files = dict[str, bytes]

_ONNX = [
    """n (float[N,3,8,8] x) => (float[N,4] y) {
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = BatchNormalization (a, s, o, o, s)
    c = Relu (b)
    d = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c)
    e = Transpose <perm = [0,2,3,1]> (d)
    f = Reshape (e, shape)
    y = MatMul (f, m) }""",
    """n (bool c, float[2,3] x) => (float[2,3] y) {
    t = Transpose <perm = [1,0]> (x)
    u = Transpose <perm = [1,0]> (t)
    k = Shape (x)
    r = Reshape (u, k)
    z = If (c) <then_branch = p () => (float[2,3] v) { v = Add (r, one) },
                else_branch = q () => (float[2,3] w2) { w2 = Relu (r) }>
    y = Identity (z) }""",
    """n (float[1,4,6] x) => (float[1,2,6] y, float[1,2,6] z) {
    y, z = Split <axis = 1> (g)
    g = Concat <axis = 1> (h, i)
    h, i = Split <axis = 1> (x) }""",
]


def onnx_seeds() -> list[Files]:
    """Return small ONNX models that the clean-up has something to do in."""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "s": np.ones(4, np.float32),
        "o": np.zeros(4, np.float32), "shape": np.array([0, -1]),
        "m": rng.normal(size=(64, 4)).astype(np.float32), "one": np.ones((2, 3), np.float32),
    }  # fmt: skip
    made = []
    for text in _ONNX:
        body = text if not text.startswith("n (float[1,4") else _sorted(text)
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{body}')
        used = {name for node in proto.graph.node for name in node.input} | {"one"}
        for name, value in constants.items():
            if name in used:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        made.append({"net.onnx": proto.SerializeToString()})
    return made


def _sorted(text: str) -> str:
    head, *lines = text.removesuffix(" }").splitlines()
    return "\n".join([head, *reversed(lines), "}"])


def tensorflow_seeds() -> list[Files]:
    """Return frozen graphs: convolution, batch norm in primitive operators, a select, a shape."""
    import tensorflow as tf

    made = []
    for training in (False, True):
        graph = tf.Graph()
        with graph.as_default():
            rng = np.random.default_rng(0)
            x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], "x")
            w = tf.constant(rng.normal(size=(3, 3, 3, 4)), tf.float32)
            y = tf.nn.conv2d(x, w, 1, "SAME")
            y = y * tf.constant(rng.normal(size=4), tf.float32) + 0.5
            if training:
                flag = tf.compat.v1.placeholder_with_default(False, [], "is_training")
                y = tf.where(flag, y * 2.0, y)
            y = tf.nn.max_pool2d(tf.nn.relu(y), 2, 2, "VALID")
            y = tf.reshape(y, tf.stack([tf.shape(y)[0], 64]))
            tf.nn.softmax(tf.matmul(y, tf.constant(rng.normal(size=(64, 5)), tf.float32)), name="y")
        made.append({"net.pb": graph.as_graph_def().SerializeToString()})
    return made


def caffe_seeds() -> list[Files]:
    """Return narrow networks of every sort that Caffe was used for."""
    from models.caffe_batchnorm import mobilenet_v2
    from models.caffe_classifiers import googlenet, lenet
    from models.caffe_detection import ssd300
    from models.caffe_segmentation import segnet_basic

    networks = (
        lenet(width=0.1), googlenet(width=0.05, size=64, classes=5),
        mobilenet_v2(width=0.1, size=32, classes=5), segnet_basic(width=0.1), ssd300(width=0.05),
    )  # fmt: skip
    return [{"net.prototxt": text.encode(), "net.caffemodel": blobs} for text, blobs in networks]


NUMBERS = (0, 1, -1, 2, 3, 7, 65536, 2**31 - 1, 2**40, -(2**63))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return data with a few bytes flipped, cut, repeated or replaced."""
    parts = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, len(parts)))
        kind = rng.randrange(4)
        if kind == 0 and parts:
            parts[at % len(parts)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del parts[at : at + rng.randrange(1, 40)]
        elif kind == 2:
            parts[at:at] = parts[at : at + rng.randrange(1, 200)]
        else:
            parts[at : at + 1] = rng.choice([b"\xff" * 9 + b"\x01", b"\0", b"\x80", b"\x0a\xff"])
    return bytes(parts)


def changed(message: Any, rng: random.Random) -> None:
    """Change one scalar somewhere in a protobuf message, drop or repeat an entry."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = rng.choice(fields)
        repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        if repeated and hasattr(value, "keys"):
            message = value[rng.choice(list(value.keys()))]
            if not hasattr(message, "ListFields"):
                return
            continue
        if repeated:
            index = rng.randrange(len(value))
            if rng.random() < 0.1:
                del value[index]
                return
            if hasattr(value[index], "ListFields"):
                if rng.random() < 0.05:
                    value.add().CopyFrom(value[index])
                    return
                message = value[index]
                continue
            new = _other(value[index], rng, message)
        elif hasattr(value, "ListFields"):
            message = value
            continue
        else:
            new = _other(value, rng, message)
        try:
            if repeated:
                value[index] = new
            else:
                setattr(message, field.name, new)
        except (TypeError, ValueError):
            pass
        return


def _other(value: Any, rng: random.Random, message: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(NUMBERS)
    if isinstance(value, float):
        return rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e38])
    if isinstance(value, bytes):
        return damaged(value, rng)
    words = ["", "x", "y", "Relu", "Conv", "Add", "Reshape", "a/b:0", "^x", value + value, "\x7f"]
    return rng.choice(words)


def onnx_mutant(files: Files, rng: random.Random) -> Files:
    """Return an ONNX file with something changed."""
    return _message_mutant(files, onnx.ModelProto, rng)


def tensorflow_mutant(files: Files, rng: random.Random) -> Files:
    """Return a frozen graph with something changed."""
    from tensorflow.core.framework import graph_pb2

    return _message_mutant(files, graph_pb2.GraphDef, rng)


def _message_mutant(files: Files, kind: Any, rng: random.Random) -> Files:
    [(name, data)] = files.items()
    if rng.random() < 0.3:
        return {name: damaged(data, rng)}
    message = kind.FromString(data)
    for _ in range(rng.randint(1, 3)):
        whole = kind is not onnx.ModelProto or rng.random() < 0.1
        changed(message if whole else message.graph, rng)
    return {name: message.SerializeToString()}


def caffe_mutant(files: Files, rng: random.Random) -> Files:
    """Return a net or its weights with something changed."""
    (net, text), (weights, blobs) = files.items()
    kind = rng.random()
    if kind < 0.6:
        for _ in range(rng.randint(1, 3)):
            text = _other_net(text.decode(), rng).encode()
    elif kind < 0.8:
        text = damaged(text, rng)
    else:
        blobs = damaged(blobs, rng)
    return {net: text, weights: blobs}


FIELDS = ("axis: -1", "axis: 3", "num_axes: -1", "stride: 3", "pad: 1", "kernel_size: 2",
          "offset: 1", "global_pooling: true", "num_output: 3", "group: 2")  # fmt: skip


def _other_net(text: str, rng: random.Random) -> str:
    """Return a net with a type, a number, a blob or a whole line changed."""
    blobs = re.findall(r'(?<=bottom: ")[^"]+', text) or [""]
    numbers = (*NUMBERS, 100, 99999999999, "1e38", "nan")
    pattern, make = rng.choice((
        (r'(?<=type: ")\w+(?=")', lambda old: rng.choice(list(LAYERS))),
        (r"\b\d+\b", lambda old: str(rng.choice(numbers))),
        (r'(?<=bottom: ")[^"]+', lambda old: rng.choice(blobs)),
        (r"(?m)^\s*\w+: .*$", lambda old: ""),
        (r"(?m)^\s*\w+: .*$", lambda old: f"{old}\n{old}"),
        (r"_param \{", lambda old: f"{old} {rng.choice(FIELDS)} "),
    ))  # fmt: skip
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    place = rng.choice(found)
    return text[: place.start()] + make(place.group()) + text[place.end() :]


@dataclass(frozen=True)
class Kind:
    """Networks of a framework.

    Attributes:
        seeds: Makes sound ones.
        mutate: Returns one with something changed.
        imports: What is imported before a process is forked, as each would do it again.
    """

    seeds: Callable[[], list[Files]]
    mutate: Callable[[Files, random.Random], Files]
    imports: tuple[str, ...] = ("onnxruntime",)


KINDS = {
    "onnx": Kind(onnx_seeds, onnx_mutant),
    "tensorflow": Kind(tensorflow_seeds, tensorflow_mutant, ("onnxruntime", "tf2onnx")),
    "caffe": Kind(caffe_seeds, caffe_mutant, ("onnxruntime", "cv2")),
}


@dataclass
class Tried:
    """What came of mutants.

    Attributes:
        outcomes: How often which was.
        wrong: Sentences about what may not be.
        peak: Kilobytes that the largest of the processes took.
    """

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    peak: int = 0


def tried(kind: str, count: int, seed: int = 0) -> Tried:
    """Convert so many mutants."""
    how = KINDS[kind]
    seeds, rng = how.seeds(), random.Random(seed)
    for module in how.imports:
        importlib.import_module(module)
    found = Tried()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(count):
            sound = number < len(seeds)
            files = seeds[number % len(seeds)]
            files = files if sound else how.mutate(files, rng)
            for name, data in files.items():
                (folder / name).write_bytes(data)
            log = folder.parent / f"{folder.name}.log"
            status, peak = _forked([folder / name for name in files], log)
            found.peak = max(found.peak, peak)
            told = log.read_text(errors="replace").strip()
            log.unlink()
            outcome = _outcome(status)
            found.outcomes[outcome] += 1
            left = {path.name for path in folder.iterdir()} - set(files)
            if outcome == "wrong" or left or (sound and outcome != "converted"):
                found.wrong.append(
                    f"mutant {number} of seed {seed}: {outcome} {left or ''}\n{told}"
                )
            if outcome == "crashed" and os.environ.get("MUTANTS"):
                for name, data in files.items():
                    kept = f"{kind}-{seed}-{number}-{name}"
                    Path(os.environ["MUTANTS"], kept).write_bytes(data)
    return found


def _outcome(status: int) -> str:
    if status < 0:
        late = -status in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
        return "too long" if late else "crashed"
    return {_CONVERTED: "converted", _REFUSED: "refused", _MEMORY: "too large"}.get(status, "wrong")


def _forked(files: list[Path], log: Path) -> tuple[int, int]:
    """Convert in a process of its own; return its exit status and the kilobytes that it took."""
    child = os.fork()
    if child:
        _, status, usage = os.wait4(child, 0)
        return os.waitstatus_to_exitcode(status), usage.ru_maxrss
    status = _WRONG
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(20 * SECONDS)
        commands.convert(files[0], weights=files[1] if files[1:] else None)
        status = _CONVERTED
    except OnnxgraftError as error:
        status = _REFUSED if len(str(error).splitlines()) == 1 else _WRONG
        print(error)
    except MemoryError:
        status = _MEMORY
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Convert mutants, and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = time.monotonic()
    found = tried(options.kind, options.count, options.seed)
    for text in found.wrong:
        print(text, file=sys.stderr)
    columns = ("converted", "refused", "too large", "too long", "crashed", "wrong")
    row = " | ".join(str(found.outcomes[name]) for name in columns)
    table = {
        line.split(" | ")[0].removeprefix("| "): line
        for line in part("mutants").splitlines()
        if line.startswith("| ") and not line.startswith(("| kind", "|---"))
    }
    spent = time.monotonic() - begin
    table[options.kind] = f"| {options.kind} | {options.count} | {row} | {spent:.0f} | {today()} |"
    put("mutants", [
        f"The last of them on {versions('onnx', 'onnxruntime', 'tensorflow-cpu', 'tf2onnx')}",
        "",
        f"| kind | mutants | {' | '.join(columns)} | seconds | on |",
        f"|---|---|{'---|' * len(columns)}---|---|",
        *table.values(),
    ])  # fmt: skip
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
