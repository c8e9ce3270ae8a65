"""The long fuzzing, one reader after the other; its figures go into docs/security-figures.md.

    python -m tests.fuzz.long --seconds 600 [READER ...]

A reader goes on after a crash until its time is over. Rows of readers that are not named stay.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.figures import part, put, today, versions
from tests.fuzz.readers import READERS

_HEAD = [
    "| reader | inputs tried | seconds | crashes | peak MB | on |",
    "|---|---|---|---|---|---|",
]


def fuzz(reader: str, seconds: int, crashes: Path) -> str:
    """Return the row of a reader."""
    tried = peak = failed = 0
    begin = time.monotonic()
    before = set(crashes.glob("*"))
    number = 0
    with tempfile.TemporaryDirectory() as found:
        while (left := seconds - int(time.monotonic() - begin)) > 0:
            number += 1
            done = subprocess.run(
                [
                    sys.executable, "-m", "tests.fuzz.run", reader, "--seconds", str(left),
                    "--seed", str(number), "--crashes", crashes, "--found", found,
                ],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
            tried += _statistic(done.stdout, "number_of_executed_units")
            peak = max(peak, _statistic(done.stdout, "peak_rss_mb"))
            if done.returncode:
                failed += 1
                print(done.stdout[-4000:], file=sys.stderr)
    spent = time.monotonic() - begin
    broken = max(failed, len(set(crashes.glob("*")) - before))
    return f"| {reader} | {tried:,} | {spent:.0f} | {broken} | {peak} | {today()} |"


def _statistic(log: str, name: str) -> int:
    found = re.search(rf"stat::{name}:\s*(\d+)", log)
    return int(found[1]) if found else 0


def main() -> None:
    """Fuzz, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("readers", nargs="*", choices=[*READERS, []])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"))
    options = parser.parse_args()
    options.crashes.mkdir(parents=True, exist_ok=True)
    for reader in options.readers or READERS:
        row = fuzz(reader, options.seconds, options.crashes)
        rows = dict(re.findall(r"(?m)^\| (\w+) (\|.*)$", part("fuzzing")))
        rows.pop("reader", None)
        rows[reader] = row.removeprefix(f"| {reader} ")
        table = [f"| {name} {rows[name]}" for name in READERS if name in rows]
        put("fuzzing", [f"The last of them on {versions('atheris')}", "", *_HEAD, *table])


if __name__ == "__main__":
    main()
