"""Coverage-guided fuzzing of readers, by atheris (libFuzzer).

    python -m tests.fuzz.run READER ... --seconds 600 [--runs N] [--seed S] [--found FOLDER]

begins with each reader's corpus. An input that breaks what `readers` demands is written to the
folder ``crashes``, ends the reader's run with a traceback and the exit status 77, and belongs into
the reader's ``corpus/READER/crashers`` with the fix.

What takes longest is imported and instrumented once: each reader has a process that is forked then.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

# What is imported here is instrumented, and guides the fuzzing.
with atheris.instrument_imports(include=["onnxgraft", "tomllib"]):
    from tests.fuzz.readers import LIMIT, MEMORY, READERS, outcome, seeds
from tests.fuzz.mutator import mutated

MOST_BYTES = 1 << 14


def main() -> None:
    """Fuzz until the time or the number of inputs is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("readers", nargs="+", choices=READERS, metavar="READER")
    parser.add_argument("--seconds", type=int, default=60, help="For each reader.")
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"))
    parser.add_argument("--found", type=Path, help="Inputs of an earlier run, to go on with.")
    parser.add_argument("--jobs", type=int, default=1, help="Readers at a time.")
    parser.add_argument("--logs", type=Path, help="A folder for each reader's output.")
    options = parser.parse_args()
    options.crashes.mkdir(parents=True, exist_ok=True)
    left, running, worst = list(options.readers), set[int](), 0
    # libFuzzer ends its process at once; what is temporary is removed here.
    with tempfile.TemporaryDirectory() as place:
        while left or running:
            while left and len(running) < options.jobs:
                running.add(_forked(left.pop(0), options, Path(place)))
            child, status = os.wait()
            running.discard(child)
            worst = max(worst, abs(os.waitstatus_to_exitcode(status)))
    sys.exit(worst)


def _forked(reader: str, options: argparse.Namespace, place: Path) -> int:
    """Fuzz a reader in a process of its own, and return its id."""
    child = os.fork()
    if child:
        return child
    try:
        if options.logs is not None:
            handle = os.open(options.logs / f"{reader}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        _fuzz(reader, options, place / reader)
    except SystemExit:
        pass  # atheris has told of the exception
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not Python's, which would remove what is temporary; libFuzzer keeps the input when C ends.
    ctypes.CDLL(None).exit(1)
    raise AssertionError


def _fuzz(reader: str, options: argparse.Namespace, place: Path) -> None:
    work, found = place / "work", options.found or place / "found"
    work.mkdir(parents=True)
    found.mkdir(exist_ok=True)
    # What is imported inside functions is imported before anything is counted or watched.
    for path in seeds(reader):
        outcome(reader, path.read_bytes(), work)
    flags = [
        f"-max_total_time={options.seconds}",
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={MOST_BYTES}",
        # Of the clock: the limit is on processor time, and in `readers`.
        f"-timeout={90 * LIMIT:.0f}",
        f"-report_slow_units={90 * LIMIT:.0f}",
        f"-rss_limit_mb={2 * MEMORY}",
        f"-artifact_prefix={options.crashes}/{reader}-",
        "-print_final_stats=1",
    ]
    folders = [str(found), *{str(path.parent) for path in seeds(reader)}]
    atheris.Setup(
        [sys.argv[0], *flags, *folders],
        lambda data: _one(reader, data, work),
        custom_mutator=functools.partial(_mutated, READERS[reader].mutate),
    )
    atheris.Fuzz()


def _one(reader: str, data: bytes, folder: Path) -> None:
    outcome(reader, data, folder)


def _mutated(
    by_schema: Callable[[bytes, int, int], bytes | None] | None, data: bytes, most: int, seed: int
) -> bytes:
    """Change fields by their schema, where there is one, two times in three.

    Otherwise words where it is text, one time in two, and bytes.
    """
    if by_schema is not None and seed % 3:
        made = by_schema(data, most, seed)
        if made is not None:
            return made
    text = seed % 2 and b"\0" not in data
    return mutated(data, most, seed) if text else bytes(atheris.Mutate(data, most))


if __name__ == "__main__":
    main()
