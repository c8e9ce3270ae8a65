"""Mutated nets, drawn by hypothesis, through the whole conversion with its comparison in OpenCV.

    python -m tests.convert.caffe.mutants COUNT

prints how many were converted and how many were refused; anything else is a traceback.
"""

from __future__ import annotations

import collections
import random
import re
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.caffe_batchnorm import mobilenet_v2
from models.caffe_classifiers import googlenet, lenet
from models.caffe_detection import ssd300
from models.caffe_segmentation import segnet_basic
from onnxgraft import pipeline
from onnxgraft.convert.caffe import LAYERS
from onnxgraft.errors import InputError

SEEDS = [
    lenet(width=0.1),
    googlenet(width=0.05, size=64, classes=5),
    mobilenet_v2(width=0.1, size=32, classes=5),
    segnet_basic(width=0.1),
    ssd300(width=0.05),
]
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "-1",
    "100",
    "65536",
    "2147483647",
    "99999999999",
    "1e38",
    "nan",
]
FIELDS = ["axis: -1", "axis: 3", "num_axes: -1", "stride: 3", "pad: 1", "kernel_size: 2",
          "offset: 1", "global_pooling: true", "num_output: 3", "group: 2"]  # fmt: skip
BYTES = [b"{", b"}", b":", b'"', b"#", b"\\", b"\xff" * 9 + b"\x01", b"\x08", b"\xa2\x06", b"\x00"]


def meaningful(text: str, rng: random.Random) -> str:
    """Return a net with a type, a number, a blob or a whole line changed."""
    kind = rng.randrange(6)
    if kind == 0:
        pattern, make = r'(?<=type: ")\w+(?=")', lambda old: rng.choice(list(LAYERS))
    elif kind == 1:
        pattern, make = r"\b\d+\b", lambda old: rng.choice(NUMBERS)
    elif kind == 2:
        blobs = re.findall(r'(?<=bottom: ")[^"]+', text)
        pattern, make = r'(?<=bottom: ")[^"]+', lambda old: rng.choice(blobs)
    elif kind == 3:
        pattern, make = r"(?m)^\s*\w+: .*$", lambda old: ""
    elif kind == 4:
        pattern, make = r"(?m)^\s*\w+: .*$", lambda old: f"{old}\n{old}"
    else:
        pattern, make = r"_param \{", lambda old: f"{old} {rng.choice(FIELDS)} "
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    place = rng.choice(found)
    return text[: place.start()] + make(place.group()) + text[place.end() :]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return data with a few bytes flipped, cut, repeated or replaced by telling ones."""
    parts = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(max(1, len(parts)))
        kind = rng.randrange(4)
        if kind == 0 and parts:
            parts[at % len(parts)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del parts[at : at + rng.randrange(1, 40)]
        elif kind == 2:
            parts[at:at] = parts[at : at + rng.randrange(1, 200)]
        else:
            word = rng.choice(BYTES)
            parts[at : at + len(word)] = word
    return bytes(parts)


def main() -> None:
    """Convert so many mutants."""
    outcomes: collections.Counter[str] = collections.Counter()
    folder = Path(tempfile.mkdtemp())
    count = int(sys.argv[1])

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(seed=st.integers(0, 1 << 48), which=st.sampled_from(range(len(SEEDS))))
    def convert(seed: int, which: int) -> None:
        rng = random.Random(seed)
        text, blobs = SEEDS[which]
        net = text.encode()
        if rng.random() < 0.6:
            for _ in range(rng.randint(1, 3)):
                text = meaningful(text, rng)
            net = text.encode()
        elif rng.random() < 0.5:
            net = damaged(net, rng)
        else:
            blobs = damaged(blobs, rng)
        (folder / "net.prototxt").write_bytes(net)
        (folder / "net.caffemodel").write_bytes(blobs)
        try:
            pipeline.convert(folder / "net.prototxt", weights=folder / "net.caffemodel")
            outcomes["converted"] += 1
        except InputError as error:
            assert str(error)
            outcomes["refused"] += 1

    convert()
    print(outcomes["converted"], outcomes["refused"])


if __name__ == "__main__":
    main()
