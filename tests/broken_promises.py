"""Breaks each promise in a copy, and looks whether its test sees that.

    python -m tests.broken_promises [WORDS ...]

All of them, or those with one of these words in them; with all, the figures on the page are new.
A test has to pass before the fault is planted, and to fail after it, or to hang where what it looks
at waits for ever; one that can't run at all is no proof.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT, SHARED
from tests.figures import PAGE, put, versions
from tests.promises import PROMISES, Promise

# Of pytest: tests ran, and all passed, or some failed.
PASSED, FAILED = 0, 1
HANGS = -1
# That a test may take; those of the promises take a few.
SECONDS = 180
THREATS = PAGE.with_name("threat-model.md")


def main(*words: str) -> int:
    """Break what was asked for; return 1 where a test saw nothing."""
    chosen = [p for p in PROMISES if not words or any(word in p.words for word in words)]
    began, unseen = time.monotonic(), []
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "onnxgraft")
        _copied(copy)
        for promise in chosen:
            seen = _seen(promise, copy)
            unseen += [] if seen else [promise.words]
            print(f"{'seen' if seen else 'NOT SEEN'}: {promise.words}", flush=True)
    if not words:
        put("broken promises", [
            f"Run in {time.monotonic() - began:.0f} s on {versions()}", "",
            f"{len(chosen)} faults were planted, and {len(chosen) - len(unseen)} were seen.",
            *(f"- not seen: {promise}" for promise in unseen),
        ], THREATS)  # fmt: skip
    return 1 if unseen else 0


def _copied(copy: Path) -> None:
    """Copy what is under version control, as it is here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)


def _seen(promise: Promise, copy: Path) -> bool:
    """Tell whether the promise's test passes, and fails where it is broken."""
    if _outcome(promise.test, copy) != PASSED:
        print(f"  {promise.test} does not pass as it is")
        return False
    with broken(promise, copy):
        return _outcome(promise.test, copy) in (FAILED, HANGS)


@contextmanager
def broken(promise: Promise, copy: Path) -> Iterator[None]:
    """Plant the fault, and take it out again."""
    file = copy / promise.file
    text = file.read_text()
    try:
        file.write_text(text.replace(promise.kept, promise.broken, 1))
        yield
    finally:
        file.write_text(text)


def _outcome(test: str, copy: Path) -> int | None:
    """Return how pytest ends; None where nothing was tried."""
    file, _, name = test.partition("::")
    # Parameters may be left open: those that begin so.
    only = ["-k", name.replace("[", " and ").rstrip("]")] if "[" in name else []
    call = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    call += [file, *only] if only else [test]
    environment = {
        **os.environ, "CI": "1", "PYTHONPATH": str(copy / "src"), "ONNXGRAFT_SHARED": str(SHARED),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    try:
        done = subprocess.run(
            call, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return HANGS
    if re.search(r"\d+ (passed|failed)", done.stdout):
        return done.returncode
    # A model that is run where it should not be may end the tests themselves, in the middle.
    return None if re.search(r"\d+ (skipped|errors?)|no tests ran", done.stdout) else FAILED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
