"""Mutated ONNX files and frozen TensorFlow graphs through the whole conversion.

    python -m tests.fuzz.mutants KIND COUNT [--seed S]

KIND is ``onnx`` or ``tensorflow``. Each mutant goes through the conversion, the clean-up and the
comparison in a process that was forked for it, with limits on memory and time. It ends in a model,
in one of our own errors, or in a crash or a limit of a library, which the command line turns into
a sentence, as it runs everything in a process of its own: those are counted, and told by name.
Anything else is a traceback, and an error.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxgraft import pipeline
from onnxgraft.errors import OnnxgraftError
from tests.figures import part, put, today, versions

__all__ = ["KINDS", "Outcomes", "tried"]

SECONDS, MEMORY = 30, 4 << 30
# The status by which a forked process tells what came of its mutant.
_CONVERTED, _REFUSED, _WRONG, _MEMORY = 0, 2, 70, 71
Outcomes = collections.Counter[str]

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


def onnx_seeds() -> list[bytes]:
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
        made.append(proto.SerializeToString())
    return made


def _sorted(text: str) -> str:
    head, *lines = text.removesuffix(" }").splitlines()
    return "\n".join([head, *reversed(lines), "}"])


def tensorflow_seeds() -> list[bytes]:
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
        made.append(graph.as_graph_def().SerializeToString())
    return made


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


def onnx_mutant(data: bytes, rng: random.Random) -> bytes:
    """Return an ONNX file with something changed."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    proto = onnx.ModelProto.FromString(data)
    for _ in range(rng.randint(1, 3)):
        changed(proto.graph if rng.random() < 0.9 else proto, rng)
    return bytes(proto.SerializeToString())


def tensorflow_mutant(data: bytes, rng: random.Random) -> bytes:
    """Return a frozen graph with something changed."""
    from tensorflow.core.framework import graph_pb2

    if rng.random() < 0.3:
        return damaged(data, rng)
    proto = graph_pb2.GraphDef.FromString(data)
    for _ in range(rng.randint(1, 3)):
        changed(proto, rng)
    return bytes(proto.SerializeToString())


KINDS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[bytes, random.Random], bytes]]] = {
    "onnx": ("net.onnx", onnx_seeds, onnx_mutant),
    "tensorflow": ("net.pb", tensorflow_seeds, tensorflow_mutant),
}


def tried(kind: str, count: int, seed: int = 0) -> tuple[Outcomes, list[str]]:
    """Convert so many mutants; return how often which outcome was, and what was wrong."""
    name, make, mutate = KINDS[kind]
    seeds, rng = make(), random.Random(seed)
    outcomes: Outcomes = collections.Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(count):
            data = seeds[number % len(seeds)]
            (folder / name).write_bytes(data if number < len(seeds) else mutate(data, rng))
            log = folder.parent / f"{folder.name}.log"
            status = _forked(folder / name, log)
            told = log.read_text(errors="replace").strip()
            log.unlink()
            outcome = _outcome(status)
            outcomes[outcome] += 1
            left = {path.name for path in folder.iterdir()} - {name}
            if outcome == "wrong" or left or (number < len(seeds) and outcome != "converted"):
                wrong.append(f"mutant {number} of seed {seed}: {outcome} {left or ''}\n{told}")
            if outcome == "crashed" and os.environ.get("MUTANTS"):
                Path(os.environ["MUTANTS"], f"{kind}-{seed}-{number}").write_bytes(
                    (folder / name).read_bytes()
                )
    return outcomes, wrong


def _outcome(status: int) -> str:
    if status < 0:
        late = -status in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
        return "too long" if late else "crashed"
    return {_CONVERTED: "converted", _REFUSED: "refused", _MEMORY: "too large"}.get(status, "wrong")


def _forked(path: Path, log: Path) -> int:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    status = _WRONG
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(20 * SECONDS)
        pipeline.convert(path)
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
    outcomes, wrong = tried(options.kind, options.count, options.seed)
    for text in wrong:
        print(text, file=sys.stderr)
    columns = ("converted", "refused", "too large", "too long", "crashed", "wrong")
    row = " | ".join(str(outcomes[name]) for name in columns)
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
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
