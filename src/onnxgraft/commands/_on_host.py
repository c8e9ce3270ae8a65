"""What runs on a host that another machine reached by ssh: takes an engine, answers for it, ends.

Numpy and the engine's library are all that it needs. It reads messages from standard input until
that ends, and whatever it was given lies in a temporary folder that goes when it does: at the end,
at a signal, and where the connection breaks while an engine computes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NoReturn

import onnxgraft
from onnxgraft.errors import EngineWarning, InputError, OnnxgraftError
from onnxgraft.files.limits import HOST_BYTES
from onnxgraft.graph.tensors import Array
from onnxgraft.run.engine import Engine
from onnxgraft.run.frames import arrays, read, send
from onnxgraft.targets import TARGETS
from onnxgraft.targets.cpu import this_cpu

__all__ = ["BEGIN", "FORMAT", "main"]

FORMAT = "onnxgraft.host/1"
# Stands before the first message: what a shell says at its beginning is none of ours.
BEGIN = b"\0onnxgraft\0"
# Once the connection is gone, what is under way has so many seconds to end by itself.
_GRACE = 2.0
_LIBRARIES = ("numpy", *(target.package for target in TARGETS))

Message = tuple[dict[str, Any], bytes]


def main() -> None:
    """Serve until standard input ends."""
    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(each, _end)
    # Libraries may print; only our messages go to the other side.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
        _Host(Path(folder), answers).serve(sys.stdin.buffer)


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


class _Host:
    """The state of one connection."""

    def __init__(self, folder: Path, answers: IO[bytes]) -> None:
        self._folder, self._answers = folder, answers
        self._engine: Engine | None = None
        self._workers: list[subprocess.Popen[str]] = []
        self._ended = threading.Event()

    def serve(self, asked: IO[bytes]) -> None:
        """Answer each message in turn."""
        waiting: queue.Queue[Message | None] = queue.Queue(maxsize=2)
        threading.Thread(target=self._listen, args=(asked, waiting), daemon=True).start()
        try:
            self._answers.write(BEGIN)
            send(self._answers, self._about())
            while (message := waiting.get()) is not None:
                try:
                    told, data = self._do(*message)
                except (OnnxgraftError, OSError) as error:
                    told, data = {"error": self._here(str(error))}, {}
                send(self._answers, told, data)
        except BrokenPipeError:
            pass
        finally:
            self._ended.set()
            for worker in self._workers:
                _stop(worker)
            if self._engine is not None:
                self._engine.close()

    def _listen(self, asked: IO[bytes], waiting: queue.Queue[Message | None]) -> None:
        """Hand messages on; where the other side is gone, see to it that everything ends."""
        message: Message | None = None
        while True:
            with contextlib.suppress(InputError):
                message = read(asked, HOST_BYTES)
            with contextlib.suppress(queue.Full):
                waiting.put(message, timeout=None if message else _GRACE)
            if message is None:
                break
            message = None
        if not self._ended.wait(_GRACE):
            for worker in self._workers:
                worker.kill()
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(1)

    def _about(self) -> dict[str, Any]:
        """Return what this machine is, as far as answers and times depend on it."""
        versions = {"onnxgraft": onnxgraft.__version__, "python": platform.python_version()}
        for name in _LIBRARIES:
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        cpu = this_cpu()
        return {
            "format": FORMAT, "folder": str(self._folder), "processor": str(cpu),
            "cores": os.cpu_count() or 1, "system": platform.platform(), "versions": versions,
        }  # fmt: skip

    def _do(self, message: dict[str, Any], data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
        what = message.get("do")
        if what == "file":
            return self._write(str(message["name"]), data), {}
        if what == "open":
            return self._open(str(message["name"]), message.get("threads")), {}
        if what == "infer":
            if self._engine is None:
                raise InputError("no engine was opened")
            return {}, self._engine.infer(arrays(message, data))
        if what == "busy":
            return {"busy": os.getloadavg()[0] / (os.cpu_count() or 1)}, {}
        if what == "start":
            return self._start(), {}
        if what == "ask":
            return self._ask(message["worker"], message["message"]), {}
        if what == "stop":
            _stop(self._workers[message["worker"]])
            return {}, {}
        raise InputError(f"{what!r} is nothing that a host does")

    def _write(self, name: str, data: bytes) -> dict[str, Any]:
        """Add to a file in the folder."""
        file = self._folder / name
        if file.parent.parent != self._folder or ".." in file.parts:
            raise InputError(f"{name}: is no file of the folder")
        file.parent.mkdir(exist_ok=True)
        with open(file, "ab") as opened:
            opened.write(data)
        return {}

    def _open(self, name: str, threads: int | None) -> dict[str, Any]:
        """Load an engine here, and tell what it takes and gives."""
        from onnxgraft.stages.engine import load

        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", EngineWarning)
            self._engine = load(self._folder / name, threads=threads)
        return {
            "inputs": [[s.name, s.dtype, list(s.shape)] for s in self._engine.inputs],
            "outputs": [[s.name, s.dtype, list(s.shape)] for s in self._engine.outputs],
            "warnings": [
                self._here(str(one.message)) for one in seen if one.category is EngineWarning
            ],
        }

    def _start(self) -> dict[str, Any]:
        """Start a process that times an engine, as `bench` does."""
        place = os.path.join(os.path.dirname(__file__), "_bench_worker.py")
        self._workers.append(
            subprocess.Popen(
                [sys.executable, "-P", place], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )
        )  # fmt: skip
        return {"worker": len(self._workers) - 1}

    def _ask(self, worker: int, message: dict[str, Any]) -> dict[str, Any]:
        """Hand a message on to a process that times, and return what it says."""
        process = self._workers[worker]
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is told when it does not answer
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        return {"line": self._here(process.stdout.readline())}

    def _here(self, text: str) -> str:
        """Return a sentence without the folder, which says nothing to anyone."""
        return text.replace(f"{self._folder}{os.sep}", "")


def _stop(worker: subprocess.Popen[str]) -> None:
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    worker.terminate()
    worker.wait()


if __name__ == "__main__":
    main()
