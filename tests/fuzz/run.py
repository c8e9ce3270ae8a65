"""Coverage-guided fuzzing of one reader, by atheris (libFuzzer).

    python -m tests.fuzz.run READER --seconds 600 [--runs N] [--seed S] [--found FOLDER]

begins with the reader's corpus. An input that breaks what `readers` demands is written to the
folder ``crashes``, ends the run with a traceback and the exit status 77, and belongs into the
reader's ``corpus/READER/crashers`` with the fix.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"))
    parser.add_argument("--found", type=Path, help="Inputs of an earlier run, to go on with.")
    options = parser.parse_args()
    options.crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        work, found = Path(place, "work"), options.found or Path(place, "found")
        work.mkdir()
        found.mkdir(exist_ok=True)
        # What is imported inside functions is imported before anything is counted or watched.
        for path in seeds(options.reader):
            outcome(options.reader, path.read_bytes(), work)
        flags = [
            f"-max_total_time={options.seconds}",
            f"-runs={options.runs}",
            f"-seed={options.seed}",
            f"-max_len={MOST_BYTES}",
            # Of the clock: the limit is on processor time, and in `readers`.
            f"-timeout={90 * LIMIT:.0f}",
            f"-report_slow_units={90 * LIMIT:.0f}",
            f"-rss_limit_mb={2 * MEMORY}",
            f"-artifact_prefix={options.crashes}/{options.reader}-",
            "-print_final_stats=1",
        ]
        folders = [str(found), *{str(path.parent) for path in seeds(options.reader)}]
        atheris.Setup(
            [sys.argv[0], *flags, *folders],
            lambda data: _one(options.reader, data, work),
            custom_mutator=_mutated,
        )
        atheris.Fuzz()


def _one(reader: str, data: bytes, folder: Path) -> None:
    outcome(reader, data, folder)


def _mutated(data: bytes, most: int, seed: int) -> bytes:
    """Change words where it is text, one time in two, and bytes otherwise."""
    text = seed % 2 and b"\0" not in data
    return mutated(data, most, seed) if text else bytes(atheris.Mutate(data, most))


if __name__ == "__main__":
    main()
