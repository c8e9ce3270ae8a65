"""Silence for libraries that write to standard error on their own."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of frameworks off the screen while the block runs.

    Python's loggers are switched off below CRITICAL. TensorFlow's C++ side, and OpenCV's protobuf,
    write to the file descriptor of standard error whatever the log level is, so that is set aside
    as well.
    """
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    saved = os.dup(2)
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 2)
    os.close(void)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        logging.disable(level)
