"""The long fuzzing, one reader after the other; its figures go into docs/security-figures.md.

    python -m tests.fuzz.long --seconds 600 [--add] [--found FOLDER] [READER ...]

A reader goes on after a crash until its time is over. Rows of readers that are not named stay. With
--add those that are named are added to: so the hours of a reader can be those of several runs, and
the row says from when to when. Such a run begins with another seed than those before it, and where
FOLDER is kept, with the inputs that they found.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.figures import part, put, today, versions
from tests.fuzz.readers import READERS

_HEAD = [
    "| reader | inputs tried | seconds | crashes | peak MB | on |",
    "|---|---|---|---|---|---|",
]


@dataclass(frozen=True)
class Row:
    """What came of fuzzing one reader.

    Attributes:
        tried: Inputs.
        seconds: Of the processor.
        crashes: Of the reader.
        peak: MB of memory, at most.
        on: The day, or the first and the last.
    """

    tried: int
    seconds: int
    crashes: int
    peak: int
    on: str

    @classmethod
    def read(cls, text: str) -> Row:
        """Read what `str` made."""
        tried, seconds, crashes, peak, on = (cell.strip() for cell in text.strip("| ").split("|"))
        return cls(int(tried.replace(",", "")), int(seconds), int(crashes), int(peak), on)

    def __add__(self, later: Row) -> Row:
        """Return both runs as one."""
        first = self.on.split(" to ")[0]
        return Row(
            self.tried + later.tried,
            self.seconds + later.seconds,
            self.crashes + later.crashes,
            max(self.peak, later.peak),
            later.on if first == later.on else f"{first} to {later.on}",
        )

    def __str__(self) -> str:
        """Return it as it stands in the table, without the reader's name."""
        return f"| {self.tried:,} | {self.seconds} | {self.crashes} | {self.peak} | {self.on} |"


def fuzz(reader: str, seconds: int, crashes: Path, kept: Path, seed: int) -> Row:
    """Fuzz a reader for so many seconds of the processor, which other work may share.

    Args:
        reader: Its name.
        seconds: Of the processor.
        crashes: Where inputs go that it crashes on.
        kept: Where inputs go that do something new; what is there already is begun with.
        seed: The first; each time that it begins again takes the next.
    """
    tried = peak = failed = 0
    begin = _processor_time()
    before = set(crashes.glob(f"{reader}-*"))
    while (left := seconds - int(_processor_time() - begin)) > 0:
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.run", reader, "--seconds", str(left),
                "--seed", str(seed), "--crashes", crashes, "--found", kept,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        seed += 1
        tried += _statistic(done.stdout, "number_of_executed_units")
        peak = max(peak, _statistic(done.stdout, "peak_rss_mb"))
        if done.returncode:
            failed += 1
            print(done.stdout[-4000:], file=sys.stderr)
    spent = _processor_time() - begin
    broken = max(failed, len(set(crashes.glob(f"{reader}-*")) - before))
    return Row(tried, round(spent), broken, peak, today())


def _processor_time() -> float:
    """Return what the processes that have ended took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _statistic(log: str, name: str) -> int:
    found = re.search(rf"stat::{name}:\s*(\d+)", log)
    return int(found[1]) if found else 0


def rows_there() -> dict[str, str]:
    """Return the rows on the page, by reader."""
    rows = dict(re.findall(r"(?m)^\| (\w+) (\|.*)$", part("fuzzing")))
    rows.pop("reader", None)
    return rows


def write(rows: Mapping[str, str]) -> None:
    """Write the table, of rows by reader."""
    names = [name for name in READERS if name in rows]
    seconds = [Row.read(rows[name]).seconds for name in names]
    hours = (
        f"{sum(seconds) / 3600:.1f} hours in all, {min(seconds) / 60:.0f} to "
        f"{max(seconds) / 60:.0f} minutes of a reader; "
        f"{sum(one >= 3600 for one in seconds)} of {len(READERS)} have had an hour."
    )
    table = [f"| {name} {rows[name]}" for name in names]
    put("fuzzing", [f"The last of them on {versions('atheris')}", "", *_HEAD, *table, "", hours])


def main() -> None:
    """Fuzz, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("readers", nargs="*", choices=[*READERS, []])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"))
    parser.add_argument("--add", action="store_true", help="to the figures that stand there")
    parser.add_argument("--found", type=Path, help="folder of what is found, a folder a reader")
    options = parser.parse_args()
    options.crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as passing:
        for reader in options.readers or READERS:
            before = (
                Row.read(rows_there()[reader]) if options.add and reader in rows_there() else None
            )
            kept = (options.found or Path(passing)) / reader
            kept.mkdir(parents=True, exist_ok=True)
            # What was tried before tells one run from another.
            seed = 1 + (0 if before is None else before.tried % 2**31)
            row = fuzz(reader, options.seconds, options.crashes, kept, seed)
            row = row if before is None else before + row
            write({**rows_there(), reader: str(row)})


if __name__ == "__main__":
    main()
