"""Promises of docs/security.md: each test fails when one is broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.commands import read_recipe
from onnxgraft.data.arrays import read_arrays
from onnxgraft.data.images import read_image
from onnxgraft.data.labels import read_labels
from onnxgraft.data.ranges import Ranges, read_overrides
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.files import limits
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.caffe.reading.wire import read_caffemodel
from onnxgraft.stages.convert.tensorflow.reading.text import check_text_size
from onnxgraft.stages.engine.passport import read_passport
from onnxgraft.stages.quantize import read_cache
from onnxgraft.stages.validate.polygraphy import Recorded
from tests import hostile
from tests.conftest import ROOT, Cli, model_of, once, only_ci
from tests.sources import files

# What is refused takes less: TensorFlow alone is half a gigabyte.
MOST_KILOBYTES = 2_000_000
MOST_SECONDS = 30


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what came of reading each hostile file, all in one process."""

    def make(folder: Path) -> None:
        files = folder / "files"
        files.mkdir()
        for name, (content, _) in hostile.FILES.items():
            (files / name).write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-m", "tests.hostile", files],
            cwd=files, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert {path.name for path in files.iterdir()} == set(hostile.FILES)
        (folder / "answers.json").write_text(done.stdout.splitlines()[-1])

    place = once(tmp_path_factory, "hostile", make)
    found: dict[str, Any] = json.loads((place / "answers.json").read_text())
    return {**found, "folder": str(place / "files")}


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_hostile_model_is_refused_in_a_sentence(name: str, answers: dict[str, Any]) -> None:
    told, _, _ = answers["answers"][name]
    assert told.startswith("2: ")
    assert hostile.FILES[name][1] in told
    assert "\n" not in told
    assert len(told) < 1000


def test_refusing_takes_little_memory_and_time(answers: dict[str, Any]) -> None:
    assert not {name: kb for name, (_, _, kb) in answers["answers"].items() if kb > MOST_KILOBYTES}
    # Of processor time: other processes may run beside the tests.
    assert not {name: s for name, (_, s, _) in answers["answers"].items() if s > MOST_SECONDS}


def test_no_hostile_model_leads_to_another_file(answers: dict[str, Any]) -> None:
    folder, opened = answers["folder"], answers["opened"]
    assert any(path.startswith(folder) for path, _ in opened)
    assert not [path for path, _ in opened if path.startswith("/etc") or path == "socket.connect"]
    written = {path for path, writes in opened if writes and not path.endswith(".pyc")}
    own = (folder, "/dev/", "/proc/", tempfile.gettempdir())
    assert not {path for path in written if not path.startswith(own) and ".pyc." not in path}


