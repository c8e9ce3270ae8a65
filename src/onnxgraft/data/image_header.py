"""What an image file says about itself: size, channels and depth, from its first bytes.

A decoder gives 8 bits and the channels that were asked for, whatever is stored; this tells.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Form", "stored_form"]

# PNG's colour types (RFC 2083, 4.1.1): gray, RGB, palette, gray with alpha, RGB with alpha.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# JPEG's start-of-frame markers (ITU-T T.81, B.1.1.3): C0 to CF but for C4, C8 and CC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Form(NamedTuple):
    """How an image is stored.

    Attributes:
        width: In pixels.
        height: In pixels.
        channels: 1 gray, 2 gray with alpha, 3 colour, 4 colour with alpha.
        bits: A channel.
    """

    width: int
    height: int
    channels: int
    bits: int


def stored_form(data: bytes) -> Form | None:
    """Return the form of a PNG, JPEG or BMP file; None of any other."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25:
        channels = _PNG_CHANNELS.get(data[25], 3)
        bits = 8 if data[25] == 3 else data[24]  # a palette's entries have 8
        return Form(_big(data, 16, 4), _big(data, 20, 4), channels, bits)
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:2] == b"BM" and len(data) > 30:
        width, height = (
            abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22)
        )
        depth = int.from_bytes(data[28:30], "little")
        return Form(width, height, 4 if depth == 32 else 3, 8)
    return None


def _jpeg(data: bytes) -> Form | None:
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            return Form(_big(data, at + 7, 2), _big(data, at + 5, 2), data[at + 9], data[at + 4])
        # A marker may be preceded by fill bytes, and a few stand alone.
        alone = marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8
        at += (1 if marker == 0xFF else 2) if alone else 2 + _big(data, at + 2, 2)
    return None


def _big(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
