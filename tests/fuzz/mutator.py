"""Mutations of text: words replaced, removed, repeated, moved and nested, as people's files are."""

from __future__ import annotations

import random
import re

__all__ = ["mutated"]

_WORD = re.compile(rb'"(?:[^"\\\n]|\\.)*"|[\w.+-]+|\s+|.', re.DOTALL)
_TELLING = [
    b"null", b"true", b"false", b"0", b"-1", b"1e999", b"-1e999", b"NaN", b"nan", b"Infinity",
    b"1e-400", b"2147483648", b"-9223372036854775809", b"9" * 25, b"1e308", b"0x7f800000", b'""',
    b"[]", b"{}", b'"\\ud800"', b'"\\u0000"', b'"a\\nb"', b'"../../secret"', b'"/etc/passwd"',
    b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"[1,2]", b'{"a":1}', b"1979-05-27T07:32:00Z", b"inf",
]  # fmt: skip
_NESTED = [(b"[", b"]"), (b"{", b"}"), (b'{"a":', b"}"), (b"{a=", b"}"), (b"<", b">")]


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """Return ``data`` with one to four of its words changed, of at most ``most`` bytes."""
    rng = random.Random(seed)
    words = _WORD.findall(data) or [b" "]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(words))
        end = min(len(words), at + rng.choice((1, 1, 2, 5, 20)))
        kind = rng.randrange(7)
        if kind == 0:
            words[at] = rng.choice(_TELLING)
        elif kind == 1:
            del words[at:end]
        elif kind == 2:
            words[at:at] = words[at:end] * rng.choice((1, 1, 2, 50))
        elif kind == 3:
            words[at], words[end - 1] = words[end - 1], words[at]
        elif kind == 4:
            words[at] = rng.choice(words)
        elif kind == 5:
            opening, closing = rng.choice(_NESTED)
            depth = rng.choice((1, 2, 40, most // (len(opening) + len(closing))))
            words[at] = opening * depth + words[at] + closing * depth
        else:
            words.insert(at, rng.choice(_TELLING))
        words = words or [b" "]
    return b"".join(words)[:most]
