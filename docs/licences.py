"""Writes docs/licences.md: the licence of each package that `make` installs, as it says itself.

python -m docs.licences

A package that is not installed here keeps its row.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

__all__ = ["ACCEPTED", "PAGE", "licence_of", "parts_of", "rows"]

PAGE = Path(__file__).parent / "licences.md"
_ROOT = Path(__file__).parent.parent
_PINS = ("constraints-pip.txt", "constraints.txt", "constraints-torch.txt", "constraints-docs.txt")

# Licences that allow use, change and distribution in any product; those of the Mozilla and Zope
# foundations ask that changes of their own files are published or marked.
ACCEPTED = frozenset({
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC",
    "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib", "ZPL-2.1",
})  # fmt: skip
# As packages of before PEP 639 write them, in small letters.
_SPDX = {
    "2-clause bsd": "BSD-2-Clause", "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0", "apache software license": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause", "bsd 3-clause": "BSD-3-Clause", "bsd license": "BSD",
    "freebsd": "BSD-2-Clause", "isc license": "ISC", "isc license (iscl)": "ISC",
    "mit license": "MIT", "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0", "the unlicense (unlicense)": "Unlicense",
} | {name.lower(): name for name in ACCEPTED}  # fmt: skip
# Those that say it in a file alone.
_BY_FILE = {"atheris": "Apache-2.0", "namex": "Apache-2.0"}


def licence_of(package: str) -> str | None:
    """Return a package's licence as SPDX writes it; None where it says none that is known.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    told = metadata.metadata(package)
    if told.get("License-Expression"):
        return str(told["License-Expression"])
    kinds = [kind for kind in told.get_all("Classifier", []) if kind.startswith("License ::")]
    said = [told.get("License") or "", *(kind.split("::")[-1] for kind in kinds)]
    found = (_SPDX.get(text.strip().lower()) for text in said)
    return next(filter(None, found), _BY_FILE.get(package))


def parts_of(expression: str) -> set[str]:
    """Return the licences in an expression; an exception to one allows more.

    >>> sorted(parts_of("MIT AND (Apache-2.0 WITH LLVM-exception OR BSD-2-Clause)"))
    ['Apache-2.0', 'BSD-2-Clause', 'MIT']
    """
    words = re.sub(r"WITH \S+", "", expression).replace("(", " ").replace(")", " ").split()
    return {word for word in words if word not in ("AND", "OR")}


def pinned() -> list[str]:
    """Return the names of the packages that `make` installs."""
    text = "".join((_ROOT / name).read_text() for name in _PINS)
    return sorted(set(re.findall(r"(?m)^([\w.-]+)==", text)))


def rows() -> dict[str, str]:
    """Return the rows of the page, by the package."""
    _, _, table = PAGE.read_text().partition("|---|---|\n")
    return dict(re.findall(r"(?m)^\| ([\w.-]+) \| (.+) \|$", table))


def main() -> None:
    """Write the page."""
    before = rows()
    lines = []
    for package in pinned():
        try:
            licence = licence_of(package) or "not known"
        except metadata.PackageNotFoundError:
            licence = before.get(package, "not known")
        lines.append(f"| {package} | {licence} |")
    head, mark, _ = PAGE.read_text().partition("|---|---|\n")
    PAGE.write_text(head + mark + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
