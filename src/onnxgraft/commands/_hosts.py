"""Other machines, reached by the system's ssh: who they are, what is asked of them, what they say.

A person's configuration, keys and known hosts apply, and nothing waits for a password. What runs
there is `_on_host`. Whatever a host says is a stranger's: so much is read of it, for so long, and
shown without control characters.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from onnxgraft.commands._arguments import names
from onnxgraft.commands._on_host import BEGIN, FORMAT
from onnxgraft.commands._opening import Place
from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError, printable
from onnxgraft.files import existing_file
from onnxgraft.files.limits import HOST_BYTES, SETTINGS_BYTES
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import hidden, steps
from onnxgraft.run.frames import read, send
from onnxgraft.stages.engine.passport import passport_path
from onnxgraft.stages.validate.report import HostRow

__all__ = ["Connection", "Host", "Hosts", "Tell", "find_hosts", "on_all", "told"]

Hosts = str | Sequence[str]
T = TypeVar("T")
# Told how many steps are done, and how many there are.
Tell = Callable[[int, int], None]

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_HOST = re.compile(
    rf"(?:(?P<user>{_NAME})@)?(?P<address>{_NAME}|\[[0-9A-Fa-f:.]+(?:%{_NAME})?\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_PYTHON = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./~+-]*")
# No questions, nothing of ours handed over there, no ports or masters opened; and a host that is
# gone is noticed.
_OPTIONS = (
    "-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o",
    "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "ClearAllForwardings=yes", "-o",
    "ControlMaster=no",
)  # fmt: skip
# Seconds in which a host has to begin, and to answer: a large engine may be compiled meanwhile.
_BEGINS, _ANSWERS = 60.0, 600.0
_CHUNK = 1 << 22
# So much is read of what stands before the first message, and kept of what ssh and Python complain.
_BEFORE, _COMPLAINTS = 1 << 16, 1 << 14
_SENTENCE = 400
# Of what a message turns out not to have, or to have otherwise.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Host:
    """A machine, as it was named: ``user@address:port``.

    Attributes:
        name: As given.
        target: User and address, as ssh takes them.
        port: None takes ssh's own.
    """

    name: str
    target: str
    port: int | None = None

    @classmethod
    def of(cls, text: str) -> Host:
        """Return the host that a text names.

        >>> Host.of("lab@pi-3.local:2222")
        Host(name='lab@pi-3.local:2222', target='lab@pi-3.local', port=2222)

        Raises:
            InputError: It names none, or could be taken for something else by ssh or a shell.
        """
        found = _HOST.fullmatch(text)
        port = None if found is None or found["port"] is None else int(found["port"])
        if found is None or not (port is None or 0 < port < 1 << 16):
            raise InputError(
                f"--hosts: {text!r} is no host; write user@host:port, in letters, digits, dots, _ "
                "and -, where user and port may be left out"
            )
        user = "" if found["user"] is None else f"{found['user']}@"
        return cls(text, user + found["address"].strip("[]"), port)


def find_hosts(given: Hosts) -> list[Host]:
    """Return the hosts that a list names, or a file with one in each line.

    Raises:
        InputError: One is none, or is named twice, or there is none.
    """
    if isinstance(given, str) and Path(given).is_file():
        text = existing_file(given, "the list of hosts", SETTINGS_BYTES).read_text()
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        listed = [line for line in lines if line]
    else:
        listed = names(given)
    hosts = [Host.of(each) for each in listed]
    twice = sorted({host.name for host in hosts if listed.count(host.name) > 1})
    if twice:
        raise InputError(f"--hosts: {', '.join(twice)} is named twice; name each host once")
    if not hosts:
        raise InputError("--hosts: names no host; write them with commas between, or a file")
    return hosts


def told(text: object) -> str:
    """Return what a host says for a sentence: printable, and not long."""
    return printable(str(text), _SENTENCE).strip()


class Connection:
    """A host with which messages are exchanged.

    Args:
        host: To reach.
        python: That has onnxgraft there.

    Raises:
        InputError: It can't be reached, or has not what is needed; the sentence says which.
    """

    def __init__(self, host: Host, python: str) -> None:
        self.host = host
        self._late = False
        self._complaints = b""
        port = () if host.port is None else ("-p", str(host.port))
        call = f"exec {python} -P -m onnxgraft.commands._on_host"
        self._process = subprocess.Popen(
            ["ssh", *_OPTIONS, *port, "--", host.target, call], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stderr,), daemon=True
        )
        self._listener.start()
        try:
            with self._within(_BEGINS):
                about = self._first(python)
            if about.get("format") != FORMAT:
                raise InputError(
                    f"has onnxgraft {told(about['versions']['onnxgraft'])}, which answers "
                    "otherwise; install there the version that is here"
                )
            self.row = _row(host, about)
            self._folder = str(about["folder"])
        except BaseException:
            self.close()
            raise

    def ask(
        self, message: Mapping[str, Any], data: Mapping[str, Array] | bytes = b""
    ) -> tuple[dict[str, Any], bytes]:
        """Return what the host answers, and what follows it.

        Raises:
            InputError: It refuses, or is gone, or takes too long.
        """
        assert self._process.stdin is not None
        with self._within(_ANSWERS):
            with contextlib.suppress(BrokenPipeError):  # it is told when it does not answer
                send(self._process.stdin, message, data)
            answer = self._read()
        if answer is None:
            raise InputError(self._lost())
        if "error" in answer[0]:
            raise InputError(told(answer[0]["error"]))
        return answer

    def copy(self, engine: Place, number: int = 0) -> str:
        """Copy an engine with its passport into the host's temporary folder; return its name there.

        Args:
            engine: Has a passport.
            number: Of the engine, among several.
        """
        name = f"{number}/engine"
        for file, there in ((Path(engine), name), (passport_path(engine), f"{name}.json")):
            with open(file, "rb") as opened:
                while chunk := opened.read(_CHUNK):
                    self.ask({"do": "file", "name": there}, chunk)
        return name

    def path(self, name: str) -> str:
        """Return where a file is that was copied."""
        return f"{self._folder}/{name}"

    def busy(self) -> float:
        """Return how many tasks want each of the host's cores."""
        return float(self.ask({"do": "busy"})[0]["busy"])

    @property
    def gone(self) -> bool:
        """Whether the connection has ended."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the connection; the host then removes what it was given."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._listener.join(1)

    def kill(self) -> None:
        """End the connection at once."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        """Return the connection itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """End the connection where the block takes longer."""

        def end() -> None:
            self._late = True
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _read(self) -> tuple[dict[str, Any], bytes] | None:
        assert self._process.stdout is not None
        return read(self._process.stdout, HOST_BYTES)

    def _first(self, python: str) -> dict[str, Any]:
        """Return the first message, which may stand behind what a shell there says."""
        assert self._process.stdout is not None
        seen = b""
        while not seen.endswith(BEGIN):
            byte = self._process.stdout.read(1)
            if not byte:
                raise InputError(self._lost(python))
            seen += byte
            if len(seen) > _BEFORE:
                raise InputError("says something else without end; see what its shell prints")
        answer = self._read()
        if answer is None:
            raise InputError(self._lost(python))
        return answer[0]

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := pipe.read1(_COMPLAINTS):  # type: ignore[attr-defined]
                self._complaints = (self._complaints + chunk)[-_COMPLAINTS:]

    def _lost(self, python: str = "") -> str:
        """Return why the connection ended, and what to do."""
        if self._late:
            return "did not answer in time; see what it is busy with"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._listener.join(1)
        lines = self._complaints.decode(errors="replace").strip().splitlines()
        why = told(lines[-1]) if lines else "no reason given"
        if self._process.returncode == 255:
            if not python:
                return f"the connection broke ({why}); try again"
            return f"can't be reached ({why}); {_cure(why, self.host)}"
        if "No module named" in why:
            return (
                f"{python} has no onnxgraft of this version there ({why}); install it as "
                "docs/install.md says, or name another Python with --host-python"
            )
        if self._process.returncode in (126, 127):
            return f"{python} can't be run there ({why}); name a Python with --host-python"
        ended = f"ended with status {self._process.returncode}"
        return f"onnxgraft there {ended} ({why}); try it there by itself"


