"""Progress: bars on a terminal and in notebooks, and records of `logging` everywhere.

The logger ``onnxgraft`` is told of every stage. Who runs commands from Python puts a handler on it;
on the command line `reporting` does.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from onnxgraft.errors import printable, wrapped
from onnxgraft.notebook import Bars, in_notebook
from onnxgraft.notices import NOTICE, logger

__all__ = ["Steps", "console", "hidden", "logger", "reporting", "status", "steps", "told", "track"]

T = TypeVar("T")
# Told the phase, how many of its steps are done, and how many there are.
Steps = Callable[[str, int, int], None]

# So often a long work is told of off a terminal, in seconds.
_MINUTE = 60.0
# What runs, the outermost first: its description, and how many of how many steps are done.
_running: list[dict[str, tuple[int, int]]] = []
_bars = True
_thread = threading.local()


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Show no bars of what the block does in this thread: who started it tells how far it is."""
    before = getattr(_thread, "hidden", False)
    _thread.hidden = True
    try:
        yield
    finally:
        _thread.hidden = before


def console() -> Console:
    """Return the console on standard error, where everything but results is written."""
    return Console(stderr=True)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield ``items`` under a progress bar that disappears at the end."""
    if getattr(_thread, "hidden", False):
        yield from items
        return
    with _progress() as bar, told(description) as tell:
        task = bar.add_task(description, total=total)
        for done, item in enumerate(items):
            tell(description, done, total)
            yield item
            bar.advance(task)


@contextlib.contextmanager
def steps(description: str) -> Iterator[Steps]:
    """Yield a function that moves a bar for each phase of a work that tells how far it is."""
    with _progress() as bar, told(description) as tell_all:
        bar.add_task(description, total=None)
        tasks: dict[str, TaskID] = {}

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(f"  {phase}", total=total)
            bar.update(tasks[phase], completed=done, total=total, visible=done < total)
            tell_all(phase, done, total)

        yield tell


@contextlib.contextmanager
def status(description: str) -> Iterator[None]:
    """Show ``description`` with a spinner while the block runs."""
    screen = console()
    with contextlib.ExitStack() as stack:
        stack.enter_context(told(description))
        if in_notebook():
            stack.enter_context(Bars()).add_task(description)
        elif _bars and screen.is_terminal:
            stack.enter_context(screen.status(description))
        yield


def _progress() -> Progress | Bars:
    if in_notebook():
        return Bars()
    screen = console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not (_bars and screen.is_terminal),
    )


@contextlib.contextmanager
def told(description: str) -> Iterator[Steps]:
    """Have the block among what runs, and yield a function that says how far it is."""
    logger.debug("%s", description)
    mine: dict[str, tuple[int, int]] = {description: (0, 0)}

    def tell(phase: str, done: int, total: int) -> None:
        mine[phase] = (done, total)

    _running.append(mine)
    try:
        yield tell
    finally:
        _running[:] = [work for work in _running if work is not mine]


def _now() -> str:
    """Return what runs, and how far it is, in words; empty where nothing does."""
    found = []
    for work in list(_running):
        phases = list(work.items())
        left = [phase for phase in phases[1:] if phase[1][0] < phase[1][1]]
        for phase, (done, total) in [phases[0], *left]:
            found.append(f"{phase}, {done} of {total}" if total else phase)
    return "; ".join(found)


# The command line ----------------------------------------------------------------------------


@contextlib.contextmanager
def reporting(name: str, *, verbose: bool, quiet: bool, file: Path | None) -> Iterator[None]:
    """Tell on standard error, and in a file, what the block does.

    Off a terminal, and where it is verbose, there is a line for each stage, and one a minute in
    long ones; else there are bars. Notices and warnings are told in both cases.

    Args:
        name: Of the command.
        verbose: Tell everything that is decided too.
        quiet: Tell nothing, on standard error.
        file: Gets everything, with times, behind what it has; and the error that ends the block.
    """
    global _bars
    lines = verbose or not console().is_terminal
    screen: logging.Handler = _Screen()
    screen.setFormatter(_Line(f"onnxgraft {name}: %(message)s"))
    screen.setLevel(logging.DEBUG if verbose else logging.INFO if lines else NOTICE)
    handlers = [] if quiet else [screen]
    if file is not None:
        log = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        log.setLevel(logging.DEBUG)
        log.setFormatter(_Line(f"%(asctime)s onnxgraft {name}: %(message)s"))
        handlers.append(log)
    before, level = _bars, logger.level
    _bars = not (lines or quiet)
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(min((handler.level for handler in handlers), default=logging.CRITICAL))
    ended = threading.Event()
    threading.Thread(target=_each_minute, args=(ended,), daemon=True).start()
    try:
        yield
    except BaseException as error:
        if file is not None:  # the command line prints it, too
            log.handle(logger.makeRecord(
                logger.name, logging.ERROR, __file__, 0, "%s: %s",
                (type(error).__name__, error), None,
            ))  # fmt: skip
        raise
    finally:
        ended.set()
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        _bars = before
        logger.setLevel(level)


class _Screen(logging.Handler):
    """Standard error, which bars may have taken over meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if sys.stderr.isatty():
            text = wrapped(text, console().width)
        print(text, file=sys.stderr)


class _Line(logging.Formatter):
    """A record in one line, whatever a stranger's names in it are."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        record.message = f"warning: {text}" if record.levelno == logging.WARNING else text
        record.asctime = self.formatTime(record)
        return printable(self.formatMessage(record))


def _each_minute(ended: threading.Event) -> None:
    begin = time.monotonic()
    while not ended.wait(_MINUTE):
        now = _now()
        if now:
            logger.info("%s (%.0f min)", now, (time.monotonic() - begin) / 60)
