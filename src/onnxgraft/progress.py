"""Progress: bars on a terminal, where they are on standard error, and in notebooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
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

from onnxgraft.notebook import Bars, in_notebook

__all__ = ["Steps", "console", "status", "steps", "track"]

T = TypeVar("T")
# Told the phase, how many of its steps are done, and how many there are.
Steps = Callable[[str, int, int], None]


def console() -> Console:
    """Return the console on standard error, where everything but results is written."""
    return Console(stderr=True)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield ``items`` under a progress bar that disappears at the end."""
    with _progress() as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextlib.contextmanager
def steps(description: str) -> Iterator[Steps]:
    """Yield a function that moves a bar for each phase of a work that tells how far it is."""
    with _progress() as bar:
        bar.add_task(description, total=None)
        tasks: dict[str, TaskID] = {}

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(f"  {phase}", total=total)
            bar.update(tasks[phase], completed=done, total=total, visible=done < total)

        yield tell


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
        disable=not screen.is_terminal,
    )


@contextlib.contextmanager
def status(description: str) -> Iterator[None]:
    """Show ``description`` with a spinner while the block runs."""
    screen = console()
    if in_notebook():
        with Bars() as bars:
            bars.add_task(description)
            yield
        return
    if not screen.is_terminal:
        yield
        return
    with screen.status(description):
        yield
