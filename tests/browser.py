"""Headless Chromium, driven as a person would: pages, sizes, clicks, keys, pictures.

It speaks the DevTools protocol through a pipe, so nothing has to be installed and no port is open.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CHROMIUM", "Page", "browser"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
# Seconds until an answer is not waited for any more.
_PATIENCE = 60.0


class Page:
    """A page of a browser.

    Attributes:
        requests: The addresses of everything that pages asked for, but for themselves.
        problems: What they wrote on the console as errors or warnings, or did not catch.
    """

    def __init__(self, write: int, read: int, profile: Path) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._write, self._read, self._profile = write, read, profile
        self._rest, self._number, self._session = b"", 0, ""
        self._loaded = False
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for part in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{part}.enable")

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of a size."""
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self._ask("Page.navigate", url=page.absolute().as_uri())
        end = time.monotonic() + _PATIENCE
        while not self._loaded and time.monotonic() < end:
            self._take(end)

    def resize(self, width: int, height: int) -> None:
        """Give the window a size, narrower than windows are, too."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip

    def run(self, script: str) -> Any:
        """Return the value of an expression of JavaScript, or what it promises."""
        told = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True,
        )  # fmt: skip
        if "exceptionDetails" in told:
            raise AssertionError(told["exceptionDetails"])
        return told["result"].get("value")

    def click(self, what: str, count: int = 1) -> None:
        """Click with the mouse into the middle of the element that a selector finds."""
        x, y = self.run(
            f"(() => {{ const found = document.querySelector({json.dumps(what)}); "
            "found.scrollIntoView({block: 'nearest'}); const box = found.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for number in range(1, count + 1):
            self.mouse("mousePressed", x, y, button="left", clickCount=number)
            self.mouse("mouseReleased", x, y, button="left", clickCount=number)

    def mouse(self, kind: str, x: float, y: float, **how: Any) -> None:
        """Move, press, release or turn the wheel of the mouse."""
        self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **how)

    def press(self, key: str, shift: bool = False) -> None:
        """Press a key and let it go."""
        codes = {
            "Enter": 13, "Escape": 27, "Tab": 9, "Backspace": 8, "ArrowLeft": 37, "ArrowUp": 38,
            "ArrowRight": 39, "ArrowDown": 40,
        }  # fmt: skip
        how: dict[str, Any] = {"key": key, "modifiers": 8 if shift else 0}
        how["windowsVirtualKeyCode"] = codes.get(key, ord(key[0].upper()))
        if len(key) == 1:
            how["text"] = key
        elif key == "Enter":
            how["text"] = "\r"
        self._ask("Input.dispatchKeyEvent", type="keyDown", **how)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **{k: how[k] for k in how if k != "text"})

    def write(self, text: str) -> None:
        """Write a text where the cursor is."""
        self._ask("Input.insertText", text=text)

    def picture(self, file: Path) -> None:
        """Write what is to be seen as a PNG."""
        told = self._ask("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(told["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while True:
            told = self._take(end)
            if told.get("id") == number:
                if "error" in told:
                    raise AssertionError(f"{method}: {told['error']}")
                result: dict[str, Any] = told["result"]
                return result

    def _take(self, end: float) -> dict[str, Any]:
        """Return the next message; what happened by itself is noted."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError("the browser does not answer")
            self._rest += os.read(self._read, 1 << 16)
        line, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        self._note(told.get("method", ""), told.get("params", {}))
        return told

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent" and told.get("type") != "Document":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"].get("exception", told)))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.problems.append(str(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start Chromium with a profile in a folder, and end it."""
    assert CHROMIUM is not None
    (to_read, write), (read, to_write) = os.pipe(), os.pipe()
    arguments = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
        "--disable-dev-shm-usage", "--hide-scrollbars", "about:blank",
    ]  # fmt: skip

    def place() -> None:
        # The browser reads from 3 and writes to 4.
        one, other = os.dup(to_read), os.dup(to_write)
        os.dup2(one, 3)
        os.dup2(other, 4)

    process = subprocess.Popen(
        arguments, preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read)
    os.close(to_write)
    try:
        yield Page(write, read, folder)
    finally:
        os.close(write)
        os.close(read)
        process.terminate()
        process.wait()
