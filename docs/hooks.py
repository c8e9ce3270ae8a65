"""What the site adds to mkdocs: the pages outside docs/, and the links between them and the rest.

Pages link to each other as files of the repository, so that they can be read there. On the site
CONTRIBUTING.md, CHANGELOG.md and benchmarks/ lie beside the pages of docs/.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "CHANGELOG.md", "CONTRIBUTING.md",
    *(f"benchmarks/{page.name}" for page in sorted((ROOT / "benchmarks").glob("*.md"))),
)  # fmt: skip
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
# What a page would fetch from elsewhere when it is opened.
FETCHED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
log = logging.getLogger("mkdocs.hooks.onnxgraft")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where pages lie on the site."""
    place = page.file.src_uri
    folder = posixpath.dirname(place if place in OUTSIDE else f"docs/{place}")

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        if target not in OUTSIDE and not target.startswith("docs/"):
            log.warning("%s links to %s, which is no page of the site", place, target)
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(place) or ".")

    return LINK.sub(link, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse what a page would fetch from elsewhere."""
    for found in FETCHED.finditer(output):
        log.warning("%s fetches %s", page.file.src_uri, found[0])
    return output
