"""Hosts for tests: a real server of ssh, and a program ``ssh`` that runs here what it is asked."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["ODD", "PYTHON", "sshd", "stand_in"]

PYTHON = sys.executable
# What is behind "--" is the host and the call. A host's temporary folder is one of its own.
_SSH = r"""#!/bin/sh
while [ "$1" != "--" ]; do printf '%s\n' "$1" >>"$HOSTS/options"; shift; done
host=$2 call=$3
TMPDIR="$HOSTS/$host"; export TMPDIR; mkdir -p "$TMPDIR"
case "$host" in
    gone) echo "ssh: connect to host gone port 22: Connection refused" >&2; exit 255;;
    unknown) echo "Host key verification failed." >&2; exit 255;;
    locked) echo "me@locked: Permission denied (publickey)." >&2; exit 255;;
    bare) exec sh -c "$(echo "$call" | sed 's/ -P -m / -I -S -m /')";;
    noisy) echo "Welcome to the machine";;
    cursing) printf '\033[2J\033]0;owned\007 a curse\n' >&2; exit 1;;
    endless) exec yes;;
    hanging) exec sleep 600;;
    breaking) dd bs=1 count=2000 2>/dev/null | sh -c "$call"; exit 255;;
    odd-*) exec PYTHON -P -c "from tests.commands.hosts import ODD; ODD['${host#odd-}']()";;
esac
exec sh -c "$call"
"""


def stand_in(folder: Path) -> Path:
    """Write the program into a folder, and return it."""
    file = folder / "ssh"
    file.write_text(_SSH.replace("PYTHON", PYTHON))
    file.chmod(0o755)
    return file


def _says(*messages: object, data: bytes = b"") -> None:
    """Answer as no host of ours would."""
    from onnxgraft.commands._on_host import BEGIN, FORMAT
    from onnxgraft.run.frames import send

    about = {
        "format": FORMAT, "folder": "/tmp/x", "processor": "\x1b[2Jchip", "cores": 4, "system": "s",
        "versions": {"onnxgraft": "0.1.0"},
    }  # fmt: skip
    sys.stdout.buffer.write(BEGIN)
    for message in messages:
        send(sys.stdout.buffer, about if message == "about" else message, data)  # type: ignore[arg-type]
    sys.stdin.buffer.read()


_BUSY, _DONE = {"busy": 0.0}, {}
_OPENED = {"inputs": [["x", "float32", ["N", 4]]], "outputs": [["y", "float32", ["N", 4]]],
           "warnings": []}  # fmt: skip
_COPIED = [_DONE] * 2
# What hosts answer that are broken, or that lie.
ODD = {
    "error": lambda: _says("about", {"error": "\x1b[2J" + "e" * 5000}),
    "older": lambda: _says({"format": "onnxgraft.host/0", "versions": {"onnxgraft": "0\x1b[2J"}}),
    "silent": lambda: _says(),
    "list": lambda: _says([]),
    "empty": lambda: _says({}),
    "busy": lambda: _says("about", {"busy": "very"}),
    "specs": lambda: _says("about", _BUSY, *_COPIED, {"inputs": 1, "outputs": [], "warnings": []}),
    "arrays": lambda: _says(
        "about", _BUSY, *_COPIED, _OPENED, {"arrays": [["y", "<f4", [1 << 40, 4]]]}
    ),
    "object": lambda: _says("about", _BUSY, *_COPIED, _OPENED, {"arrays": [["y", "O", [1]]]}),
    "other": lambda: _says("about", _BUSY, *_COPIED, _OPENED, {"arrays": [["y", "<f4", [0, 3]]]}),
    "missing": lambda: _says("about", _BUSY, *_COPIED, _OPENED, {"arrays": []}),
}  # fmt: skip


@contextlib.contextmanager
def sshd(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Run a real server of ssh, with keys of its own; yield a host's name, and known_hosts.

    A program ``ssh`` is written into the folder: the real one, with a configuration of its own in
    place of the person's. Nothing stands in known_hosts yet.

    Args:
        folder: For keys, settings and the program.
        environment: Of what runs there.
    """
    server, client, keys = (found(name) for name in ("sshd", "ssh", "ssh-keygen"))
    if os.getuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("as root sshd wants the folder /run/sshd")
    for name in ("of_host", "of_user"):
        call = [keys, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(call, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = " ".join(f'"{name}={value}"' for name, value in environment.items())
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/of_host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/of_user.pub\nStrictModes no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nSetEnv {settings}\n"
    )
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/of_user\nIdentitiesOnly yes\nGlobalKnownHostsFile /dev/null\n"
        f"UserKnownHostsFile {folder}/known_hosts\nUser {getpass.getuser()}\n"
    )
    file = folder / "ssh"
    file.write_text(f'#!/bin/sh\nexec {client} -F {folder}/ssh_config "$@"\n')
    file.chmod(0o755)
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(
            [server, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log
        ) as process,
    ):
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if process.poll() is not None:
                    pytest.skip(f"sshd does not start: {(folder / 'log').read_text()}")
                time.sleep(0.05)
            yield f"127.0.0.1:{port}", folder / "known_hosts"
        finally:
            process.terminate()


def found(program: str) -> str:
    """Return where a program is, or skip."""
    place = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if place is None:
        pytest.skip(f"there is no {program}: apt-get install openssh-server openssh-client")
    return place
