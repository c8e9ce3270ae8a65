"""What a command tells whoever runs it, on a terminal too: neither a warning nor a detail."""

from __future__ import annotations

import logging

__all__ = ["NOTICE", "logger", "notice"]

# Between INFO and WARNING of `logging`.
NOTICE = 25

logger = logging.getLogger("onnxgraft")
logger.addHandler(logging.NullHandler())


def notice(sentence: str, *values: object) -> None:
    """Tell a sentence, with values in its places."""
    logger.log(NOTICE, sentence, *values)
