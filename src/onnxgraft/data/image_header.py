"""What an image file says about itself: size, channels, depth and orientation, from its headers.

A decoder gives 8 bits and the channels that were asked for, whatever is stored; this tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = ["Form", "jpeg_scans", "stored_form"]

Bytes = bytes | memoryview
Order = Literal["little", "big"]

# PNG's colour types (RFC 2083, 4.1.1): gray, RGB, palette, gray with alpha, RGB with alpha.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# JPEG's start-of-frame markers (ITU-T T.81, B.1.1.3): C0 to CF but for C4, C8 and CC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Where TIFF and EXIF have what is asked for (TIFF 6.0, section 8): their tags.
_WIDTH, _HEIGHT, _BITS, _MEANING, _ORIENTATION, _SAMPLES = 256, 257, 258, 262, 274, 277
_WHITE_IS_0, _PALETTE = 0, 3
# The head of a PBM, PGM or PPM file (netpbm's own pages): kind, width, height and largest value,
# with blanks and comments between.
_BETWEEN = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(rb"P([1-6])%b(\d{1,9})%b(\d{1,9})(?:%b(\d{1,9}))?" % (3 * (_BETWEEN,)))
# A marker in what is coded of a JPEG: 00 stands behind an FF that is data, D0 to D7 go on with it
# (ITU-T T.81, B.1.1.2), and FF before a marker fills.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# Markers without a length: one that means nothing, and that of the beginning.
_JPEG_ALONE = (0x01, 0xD8)
# What a BMP of OS/2 has for a head, with sizes of 16 bits.
_BMP_CORE = 12


class Form(NamedTuple):
    """How an image is stored.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        channels: 1 gray, 2 gray with alpha, 3 colour, 4 colour with alpha.
        bits: A channel.
        orientation: EXIF's, 1 to 8: how the stored picture is to be turned; 1 leaves it.
        palette: Whether pixels are numbers of colours in a PNG's palette.
        otherwise: The kind of file, where what is decoded is not the numbers that are stored.
    """

    width: int
    height: int
    channels: int
    bits: int
    orientation: int = 1
    palette: bool = False
    otherwise: str = ""

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the picture as it is to be seen."""
        if self.orientation > 4:
            return self.height, self.width
        return self.width, self.height


def stored_form(data: Bytes) -> Form | None:
    """Return the form of a PNG, JPEG, BMP, WebP, TIFF or PNM file; None of any other."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25:
        return _png(data)
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) > 30:
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data)
    if data[:2] == b"BM" and len(data) > 30:
        return _bmp(data)
    found = _PNM.match(data)
    return None if found is None else _pnm(*found.groups())


def jpeg_scans(data: Bytes) -> int:
    """Return how many scans a JPEG has up to its end; 0 of another file.

    Each goes over the whole picture, however few bytes it has.
    """
    if data[:2] != b"\xff\xd8":
        return 0
    return sum(marker == _JPEG_SCAN for marker, _, _ in _segments(data))


def _png(data: Bytes) -> Form:
    channels = _PNG_CHANNELS.get(data[25], 3)
    bits = 8 if data[25] == 3 else data[24]  # a palette's entries have 8
    at, orientation = 8, 1
    while at + 12 <= len(data):
        length = _number(data, at, 4)
        if data[at + 4 : at + 8] == b"eXIf":
            orientation = _orientation(data[at + 8 : at + 8 + length])
            break
        at += 12 + length
    sizes = _number(data, 16, 4), _number(data, 20, 4)
    return Form(*sizes, channels, bits, orientation, palette=data[25] == 3)


def _jpeg(data: Bytes) -> Form | None:
    orientation = 1
    for marker, at, end in _segments(data):
        if marker in _JPEG_FRAMES and at + 9 < len(data):
            width, height = _number(data, at + 7, 2), _number(data, at + 5, 2)
            return Form(width, height, data[at + 9], data[at + 4], orientation)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data[at + 10 : end])
    return None


def _segments(data: Bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments of a JPEG up to its end: marker, beginning and end.

    What is coded stands behind a scan's, and what stands elsewhere is passed over, as decoders do.
    """
    at = 2
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        begin, marker = found.start(), data[found.start() + 1]
        if marker == _JPEG_END:
            break
        at = begin + 2 + (0 if marker in _JPEG_ALONE else _number(data, begin + 2, 2))
        yield marker, begin, at