def _cure(why: str, host: Host) -> str:
    """Return what to do where ssh can't log in."""
    port = "" if host.port is None else f"-p {host.port} "
    if "Host key verification failed" in why:
        return f"call ssh {port}{host.target} once, to look at its key and accept it"
    if "Permission denied" in why:
        return "let it accept one of your keys: no password is asked for"
    return f"see whether ssh {port}{host.target} works"


def _row(host: Host, about: Mapping[str, Any]) -> HostRow:
    return HostRow(
        host.name, True, "", told(about["processor"]), int(about["cores"]), told(about["system"]),
        {told(name): told(version) for name, version in about["versions"].items()},
    )  # fmt: skip


def on_all(
    hosts: Sequence[Host], python: str, what: str, work: Callable[[Connection, Tell], T]
) -> list[tuple[HostRow, T | None]]:
    """Do a work on all hosts at the same time; return what is known of each, and its result.

    Args:
        hosts: In the order of the result.
        python: That has onnxgraft on them.
        what: Is done, for the progress bar.
        work: Is given the connection; what it raises of onnxgraft's errors is told of that host
            alone, which then has no result.

    Raises:
        InputError: ``python`` is no name of a program.
        MissingDependencyError: There is no ssh.
    """
    if _PYTHON.fullmatch(python) is None:
        raise InputError(f"--host-python {python!r}: write a path such as ~/.venv/bin/python")
    if shutil.which("ssh") is None:
        raise MissingDependencyError(
            "--hosts needs the program ssh: apt-get install openssh-client, or what brings it here"
        )
    live: list[Connection] = []

    def one(host: Host) -> tuple[HostRow, T | None]:
        row = HostRow(host.name, False)
        try:
            with hidden(), Connection(host, python) as there:
                live.append(there)
                row = there.row
                row.busy = there.busy()
                return row, work(there, lambda done, total: tell(host.name, done, total))
        except OnnxgraftError as error:
            row.answered, row.error = False, told(error)
        except _DAMAGED as error:
            row.answered = False
            row.error = f"answers what is not understood ({told(type(error).__name__)})"
        finally:
            tell(host.name, 1, 1)
        return row, None

    with steps(what) as tell, ThreadPoolExecutor(len(hosts)) as pool:
        for host in hosts:
            tell(host.name, 0, 1)
        try:
            return list(pool.map(one, hosts))
        except BaseException:  # Ctrl-C: the threads wait for hosts
            for there in live:
                there.kill()
            raise
