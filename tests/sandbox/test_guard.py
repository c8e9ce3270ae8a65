"""A command that crashes, takes too much or is killed ends in a sentence, and leaves no half file.

What crashes, hoards and sleeps here is a metric of the user's own, in the middle of a validation.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.sandbox import guard
from onnxgraft.sandbox.guard import byte_size
from tests import hostile
from tests.conftest import Cli, few, model_of, only_ci

METRIC = """
import ctypes, os, signal, sys, time
import numpy as np
kept = []
def crash(output, label): ctypes.string_at(0)
def stop(output, label): os.abort()
def killed(output, label): os.kill(os.getpid(), signal.SIGKILL)
def hoard(output, label):
    while True: kept.append(np.ones(1 << 22, np.uint8))
def grab(output, label): return float(np.ones(6 << 30, np.uint8)[0])
def sleep(output, label): time.sleep(600)
def loop(output, label):
    while True: pass
def leave(output, label): os._exit(0)
def exits(output, label): sys.exit(0)
def fine(output, label): return 1.0
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model_of("net (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }").save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((2, 3), np.float32), labels=np.zeros(2, np.int64))
    (tmp_path / "own.py").write_text(METRIC)
    return tmp_path


def arguments(place: Path, metric: str, *more: str) -> list[str]:
    return [
        "validate", str(place / "net.onnx"), str(place / "net.onnx"), "--data",
        str(place / "data.npz"), "--metric", f"{place / 'own.py'}:{metric}", "--report",
        str(place / "report"), *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "limits", "words"),
    few(
        [
            ("crash", [], ["a library crashed on it (SIGSEGV)", "nothing was left half written"]),
            ("leave", [], ["ended the process, with status 0, before the command was done"]),
            (
                "hoard",
                ["--max-memory", "800MB"],
                ["it took 8", "the 800 MB that --max-memory allows"],
            ),
            ("stop", [], ["a library crashed on it (SIGABRT)"]),
            ("killed", [], ["it was killed (SIGKILL)", "when memory runs out"]),
            ("grab", ["--max-memory", "800MB"], ["Unable to allocate", "6.00 GiB"]),
            ("sleep", ["--max-seconds", "2"], ["within the 2 s that --max-seconds allows"]),
            ("loop", ["--max-seconds", "2"], ["within the 2 s that --max-seconds allows"]),
            ("exits", [], ["ended the process, with status 0, before the command was done"]),
        ],
        3,
    ),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_crash_and_a_limit_are_a_sentence(
    metric: str, limits: list[str], words: list[str], place: Path, process: Cli
) -> None:
    done = process(*arguments(place, metric, *limits), cwd=place, timeout=120)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("onnxgraft validate: ")
    for word in words:
        assert word in line
    assert done.stdout == ""
    assert not (place / "report").exists()


UNASKED = """
import time
from onnxgraft.sandbox import guard
guard._free_memory = lambda: 200 << 20
try:
    if guard.guarded(guard.Allowance()) is None:
        kept = b"x" * (250 << 20)
        time.sleep(60)
except guard.Killed as error:
    print(error)
"""


def test_a_command_has_a_limit_that_nobody_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNASKED], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("stopped: it took "), done.stderr
    assert "more than the 180 MB (90% of the memory that was free)" in done.stdout
    assert "--max-memory" in done.stdout


def test_within_its_limits_a_command_does_what_it_does(place: Path, process: Cli) -> None:
    done = process(
        *arguments(place, "fine", "--max-memory", "2GB", "--max-seconds", "300", "--json")
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("{")
    assert (place / "report" / "report.json").exists()


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (["--max-memory", "much"], "write a size such as 2GB"),
        (["--max-memory", "0"], "write a size such as 2GB"),
        (["--max-memory", "9" * 400], "write a size such as 2GB"),
        (["--max-seconds", "-1"], "a number of seconds above 0"),
    ],
    ids=["no_size", "no_bytes", "no_end", "negative"],
)
def test_a_limit_that_is_none_is_refused(
    limit: list[str], words: str, place: Path, process: Cli
) -> None:
    done = process("inspect", place / "net.onnx", *limit)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize("size", ["2 gigs", "-1GB", "", "1e3"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(InputError):
        byte_size(size)


LOOP = """
open("begun", "w").close()
while True: pass
"""


def _usual_signals() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def begun(place: Path) -> subprocess.Popen[str]:
    (place / "own.py").write_text(LOOP)
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxgraft", *arguments(place, "loop")],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=place, start_new_session=True,
        # What runs the tests in the background may have it ignored.
        preexec_fn=_usual_signals,
    )  # fmt: skip
    _wait_for(place / "begun")
    return process


def _wait_for(file: Path) -> None:
    end = time.monotonic() + 120
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)