@pytest.mark.parametrize("name", ["nodes.onnx", "writes.pb", "lambda.keras"])
def test_the_command_ends_with_status_2(name: str, tmp_path: Path, cli: Cli) -> None:
    content, words = hostile.FILES[name]
    (tmp_path / name).write_bytes(content)
    done = cli("convert", tmp_path / name, "-o", tmp_path / "out.onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


# Data and documents --------------------------------------------------------------------------

SPEC = [TensorSpec("x", "float32", ("N", 3))]


def _ranges(path: Path) -> object:
    return Ranges.load(path)


def _arrays(path: Path) -> object:
    return open_samples(path, SPEC)


def _passport(path: Path) -> object:
    return read_passport(path.with_suffix(""))


DOCUMENTS: dict[str, tuple[Callable[[Path], object], Callable[[], bytes], str]] = {
    "deep_ranges.json": (_ranges, lambda: b"[" * 100_000, "nested too deep"),
    "large_ranges.json": (_ranges, lambda: b" " * (65 << 20), "at most 64 MB of JSON"),
    "deep_passport.json": (_passport, lambda: b'{"a":' * 100_000, "nested too deep"),
    "large_passport.json": (_passport, lambda: b" " * (5 << 20), "at most 4 MB of a passport"),
    "deep_recipe.toml": (read_recipe, lambda: b"a = " + b"[" * 50_000, "nested too deep"),
    "large_recipe.toml": (read_recipe, lambda: b"#" * (2 << 20), "at most 1 MB of TOML"),
    "deep_overrides.toml": (read_overrides, lambda: b"a = " + b"[" * 50_000, "nested too deep"),
    # So deep that it is read, but not shown.
    "keys_overrides.toml": (
        read_overrides, lambda: b"a" + b".a" * 900 + b" = 1", "nested too deep"),
    "values_ranges.json": (
        _ranges, lambda: b"[" + b"[]," * 10_000_000 + b"[]]", "1.25 GB of memory for the values"),
    "values_recording.json": (
        Recorded, lambda: b"[" + b"{}," * 7_000_000 + b"{}]", "1.25 GB of memory for the values"),
    "rows.txt": (_arrays, lambda: b"a\n" * 1_500_001, "rows in a list, at most 1,500,000"),
    "rows.csv": (_arrays, lambda: b"a\n" * 1_500_001, "rows in a list, at most 1,500,000"),
    "rows.json": (
        _arrays, lambda: b"[" + b"{}," * 1_500_000 + b"{}]", "rows in a list, at most 1,500,000"),
    "rows.jsonl": (
        _arrays, lambda: b"{}\n" * 1_500_001, "rows in a list, at most 1,500,000"),
    "objects.jsonl": (
        _arrays, lambda: (b"[" * 20 + b"]" * 20 + b"\n") * 700_000,
        "1.25 GB of memory for the values"),
    "columns.csv": (_arrays, lambda: b"a," * 5000, "columns in a list, at most 4,096"),
    "columns.json": (
        _arrays, lambda: json.dumps([{str(key): 1 for key in range(5000)}]).encode(),
        "columns in a list, at most 4,096"),
    "rows_labels.csv": (
        read_labels, lambda: b"a 1\n" * 1_500_001, "rows in a list, at most 1,500,000"),
    "rows_labels.json": (
        read_labels,
        lambda: b"{" + b",".join(b'"%x":1' % key for key in range(1_500_001)) + b"}",
        "rows in a list, at most 1,500,000"),
    "large_labels.xml": (
        read_labels, lambda: b" " * (17 << 20), "at most 16 MB of labels of one image"),
    "lines.cache": (
        read_cache, lambda: b"TRT-10300-MinMax\n" + b"a: 0\n" * (1 << 20),
        "1,048,577 lines, at most 1,048,576"),
    "large.cache": (read_cache, lambda: b"a: 0\n" * (14 << 20), "at most 64 MB of a calibration"),
    "pixels.png": (read_image, lambda: hostile.png(60_000, 60_000), "pixels in an image"),
    "pixels.ppm": (read_image, lambda: b"P6\n#\n60000 60000\n255\n", "pixels in an image"),
    "scans.jpg": (read_image, lambda: hostile.jpeg(101), "scans in a JPEG, at most 100"),
    "picture.gif": (read_image, lambda: b"GIF89a" + bytes(100), "replace it with a BMP, JPEG"),
    "picture.png": (
        read_image, lambda: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 9 +X 9\n" + bytes(999),
        "replace it with a BMP, JPEG"),
    "histograms.npz": (
        lambda path: read_arrays(path, str(path)),
        lambda: hostile.directory(hostile.npz(x=b""), 24, struct.pack("<I", (1 << 30) + 1)),
        "at most 1 GB of unpacked histograms"),
    "pickle.npz": (
        _arrays, lambda: hostile.npz(x=hostile.pickled()), "it holds Python objects"),
    "shape.npz": (
        _arrays, lambda: hostile.npz(x=hostile.npy(f"({1 << 40}, 3)")), "it ends early"),
    "negative.npz": (
        _arrays, lambda: hostile.npz(x=hostile.npy("(-2, -3)") + bytes(24)),
        "an array of the shape (-2, -3)"),
    "members.npz": (
        _arrays, lambda: hostile.npz(**{f"a{i}": b"" for i in range(10_001)}),
        "members in an archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_hostile_data_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    read, content, words = DOCUMENTS[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(InputError) as refused:
        read(tmp_path / name)
    assert words in str(refused.value)
    assert name.partition(".")[0] in str(refused.value)


def lower(path: Path) -> object:
    return Original.of(path).lower()


# Of a size that is only said: the disk holds none of it.
TOO_LARGE: dict[str, tuple[Callable[[Path], object], limits.Limit]] = {
    "net.onnx": (lower, limits.MODEL_BYTES),
    "net.caffemodel": (read_caffemodel, limits.MODEL_BYTES),
    "net.pb": (lower, limits.BUFFER_BYTES),
    "net.tflite": (lower, limits.BUFFER_BYTES),
    "saved_model.pb": (lambda path: Original.of(path.parent).lower(), limits.BUFFER_BYTES),
    "net.ckpt.meta": (lower, limits.BUFFER_BYTES),
    "image.png": (read_image, limits.IMAGE_BYTES),
    "outputs.json": (Recorded, limits.RECORDING_BYTES),
}


@only_ci
@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_file_that_is_too_large_is_not_read(name: str, tmp_path: Path) -> None:
    read, limit = TOO_LARGE[name]
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, limit.most + 1)
    if name.endswith(".meta"):
        (tmp_path / "net.ckpt.index").touch()
    with pytest.raises(InputError, match=f"of {re.escape(limit.what)} are read"):
        read(tmp_path / name)


def test_a_graph_as_text_is_not_parsed_beyond_its_limit() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return limits.TEXT_GRAPH_BYTES.most + 1

    with pytest.raises(InputError, match="of a graph as text are read"):
        check_text_size(Long(), "net.pbtxt:")


def test_weights_of_too_many_objects_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxgraft.stages.convert.tensorflow.reading.functions._MOST_OBJECTS", 2)
    (tmp_path / "many.h5").write_bytes(
        hostile.h5(lambda file: [file.create_group(f"{number}") for number in range(3)])
    )
    with pytest.raises(InputError, match="it has more than 2 objects"):
        Original.of(tmp_path / "many.h5").lower()


@only_ci
def test_hdf5_loads_no_filter_from_a_library(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(hostile.h5(lambda file: file.create_group("a")))
    # The library looks when it is loaded first.
    code = (
        "import builtins, os, sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'h5py':\n"
        "        print(os.environ.get('HDF5_PLUGIN_PRELOAD'))\n"
        "sys.addaudithook(hook)\n"
        "from onnxgraft.stages.convert import Original\n"
        "try: Original.of('net.h5').lower()\n"
        "except Exception: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.stdout.split()[0] == "::", done.stderr


def test_a_packed_array_that_fills_the_disk_is_refused(tmp_path: Path) -> None:
    data = bytearray(hostile.npz(x=hostile.npy("(1073741824, 3)")))
    entry = data.rindex(b"PK\x01\x02")  # where the directory tells the size
    data[entry + 24 : entry + 28] = struct.pack("<I", 0xFFFF_FF00)
    two = bytes(data[:entry]) + 2 * bytes(data[entry : data.rindex(b"PK\x05\x06")])
    two = two.replace(b"x.npy", b"y.npy", 2) if two.count(b"x.npy") == 3 else two
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(two) - entry, entry, 0)
    (tmp_path / "bomb.npz").write_bytes(two + end)
    with pytest.raises(InputError, match="of packed arrays are read"):
        open_samples(tmp_path / "bomb.npz", SPEC)


def test_an_image_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")  # reading it would wait for ever
    with pytest.raises(InputError, match="is not a file"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_external_data_that_are_links_are_refused(link: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    if link == "symbolic":
        (tmp_path / "w.bin").symlink_to(tmp_path / "secret")
    else:
        os.link(tmp_path / "secret", tmp_path / "w.bin")
    (tmp_path / "m.onnx").write_bytes(hostile.onnx_model([hostile.external("w.bin")]))
    done = cli("inspect", tmp_path / "m.onnx")
    assert done.returncode == 2
    assert "are refused" in done.stderr


def test_a_link_out_of_a_saved_model_is_refused(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    (folder / "variables" / "variables.index").symlink_to(tmp_path / "secret")
    done = cli("inspect", folder)
    assert done.returncode == 2
    assert "is a link out of the SavedModel" in done.stderr


# What a library is never told ------------------------------------------------------------------

NEVER = {
    "allow_pickle=True": "numpy would run a pickle",
    "register_custom_ops_library": "onnxruntime would load a library",
    "load_op_library": "TensorFlow would load a library",
    "add_extension": "OpenVINO would load a library",
    "load_library": "TensorRT's registry would load a library",
    "init_libnvinfer_plugins": "TensorRT's plugins would be registered",
    "engine_host_code_allowed = True": "an engine's host code would run",
    "import pickle\n": "a pickle runs code",
    "from pickle ": "a pickle runs code",
    "pickle.load": "a pickle runs code",
    "import marshal": "so does this",
    "yaml.load": "so does this",
    "shell=True": "a name would reach a shell",
    "safe_mode=False": "Keras would run a Lambda",
}  # fmt: skip


@pytest.mark.parametrize("words", NEVER)
def test_the_product_never_says(words: str) -> None:
    product = files()
    assert len(product) > 100
    assert not [path for path in product if words in path.read_text()], NEVER[words]


def test_the_page_has_the_limits_that_are_kept() -> None:
    rows = [f"| {what} | {most} | {reason} |" for what, most, reason in limits.table()]
    page = (ROOT / "docs" / "security.md").read_text()
    missing = [row for row in rows if row not in page]
    assert not missing, "\n".join(missing)


# No network, and no place that was not named ----------------------------------------------------

# Every Python process of a run tells what it writes and whom it asks.
WATCHED = """
import json, os, sys
log = os.environ["ONNXGRAFT_TEST_LOG"]
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        if not str(arguments[1] if event == "socket.connect" else "").startswith("/"):
            tell(["network", str(arguments)])
    elif event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[0] != log:
        if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            tell(["write", os.path.abspath(os.fsdecode(arguments[0]))])
    elif event in ("os.rename", "os.mkdir", "os.symlink", "os.link"):
        tell(["write", os.path.abspath(os.fsdecode(arguments[0]))])
def tell(what):
    handle = os.open(log, os.O_APPEND | os.O_CREAT | os.O_RDWR)
    os.write(handle, (json.dumps(what) + "\\n").encode())
    os.close(handle)
sys.addaudithook(hook)
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder with a small network and its data."""
    folder = tmp_path / "work"
    folder.mkdir()
    rng = np.random.default_rng(0)
    model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {"
        " c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c) }",
        {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32)},
    ).save(folder / "net.onnx")
    np.savez(folder / "data.npz", x=rng.normal(size=(24, 3, 8, 8)).astype(np.float32))
    return folder


def deployment(work: Path) -> list[str]:
    return [
        sys.executable, "-m", "onnxgraft", "deploy", str(work / "net.onnx"), "--data",
        str(work / "data.npz"), "-o", str(work / "out"),
    ]  # fmt: skip


def _cut_off() -> list[str]:
    """Return the words before a command that take all networks from it, where that is allowed."""
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return command if done.returncode == 0 else []


@only_ci
def test_a_deployment_needs_no_network_and_writes_where_it_was_told(work: Path) -> None:
    hook, log = work.parent / "hook", work / "log"  # where it may be written
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(WATCHED)
    before = {path.name for path in work.parent.iterdir()}
    done = subprocess.run(
        [*_cut_off(), *deployment(work)], cwd=work.parent,
        env={
            **os.environ, "PYTHONPATH": f"{hook}:{ROOT / 'src'}", "ONNXGRAFT_TEST_LOG": str(log),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "out" / "report.json").is_file()
    assert {path.name for path in work.parent.iterdir()} == before
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert not [what for what in told if what[0] == "network"]
    written = {Path(path) for kind, path in told if kind == "write"}
    assert any(path.is_relative_to(work) for path in written)
    # Python tries out whether its folder for temporary files can be written.
    scratch = Path(tempfile.gettempdir())
    tried = {path for path in written if path.parent == scratch and len(path.name) == 8}
    named = (work, Path("/dev"), Path("/proc"))
    others = {path for path in written - tried if not any(map(path.is_relative_to, named))}
    assert not {p for p in others if not str(p).startswith(f"{scratch}/onnxgraft.")}


@only_ci
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_library_opens_a_socket_to_another_machine(work: Path) -> None:
    # Native code is seen by the system alone. onnxruntime would send events to its makers by
    # itself, nine seconds after the first session was made (1.31).
    code = "import time, onnxgraft.run.session as r; r.OnnxRuntime('net.onnx'); time.sleep(11)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=socket", "-o"]
    runs = [
        subprocess.Popen(
            [*strace, str(work / trace), *command], cwd=work, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for trace, command in (
            ("deployed", deployment(work)), ("idle", [sys.executable, "-c", code]),
        )
    ]  # fmt: skip
    told = [run.communicate(timeout=900)[0] for run in runs]
    if any("ptrace" in text for text in told):
        pytest.skip("tracing is not allowed here")
    assert [run.returncode for run in runs] == [0, 0], told
    for trace in ("deployed", "idle"):
        assert "AF_INET" not in (work / trace).read_text()


@pytest.mark.parametrize("name", ["longer.pb", "typeless.pb"])
def test_what_can_not_be_converted_is_not_looked_at_where_its_constants_are_damaged(
    name: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    content, words = hostile.FILES[name]
    (tmp_path / "net.pb").write_bytes(content)
    with pytest.raises(InputError, match=words):
        Original.of(tmp_path / "net.pb").inspect()
