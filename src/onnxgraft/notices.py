"""What a command tells whoever runs it, on a terminal too: neither a warning nor a detail."""

from __future__ import annotations

import logging

__all__ = ["NOTICE", "notice"]

# Between INFO and WARNING of `logging`.
NOTICE = 25


def notice(sentence: str, *values: object) -> None:
    """Tell a sentence by the logger ``onnxgraft``, with values in its places."""
    logging.getLogger("onnxgraft").log(NOTICE, sentence, *values)