def running(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(of) == session and state != "Z":
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("whole_group", [False, True], ids=["one_process", "whole_group"])
def test_ctrl_c_ends_the_work_and_says_so(whole_group: bool, place: Path) -> None:
    process = begun(place)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert told.strip() == "onnxgraft validate: interrupted"
    assert running(process.pid) == []


UNFLUSHED = """
import sys
from onnxgraft.sandbox import guard
status = guard.guarded(guard.Allowance())
if status is None:
    guard.hand_over(2)
    sys.stderr = open("/dev/full", "w")
    sys.stderr.write("the last words")
    sys.exit(2)
sys.exit(status)
"""


def test_last_words_that_can_not_be_written_change_no_status() -> None:
    assert subprocess.run([sys.executable, "-c", UNFLUSHED], timeout=60).returncode == 2


BUSY = """
import sys, time
from onnxgraft.sandbox import guard
guard._Watch._too_much = lambda _: time.sleep(2)  # as on a machine that is busy
status = guard.guarded(guard.Allowance())
if status is None:
    open("begun", "w").close()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        guard.hand_over(130)
        sys.exit(130)
sys.exit(status)
"""


def test_ctrl_c_that_the_watching_process_sees_late_is_told_as_it_is_else(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stderr=subprocess.PIPE, text=True,
        cwd=tmp_path, start_new_session=True, preexec_fn=_usual_signals,
    )  # fmt: skip
    _wait_for(tmp_path / "begun")
    time.sleep(0.5)  # so that it looks what the work takes
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert (process.returncode, told) == (130, "")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_the_command_ends_its_work_too(sent: signal.Signals, place: Path) -> None:
    process = begun(place)
    process.send_signal(sent)
    process.communicate(timeout=120)
    assert process.returncode == -sent
    end = time.monotonic() + 30
    while running(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert running(process.pid) == []


def test_the_engines_of_bench_end_when_the_watching_process_is_killed(place: Path) -> None:
    words = ["bench", "net.onnx", "--batch", "1", "--rounds", "99999"]
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxgraft", *words],
        cwd=place, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (workers := list(filter(is_worker, running(process.pid)))):
        assert time.monotonic() < end
        time.sleep(0.05)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # so that it can't see its parent's pipe end
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while running(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    left = running(process.pid)
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert left == []


def is_worker(process: int) -> bool:
    """Tell whether a process times an engine, and has loaded the engine's library."""
    place = Path(f"/proc/{process}")
    try:
        started = b"_bench_worker" in (place / "cmdline").read_bytes()
        return started and b"onnxruntime" in (place / "maps").read_bytes()
    except OSError:
        return False


HELD = """
import sys, tempfile, time
from pathlib import Path
from onnxgraft.sandbox.guard import Allowance, guarded
out = Path(sys.argv[1])
if guarded(Allowance(places=(out / "model.onnx",))) is None:
    Path(tempfile.mkdtemp(), "scratch").write_text("x")
    (out / sys.argv[2]).write_text(tempfile.gettempdir())
    time.sleep(float(sys.argv[3]))
"""


def test_the_next_command_removes_the_folders_of_one_that_was_killed(tmp_path: Path) -> None:
    def begin(name: str, seconds: float) -> tuple[subprocess.Popen[bytes], Path]:
        words = [sys.executable, "-c", HELD, tmp_path, name, str(seconds)]
        process = subprocess.Popen(words, start_new_session=True)
        end = time.monotonic() + 60
        while not (tmp_path / name).exists() and time.monotonic() < end:
            time.sleep(0.05)
        return process, Path((tmp_path / name).read_text())

    killed, left = begin("killed", 600)
    living, kept = begin("living", 600)
    killed.kill()
    killed.wait()
    assert left.exists()
    ended, own = begin("ended", 0)
    ended.wait(60)
    assert not left.exists()
    assert not own.exists()
    assert (kept / "alive").exists()
    living.terminate()
    living.wait(60)
    assert not kept.exists()


CHILD = """
import os, signal, subprocess, sys, tempfile
from pathlib import Path
from onnxgraft.sandbox.guard import Allowance, guarded
from onnxgraft.files import atomic
folder = Path(sys.argv[1])
try:
    if guarded(Allowance(places=(folder / "model.onnx",))) is None:
        with atomic(folder / "model.onnx") as temporary:
            temporary.write_bytes(b"half")
            Path(tempfile.mkdtemp(), "scratch").write_bytes(b"half")
            (folder / "scratch").write_text(tempfile.gettempdir())
            subprocess.Popen(["sleep", "600"])
            os.kill(os.getpid(), signal.SIGKILL)
except Exception as error:
    print(error)
"""


def test_what_was_being_written_is_removed_and_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path], capture_output=True, text=True,
        start_new_session=True, timeout=60,
    )  # fmt: skip
    assert "it was killed (SIGKILL)" in done.stdout, done.stderr
    assert (tmp_path / "model.onnx").read_bytes() == b"old"
    scratch = tmp_path / "scratch"
    assert not Path(scratch.read_text()).exists()
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "scratch"]


WATCHED = """
import sys, tempfile
from pathlib import Path
from onnxgraft.sandbox.guard import Allowance, guarded
out, other = map(Path, sys.argv[1:])
if guarded(Allowance(places=(out / "model.onnx",))) is None:
    (out / "model.onnx").write_text("new")
    Path(tempfile.mkdtemp(), "scratch").write_text("x")
    try:
        (other / "x").write_text("x")
    except PermissionError:
        print("refused")
"""


