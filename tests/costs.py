"""Measures what parsing takes, field by field: `python -m tests.costs MODULE.CLASS`.

Each field of each message is there 20,000 times in one message, and a process of its own parses it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxgraft.files.schema import Costs, schema
from onnxgraft.files.survey import survey
from tests.hostile import field, varint

COUNT = 20_000
# What the system counts in pages, and what the arena keeps for later.
_FREE = 600_000


def paths(root: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the shortest path to each field that can be in a message."""
    seen: dict[str, tuple[Any, ...]] = {root.full_name: ()}
    left = [root]
    for kind in left:
        for entry in kind.fields:
            path = (*seen[kind.full_name], entry)
            yield path
            inner = entry.message_type
            if inner is not None and inner.full_name not in seen:
                seen[inner.full_name] = path
                left.append(inner)


def flood(path: Sequence[Any]) -> bytes:
    """Return a message that has the last field of a path so often."""
    *above, last = path
    wire = {1: 1, 6: 1, 16: 1, 2: 5, 7: 5, 15: 5, 9: 2, 11: 2, 12: 2}.get(last.type, 0)
    value = {0: b"\x01", 1: bytes(8), 2: b"\x00", 5: bytes(4)}[wire]
    data = (varint(last.number << 3 | wire) + value) * COUNT
    for entry in reversed(above):
        data = field(entry.number, data)
    return data


def taken(parse: Any, data: bytes) -> int:
    """Return the bytes by which the memory of a process grows that parses a message."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident()
        kept = parse(data)
        os.write(into, str(resident() - before).encode())
        os._exit(0 if kept is not None else 1)
    os.close(into)
    with open(out, "rb") as file:
        told = file.read()
    os.waitpid(child, 0)
    return int(told)


def resident() -> int:
    """Return the bytes of memory that this process takes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"VmRSS:\s*(\d+)", text)[0])


def main() -> None:
    """Print what parsing takes and what is counted for it, by the path of the field."""
    module, _, name = sys.argv[1].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    known = schema(kind.DESCRIPTOR, Costs(copies=1))
    found = {}
    for path in paths(kind.DESCRIPTOR):
        data = flood(path)
        counted = survey(memoryview(data), known, "").taken
        found[".".join(entry.name for entry in path)] = (
            (taken(kind.FromString, data) - _FREE) / COUNT, counted / COUNT,
        )  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