def _bmp(data: Bytes) -> Form:
    old = _number(data, 14, 4, "little") == _BMP_CORE
    if old:
        width, height, depth = (_number(data, at, 2, "little") for at in (18, 20, 24))
    else:
        width, height = (
            abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22)
        )
        depth = _number(data, 28, 2, "little")
    otherwise = "a BMP with a palette" if depth <= 8 and not _has_grays(data, depth, old) else ""
    return Form(width, height, 4 if depth == 32 else 3, 8, otherwise=otherwise)


def _has_grays(data: Bytes, depth: int, old: bool) -> bool:
    """Return whether the colour of each number in a BMP's palette is that gray level."""
    begin, size = 14 + _number(data, 14, 4, "little"), 3 if old else 4
    count = (0 if old else _number(data, 46, 4, "little")) or 1 << depth
    places = range(begin, begin + size * min(count, 1 << depth), size)
    return all(data[at : at + 3] == bytes([level] * 3) for level, at in enumerate(places))


def _pnm(kind: bytes, width: bytes, height: bytes, largest: bytes | None) -> Form:
    """Return the form that the head of a PNM file tells; a bitmap has no largest value."""
    white, otherwise = int(largest or 0), ""
    if kind in b"14":
        white, otherwise = 1, "a bitmap, whose 1 is black"
    elif white not in (255, 65535):  # which decoders spread over all levels, or not
        otherwise = f"a PGM or PPM whose white is {white}"
    channels, bits = 3 if kind in b"36" else 1, 16 if white > 255 else 8
    return Form(int(width), int(height), channels, bits, otherwise=otherwise)


def _webp(data: Bytes) -> Form | None:
    """Read the first chunk of a WebP file (RFC 9649, 2.5 to 2.7), and its EXIF if there is any."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (_number(data, at, 2, "little") & 0x3FFF for at in (26, 28))
        return Form(width, height, 3, 8)
    if kind == b"VP8L":
        packed = _number(data, 21, 4, "little")
        alpha = packed >> 28 & 1
        return Form((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, 3 + alpha, 8)
    if kind != b"VP8X":
        return None
    width, height = (_number(data, at, 3, "little") + 1 for at in (24, 27))
    at, orientation = 12, 1
    while at + 8 <= len(data):
        length = _number(data, at + 4, 4, "little")
        if data[at : at + 4] == b"EXIF":
            exif = data[at + 8 : at + 8 + length]
            orientation = _orientation(exif[6:] if exif[:6] == b"Exif\0\0" else exif)
            break
        at += 8 + length + length % 2
    return Form(width, height, 4 if data[20] & 0x10 else 3, 8, orientation)


def _tiff(data: Bytes) -> Form | None:
    tags = _tags(data)
    if _WIDTH not in tags or _HEIGHT not in tags:
        return None
    meaning, bits = tags.get(_MEANING, 1), tags.get(_BITS, 1)
    channels = 3 if meaning == _PALETTE else min(tags.get(_SAMPLES, 1), 4)
    otherwise = {_WHITE_IS_0: "a TIFF whose 0 is white", _PALETTE: "a TIFF with a palette"}.get(
        meaning, "a TIFF of less than 8 bits a pixel" if bits < 8 else ""
    )
    return Form(
        tags[_WIDTH], tags[_HEIGHT], channels, max(bits, 8), _orientation(data), otherwise=otherwise
    )


def _orientation(exif: Bytes) -> int:
    found = _tags(exif).get(_ORIENTATION, 1)
    return found if 1 <= found <= 8 else 1


def _tags(data: Bytes) -> dict[int, int]:
    """Return the first number of each tag in the first directory of TIFF or EXIF data."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return {}
    order: Order = "little" if data[:1] == b"I" else "big"
    begin = _number(data, 4, 4, order)
    found: dict[int, int] = {}
    for entry in range(_number(data, begin, 2, order)):
        at = begin + 2 + 12 * entry
        if at + 12 > len(data):
            break
        tag, kind, count = (_number(data, at + o, n, order) for o, n in ((0, 2), (2, 2), (4, 4)))
        size = {3: 2, 4: 4}.get(kind)  # SHORT and LONG
        if size is not None and count:
            where = at + 8 if count * size <= 4 else _number(data, at + 8, 4, order)
            found.setdefault(tag, _number(data, where, size, order))
    return found


def _number(data: Bytes, at: int, size: int, order: Order = "big") -> int:
    return int.from_bytes(data[at : at + size], order)