def test_a_command_writes_beside_what_it_was_told_and_nowhere_else(tmp_path: Path) -> None:
    for name in ("out", "other"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, tmp_path / "out", tmp_path / "other"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (tmp_path / "out" / "model.onnx").read_text() == "new", done.stderr
    if not _has_landlock():
        pytest.skip("this kernel has no Landlock")
    assert done.stdout == "refused\n"
    assert not list((tmp_path / "other").iterdir())


def _has_landlock() -> bool:
    """Ask the kernel for the version of its Landlock."""
    create_ruleset, tell_version = 444, 1
    return ctypes.CDLL(None).syscall(create_ruleset, None, 0, tell_version) > 0


SANDBOX = """
import sys
from pathlib import Path
from onnxgraft.sandbox.landlock import enter_sandbox
named, other = map(Path, sys.argv[1:])
if not enter_sandbox([named]):
    sys.exit(3)
named.write_text("new")
for what in (lambda: other.write_text("x"), lambda: open(other, "a"), other.unlink,
             lambda: other.rename(named), lambda: (other.parent / "made").mkdir(),
             lambda: (other.parent / "link").symlink_to(named)):
    try:
        what()
    except PermissionError:
        continue
    sys.exit(4)
print(other.read_text())
import socket
try:
    socket.create_connection(("127.0.0.1", 9), 5)
except PermissionError:
    print("no network")
except OSError:
    print("network")
"""


def test_in_the_sandbox_nothing_is_written_but_what_was_named(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "other").write_text("as it was")
    done = subprocess.run(
        [sys.executable, "-c", SANDBOX, tmp_path / "out" / "named", tmp_path / "other"],
        capture_output=True, text=True,
    )  # fmt: skip
    if not _has_landlock():
        pytest.skip("this kernel has no Landlock")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "as it was"
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


PORTS = """
import os, socket, sys
from onnxgraft.sandbox.landlock import enter_sandbox
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
enter_sandbox([], [port])
listening = socket.create_server(("127.0.0.1", port))
for what in (lambda: socket.create_server(("127.0.0.1", 0)),
             lambda: socket.create_connection(("127.0.0.1", port), 5)):
    try:
        what().close()
    except PermissionError:
        continue
    sys.exit(4)
"""


def test_in_the_sandbox_the_port_that_was_named_may_be_listened_on_and_no_other() -> None:
    done = subprocess.run([sys.executable, "-c", PORTS], capture_output=True, text=True)
    create_ruleset, tell_version, networks = 444, 1, 4
    if ctypes.CDLL(None).syscall(create_ruleset, None, 0, tell_version) < networks:
        pytest.skip("this kernel's Landlock knows no networks")
    assert done.returncode == 0, done.stderr


ENDLESS = """
import sys
from onnxgraft.files import hurrying
from onnxgraft.cli import main
hurrying.SECONDS = 1
sys.argv = ["onnxgraft", "inspect", "net.h5"]
main()
"""


@only_ci
def test_a_library_that_does_not_come_to_an_end_is_ended(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    data = bytearray(hostile.h5(lambda _: None))
    # HDF5 1.14 goes round in a circle where an entry of its heap has no size.
    place = data.index(b"3.15.1")
    data[place - 8 : place + 1000] = bytes(1008)
    (tmp_path / "net.h5").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "a library did not come to an end on it" in done.stderr


def test_no_folder_for_what_is_temporary_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(InputError, match=r"nothing temporary can be written .* let TMPDIR name"):
        guard._scratch()


GPU = """
import os, sys
from onnxgraft.sandbox import landlock
landlock._nvidia = lambda: ["/dev/null"]
if sys.argv[1] == "user" and os.geteuid() == 0:
    os.setuid(65534)
if sys.argv[1] == "bound":
    landlock._protect_system = lambda: False
assert landlock.enter_sandbox([])
def name():
    with open(f"/proc/self/task/{os.getpid()}/comm", "w") as file:
        file.write("renamed")
name()
assert open("/proc/self/comm").read() == "renamed\\n"
child = os.fork()
if child == 0:
    try:
        name()
    except PermissionError:
        os._exit(1)
    os._exit(0)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print("opened", path)
    except OSError:
        pass
"""


@pytest.mark.parametrize(("who", "child"), [("root", 0), ("user", 0), ("bound", 1)])
def test_beside_a_gpu_threads_get_names_and_the_system_s_settings_stay(
    who: str, child: int
) -> None:
    """CUDA names its threads when it begins, in processes that a command starts too."""
    if not _has_landlock():
        pytest.skip("this kernel has no Landlock")
    if who != "user" and os.geteuid() != 0:
        pytest.skip("only root is bound")
    done = subprocess.run([sys.executable, "-c", GPU, who], capture_output=True, text=True)
    assert done.stdout.split("\n") == [f"child {child}", ""], done.stderr
