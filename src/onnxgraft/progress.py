"""Progress on standard error: bars on a terminal, silence everywhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["console", "status", "track"]

T = TypeVar("T")


def console() -> Console:
    """Return the console on standard error, where everything but results is written."""
    return Console(stderr=True)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield ``items`` under a progress bar that disappears at the end."""
    screen = console()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    ) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextlib.contextmanager
def status(description: str) -> Iterator[None]:
    """Show ``description`` with a spinner while the block runs."""
    screen = console()
    if not screen.is_terminal:
        yield
        return
    with screen.status(description):
        yield
