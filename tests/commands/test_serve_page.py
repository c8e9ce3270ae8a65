"""The page of `serve` in headless Chromium: a picture is dropped on it, and the answer is shown."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onnxgraft
from tests.browser import Browser, Page
from tests.commands import serving as scene
from tests.conftest import once

pytest.importorskip("starlette")
from onnxgraft.commands._serve import serving

# Drops a file as a person's mouse does: the browser's own events, made by hand.
DROP = """
(() => {
  const bytes = Uint8Array.from(atob(%s), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
  for (const kind of ["dragover", "drop"]) {
    document.querySelector("#drop").dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
})()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "serve", scene.write)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder / "map.engine") as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str, folder: Path) -> Iterator[Page]:
    """Yield the page in the window of a telephone."""
    (folder / "empty.html").touch()
    found = browser.open(folder / "empty.html", 390, 800)
    found.send("Page.navigate", url=url)
    until(found, "document.title === 'map'")
    yield found
    wrong = [problem for problem in found.problems if not problem.startswith(f"asked for {url}/")]
    found.close()
    assert wrong == []


def until(page: Page, condition: str) -> None:
    for _ in range(1000):
        if page.js(condition):
            return
        time.sleep(0.01)
    raise AssertionError(f"{condition}: {page.js('document.body.innerText')}")


def drop(page: Page, data: bytes) -> None:
    page.js(DROP % json.dumps(base64.b64encode(data).decode()))


def shown(page: Page) -> list[list[str]]:
    rows: list[list[str]] = page.js(
        "[...document.querySelectorAll('#table tbody tr')].map("
        "(row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return rows


def test_a_picture_that_is_dropped_is_answered(page: Page, folder: Path) -> None:
    drop(page, (folder / "photo.jpg").read_bytes())
    until(page, "!document.querySelector('#answer').hidden")
    (wanted,) = onnxgraft.infer(folder / "map.engine", [folder / "photo.jpg"]).answers
    assert shown(page) == [[name, f"{100 * share:.1f} %"] for name, share in wanted.shares]
    until(page, "document.querySelector('#seen').naturalWidth > 16")
    until(page, "document.querySelector('#given').naturalWidth === 640")
    assert page.js("document.querySelector('#status').textContent").startswith("Answered in")


def test_a_file_that_is_no_picture_is_told_on_the_page(page: Page) -> None:
    drop(page, b"no picture")
    until(page, "!document.querySelector('#error').hidden")
    assert "not an image" in page.js("document.querySelector('#error').textContent")
    assert page.js("document.querySelector('#answer').hidden")
    page.problems[:] = [p for p in page.problems if "400 (Bad Request)" not in p]


def test_the_newest_of_two_pictures_is_what_is_shown(page: Page, folder: Path) -> None:
    drop(page, (folder / "photo.jpg").read_bytes())
    drop(page, (folder / "0.png").read_bytes())
    until(page, "document.querySelector('#given').naturalWidth === 30")
    (wanted,) = onnxgraft.infer(folder / "map.engine", [folder / "0.png"]).answers
    assert shown(page)[0][0] == wanted.shares[0][0]


def test_the_file_is_chosen_by_keyboard(page: Page, folder: Path) -> None:
    page.press("Tab")
    assert page.js("document.activeElement.id") == "file"
    assert page.js("getComputedStyle(document.querySelector('#drop')).outlineStyle") == "solid"
    document = page.send("DOM.getDocument")["root"]["nodeId"]
    node = page.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    page.send("DOM.setFileInputFiles", files=[str(folder / "photo.jpg")], nodeId=node)
    until(page, "!document.querySelector('#answer').hidden")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(width: int, page: Page, folder: Path) -> None:
    page.resize(width, 800)
    drop(page, (folder / "photo.jpg").read_bytes())
    until(page, "!document.querySelector('#answer').hidden")
    assert page.js("document.documentElement.scrollWidth") <= width


def test_the_page_is_read_aloud(page: Page) -> None:
    told: Any = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {node["role"]["value"] for node in told if not node["ignored"]}
    assert {"heading", "status", "main"} <= roles
    assert page.js("document.querySelector('label[for=file]').textContent.includes('Drop')")


def test_the_page_may_fetch_nothing_from_elsewhere(page: Page) -> None:
    refused = page.js("fetch('https://example.org/').then(() => 'fetched', () => 'refused')")
    assert refused == "refused"
    assert any("Content Security Policy" in problem for problem in page.problems)
    page.problems.clear()
