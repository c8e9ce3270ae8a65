"""A headless Chromium for tests: it opens a page, clicks, presses keys, and notes what goes wrong.

It is told what to do over a pipe, by the DevTools protocol, so that nothing else is needed. The
fixture ``browser`` in `tests.conftest` starts one for all tests of a process, or skips.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["CHROMIUM", "Browser", "Page"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
# Of an answer to one message, in seconds.
_PATIENCE = 60
# Of the keys that tests press: what they type, and their number.
_KEYS = {"Enter": ("\r", 13), " ": (" ", 32), "Tab": ("", 9), "Escape": ("", 27), "Home": ("", 36),
         "End": ("", 35), "ArrowLeft": ("", 37), "ArrowUp": ("", 38), "ArrowRight": ("", 39),
         "ArrowDown": ("", 40), "Backspace": ("", 8)}  # fmt: skip


class Browser:
    """A running Chromium that reaches this machine alone."""

    def __init__(self, profile: Path) -> None:
        """Start it with a new profile in the folder ``profile``."""
        assert CHROMIUM is not None
        mine, theirs = os.pipe(), os.pipe()
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}", "--remote-debugging-pipe",
        ]  # fmt: skip
        # Chromium reads messages from file 3 and writes its own to file 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{mine[0]} 4>&{theirs[1]}', "bash", CHROMIUM, *options],
            pass_fds=(mine[0], theirs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(mine[0])
        os.close(theirs[1])
        self._out = os.fdopen(mine[1], "wb", buffering=0)
        self._in = os.fdopen(theirs[0], "rb", buffering=0)
        self._rest = b""
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.send("Browser.close")
        self._process.wait(_PATIENCE)
        self._out.close()
        self._in.close()

    def open(self, path: Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> Page:
        """Return a page that was opened from a file, in a window of so many pixels."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        page.resize(width, height)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.prefer(dark=dark)
        page.go(path)
        return page

    def send(self, method: str, session: str | None = None, **parameters: object) -> Any:
        """Send a message and return what it is answered with."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        for found in self._messages():
            if found.get("id") == number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
        raise AssertionError(f"{method}: Chromium ended")

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Yield messages as they come; those that no one asked for are noted with their page."""
        while True:
            while b"\0" not in self._rest:
                more = os.read(self._in.fileno(), 1 << 20)
                if not more:
                    return
                self._rest += more
            whole, _, self._rest = self._rest.partition(b"\0")
            found: dict[str, Any] = json.loads(whole)
            page = self._pages.get(found.get("sessionId", ""))
            if page is not None and "method" in found:
                page.note(found["method"], found["params"])
            yield found


class Page:
    """One page in a window of its own.

    Attributes:
        problems: What its console said, the errors of its scripts, and what it asked a network for.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self._loaded = False
        self.problems: list[str] = []

    def send(self, method: str, **parameters: object) -> Any:
        """Send a message of the DevTools protocol to this page; see `Browser.send`."""
        return self._browser.send(method, self._session, **parameters)

    def note(self, method: str, told: dict[str, Any]) -> None:
        """Take note of what happened."""
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded":
            self.problems.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:")):
                self.problems.append(f"asked for {url}")

    def go(self, path: Path) -> None:
        """Open a file, and wait until it is drawn: what is clicked before that goes nowhere."""
        self._loaded = False
        self.send("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self.js("new Promise((done) => setTimeout(done, 5))")
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=False,
        )  # fmt: skip

    def prefer(self, *, dark: bool = False, media: str = "") -> None:
        """Be a reader who prefers dark pages or light ones, or a printer (``media="print"``)."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def js(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, awaited if it is a promise."""
        done = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def click(self, selector: str) -> None:
        """Click with the mouse on the middle of the first element that is found."""
        left, top, hit = self.js(
            f"""(() => {{
            const one = document.querySelector({json.dumps(selector)});
            one.scrollIntoView({{block: "center", inline: "center", behavior: "instant"}});
            const box = one.getClientRects()[0];
            const x = box.left + box.width / 2, y = box.top + box.height / 2;
            const there = document.elementFromPoint(x, y);
            return [x, y, !!there && (one.contains(there) || there.contains(one))];
            }})()"""
        )
        assert hit, f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=left, y=top, button="left", clickCount=1
            )

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key, such as ``Tab``, ``Enter``, ``ArrowLeft``, or a letter."""
        text, code = _KEYS.get(key, (key, ord(key[0].upper())))
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                modifiers=8 * shift, **({"text": text} if text and kind == "keyDown" else {}),
            )  # fmt: skip

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is to be seen, or the whole page, as a PNG."""
        done = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))

    def close(self) -> None:
        """Close the window."""
        self._browser.send("Target.closeTarget", targetId=self._target)
