"""The readers that are fuzzed, and what is demanded of each input.

Whatever the bytes: an object, or one of our own errors in one line, within a time limit; nothing is
written, no process is started, nothing is connected to, unpickled or executed, and no file is read
but those that were named.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.commands._recipe import read_recipe, read_tables
from onnxgraft.commands._runs import read_report
from onnxgraft.commands._view import floats_in, measured_in, report_in
from onnxgraft.data.classes import find_classes
from onnxgraft.data.image_header import jpeg_scans, stored_form
from onnxgraft.data.labels import read_labels
from onnxgraft.data.ranges import Ranges, read_overrides
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import OnnxgraftError
from onnxgraft.files.limits import HOST_BYTES
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.run import frames, v2
from onnxgraft.stages.convert.caffe.reading.net import read_net
from onnxgraft.stages.convert.caffe.reading.wire import read_blob, read_caffemodel
from onnxgraft.stages.convert.pytorch.archive import check_program
from onnxgraft.stages.convert.tensorflow.reading.checkpoint import check_meta
from onnxgraft.stages.convert.tensorflow.reading.declared import check_declared
from onnxgraft.stages.convert.tensorflow.reading.forbidden import check_operators
from onnxgraft.stages.convert.tensorflow.reading.functions import check_keras, check_saved_model
from onnxgraft.stages.convert.tensorflow.reading.graphdef import parse_graphdef
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from onnxgraft.stages.convert.tflite.metadata import told_in
from onnxgraft.stages.convert.tflite.reading import read_tflite
from onnxgraft.stages.convert.tflite.survey import sound
from onnxgraft.stages.engine import passport
from onnxgraft.stages.engine.passport import read_passport
from onnxgraft.stages.engine.tensorrt import builder as tensorrt_builder
from onnxgraft.stages.engine.tensorrt import bundle_main as _bundle_main
from onnxgraft.stages.quantize import read_cache, read_placement
from onnxgraft.stages.quantize.measure.measurer import Tally
from onnxgraft.stages.quantize.tensorrt.cache import cache_text
from onnxgraft.stages.validate.polygraphy import Recorded, read_inputs
from tests.fuzz import documents, flat, messages

__all__ = ["CORPUS", "LIMIT", "READERS", "Reader", "Wrong", "outcome", "seeds"]

CORPUS = Path(__file__).parent / "corpus"
# Seconds of processor time for one input, and MiB that it may take beyond what is there before.
LIMIT, MEMORY = 10.0, 1024
# Between the parts of an input that becomes several files; a NUL is in no text.
BETWEEN = b"\0\0~\0\0"
_MOST_WORDS = 2100
# Of the classes in the labels of the corpus.
_NAMES = ("car", "dog")
# Audit events of which a reader may raise none.
_FORBIDDEN = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.link", "os.mkdir", "os.posix_spawn", "os.remove",
     "os.rename", "os.rmdir", "os.spawn", "os.symlink", "os.system", "os.truncate",
     "pickle.find_class", "socket.bind", "socket.connect", "subprocess.Popen", "ctypes.dlopen"}
)  # fmt: skip


class Wrong(AssertionError):
    """An input did what no input may do."""


@dataclass(frozen=True)
class Reader:
    """A reader and how an input becomes its file.

    Attributes:
        file: What the file is called.
        read: Gets its path.
        write: Makes the files of an input: the bytes themselves if None.
        writes: Whether it may write into the folder ``out`` beside the file.
        load: Imports what its library does at first use, which is no deed of an input.
        mutate: Returns another input by the schema of its format, of at most so many bytes, for a
            seed; or None.
    """

    file: str
    read: Callable[[Path], object]
    write: Callable[[Path, bytes], None] | None = None
    writes: bool = False
    load: Callable[[], object] | None = None
    mutate: Callable[[bytes, int, int], bytes | None] | None = None


def outcome(name: str, data: bytes, folder: Path) -> str:
    """Return ``read`` or ``refused``.

    Args:
        name: Of the reader.
        data: The input.
        folder: An empty one.

    Raises:
        Wrong: Something happened that may not, as the module says.
    """
    reader = READERS[name]
    path = folder / reader.file
    (reader.write or Path.write_bytes)(path, data)
    if reader.load is not None:
        reader.load()
    before = _tree(folder)
    start = time.process_time()
    try:
        with _watched(folder, reader.writes) as seen, _memory(), _hurried():
            reader.read(path)
        result = "read"
    except OnnxgraftError as error:
        result = "refused"
        words = str(error)
        if not words or len(words.splitlines()) > 1 or len(words) > _MOST_WORDS:
            raise Wrong(f"{len(words)} characters are no sentence: {words[:300]!r}") from error
    spent = time.process_time() - start
    if seen:
        raise Wrong(f"{seen[0]} happened")
    if not reader.writes and _tree(folder) != before:
        raise Wrong(f"it wrote {sorted(set(_tree(folder)) ^ set(before))}")
    if spent > LIMIT:
        raise Wrong(f"it took {spent:.0f} s")
    for place in folder.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return result


def seeds(name: str) -> list[Path]:
    """Return the inputs in the repository for a reader: the corpus, and what once broke it."""
    return sorted(path for path in (CORPUS / name).rglob("*") if path.is_file())


def _tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_size) for path in folder.rglob("*"))


# What the process does, by Python's audit events; a hook can't be removed, so there is one.
_watching: list[tuple[Path, bool, list[str]]] = []


@contextlib.contextmanager
def _watched(folder: Path, writes: bool) -> Iterator[list[str]]:
    if not _HOOKED:
        _HOOKED.append(True)
        sys.addaudithook(_hook)
    seen: list[str] = []
    compiles = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # what is imported meanwhile is no deed of an input
    _watching.append((folder, writes, seen))
    try:
        yield seen
    finally:
        _watching.pop()
        sys.dont_write_bytecode = compiles


_HOOKED: list[bool] = []
_CODE = tuple(
    os.path.realpath(place)
    for place in (sys.prefix, sys.base_prefix, Path(__file__).parent.parent.parent)
)
_SYSTEM = ("/proc/", "/sys/", "/usr/", "/etc/", "/dev/null", "/dev/urandom")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    folder, writes, seen = _watching[-1]
    if event in _FORBIDDEN and not (writes and event in ("os.mkdir", "os.rename", "os.remove")):
        seen.append(f"{event}{arguments!r}"[:300])
    elif event == "open":
        path, _, flags = arguments
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor
        name = os.path.realpath(os.fsdecode(path))
        written = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        inside = name.startswith(f"{folder}/")
        known = inside if not written else inside and writes
        if os.path.isdir(name) or name == os.devnull:
            return  # a file without a name is made in it; what libraries print goes nowhere
        if not known and (written or not name.startswith((*_CODE, *_SYSTEM))):
            seen.append(f"{'writing' if written else 'reading'} {name}")


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """Let what an input takes be no more than MEMORY: then it is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (MEMORY << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _hurried() -> Iterator[None]:
    """Raise Wrong in Python code that does not end; processor time, as the machine may be busy."""

    def late(*_: object) -> None:
        raise Wrong(f"it does not end in {LIMIT:.0f} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# The readers -----------------------------------------------------------------------------------


def _prototxt(path: Path) -> None:
    read_net(path, {}, {"data": (1, 3, 8, 8)})


def _cache(path: Path) -> None:
    """What was read and is written is read the same again."""
    cache = read_cache(path)
    if cache.version.isdigit() and len(cache.version) > 3:
        path.write_text(cache_text(cache.scales, cache.version, cache.algorithm))
        again = read_cache(path)
        if (again.scales, again.version) != (cache.scales, cache.version):
            raise Wrong("what was written is read otherwise")


def _recipe(path: Path) -> None:
    errors = []
    for read in (read_recipe, read_tables):
        try:
            read(path)
        except OnnxgraftError as error:
            errors.append(error)
    if len(errors) == 2:
        raise errors[0]


def _ranges(path: Path) -> None:
    """Ranges that were read can be used: changed by hand, and asked for what they say."""
    ranges = Ranges.load(path)
    ranges.with_overrides(dict.fromkeys(ranges.tensors, (-1.0, 1.0)), "--set-range")
    for value in ranges.tensors.values():
        float(value.amax)
    _ = ranges.sizes(), ranges.choice, ranges.advice, ranges.fingerprint


def _write_histograms(path: Path, data: bytes) -> None:
    """Write histograms with the arrays of the input in them, and the ranges that they belong to."""
    beside = path.with_name(f"{path.name}.histograms.npz")
    kinds = ("names", "sizes", "bins", "counts", "limits")
    names = [f"{group}_{kind}" for group in ("whole", "early", "channel") for kind in kinds]
    _zip(beside, dict(zip(names, data.split(BETWEEN), strict=False)))
    document = json.loads((CORPUS / "ranges" / "plain.json").read_text())
    document["histograms_sha256"] = hashlib.sha256(beside.read_bytes()).hexdigest()
    path.write_text(json.dumps(document))


def _passport(path: Path) -> None:
    found = read_passport(path.with_suffix(""))
    str(found.label)
    passport.refuse(path, found, "onnxruntime", "onnxruntime", "1.0")
    for spec in (*found.inputs, *found.outputs):
        spec.accepts((1, 2))
        str(spec)


def _bundle(path: Path) -> None:
    """Run the bundle's own program, to extract and to build; TensorRT is not there."""
    stub: Any = types.ModuleType("tensorrt")
    stub.__version__ = "10.3.0"
    there, sys.modules["tensorrt"] = sys.modules.get("tensorrt"), stub
    builder = tensorrt_builder.build_plan, tensorrt_builder.gpu
    tensorrt_builder.build_plan, tensorrt_builder.gpu = _no_plan, dict
    arguments, place = sys.argv, _bundle_main.HERE
    _bundle_main.HERE = path
    errors = io.StringIO()
    out = path.with_name("out")
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            sys.argv = [str(path), "--extract", str(out)]
            status = _bundle_main.main()
            out.mkdir(exist_ok=True)
            sys.argv = [str(path), "-o", str(out / "x.engine")]
            status = max(status, _bundle_main.main())
    finally:
        sys.argv, _bundle_main.HERE = arguments, place
        tensorrt_builder.build_plan, tensorrt_builder.gpu = builder
        if there is None:
            del sys.modules["tensorrt"]
        else:
            sys.modules["tensorrt"] = there
    written = {entry.relative_to(out).as_posix() for entry in out.rglob("*")}
    if not written <= {*_bundle_main.MEMBERS, "x.engine", "x.engine.json"}:
        raise Wrong(f"it wrote {written}")
    if status == 2:
        raise OnnxgraftError(errors.getvalue().strip().splitlines()[0])


def _no_plan(*_: object) -> tensorrt_builder.Plan:
    return tensorrt_builder.Plan(b"engine", None)


def _write_manifest(path: Path, data: bytes) -> None:
    """Write a bundle with the input for its manifest; ``@MEMBER`` in it becomes its SHA-256."""
    members = {"model.onnx": b"graph", "float.onnx": b"float", "calibration.cache": b"cache"}
    for name, body in members.items():
        data = data.replace(f"@{name}".encode(), hashlib.sha256(body).hexdigest().encode())
    _zip(path, {"manifest.json": data, **members})


def _inputs() -> Sequence[TensorSpec]:
    return (TensorSpec("x", "float32", ("N", 2, 2, 1)),)


def _samples(path: Path) -> None:
    """Open the data and take the first samples."""
    samples = open_samples(path, _inputs(), images=2)
    for position in range(len(samples)):
        samples.identity(position)
        samples.at(position)


def _write_npz(path: Path, data: bytes) -> None:
    _zip(path, dict(zip(("x.npy", "labels.npy"), data.split(BETWEEN), strict=False)))


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in members.items():
            archive.writestr(name if "." in name else f"{name}.npy", body)


def _onnx(path: Path) -> None:
    Model.load(path)


def _tally(path: Path) -> None:
    """Read a shard of an earlier run; the errors are those that make it be counted again."""
    try:
        Tally.from_bytes(path.read_bytes())
    except (RecursionError, ValueError, LookupError, TypeError) as error:
        raise OnnxgraftError(type(error).__name__) from error


def _labels(path: Path) -> None:
    read_labels(path, _NAMES)


def _classes(path: Path) -> None:
    find_classes(str(path))


def _load_polygraphy() -> None:
    from polygraphy.json import to_json

    to_json([])  # takes PyTorch along, where that is installed


def _polygraphy(path: Path) -> None:
    errors = []
    for read in (read_inputs, Recorded):
        try:
            read(path)
        except OnnxgraftError as error:
            errors.append(error)
    if len(errors) == 2:
        raise errors[0]


def _write_program(path: Path, data: bytes) -> None:
    """Write an archive with the input for its program, as torch.export.save lays it out."""
    pytest.importorskip("torch")  # whose own memory is not the input's
    beside = {".data/version": b"3\n", "archive_format": b"pt2", "archive_version": b"0"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in {**beside, "models/model.json": data}.items():
            archive.writestr(f"net/{name}", body)


def _lite_metadata(path: Path) -> None:
    with sound(path):
        told_in(path.read_bytes(), [TensorSpec("x", "uint8", (1, 8, 8, 3))], lambda _: (1.0, 0))


def _graphdef(path: Path) -> None:
    """Read a frozen graph, up to where TensorFlow would be asked."""
    graph = parse_graphdef(path)
    check_declared(str(path), graph)
    check_operators(str(path), graph)


def _write_keras(path: Path, data: bytes) -> None:
    """Write a Keras file with the input for its configuration, and no weights."""
    about = json.dumps({"keras_version": "3.0.0"}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in {"metadata.json": about, "config.json": data}.items():
            archive.writestr(name, body)


def _message_of(module: str, name: str) -> Callable[[bytes, int, int], bytes | None]:
    """Return what mutates messages of a class, or of the type that a function returns."""

    def mutate(data: bytes, most: int, seed: int) -> bytes | None:
        found = getattr(importlib.import_module(module), name)
        descriptor = getattr(found, "DESCRIPTOR", None) or found()
        return messages.mutated(data, descriptor, most, seed)

    return mutate


def _load_tensorflow() -> None:
    pytest.importorskip("tensorflow")
    tensorflow()
    from tensorflow.core.framework import graph_debug_info_pb2  # noqa: F401
    from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2  # noqa: F401
    from tensorflow.lite.python import schema_py_generated  # noqa: F401


def _load_torch() -> None:
    pytest.importorskip("torch")


def _load_keras() -> None:
    pytest.importorskip("h5py")


def _image(path: Path) -> None:
    data = path.read_bytes()
    _ = stored_form(data), jpeg_scans(data)


# Of an engine that is asked: an input of free axes, one for pictures and a number.
_ASKED = (
    TensorSpec("x", "float32", ("N", "L")), TensorSpec("i", "uint8", ("N", 2, 2, 3)),
    TensorSpec("n", "int64", ()),
)  # fmt: skip


def _request(path: Path) -> None:
    """Read a request to `serve` and write an answer: before it a line with its header, or "-"."""
    head, _, body = path.read_bytes().partition(b"\n")
    text, binary = v2.parts(body, None if head == b"-" else head.decode("latin-1"))

    def prepare(spec: TensorSpec, files: Sequence[bytes]) -> Array:
        return np.zeros((len(files), 2, 2, 3), np.uint8)

    asked = v2.read_request(text, binary, _ASKED, _ASKED, prepare)
    for spec in _ASKED:
        if not spec.accepts(asked.feeds[spec.name].shape):
            raise Wrong(f"{spec} is fed {asked.feeds[spec.name].shape}")
    v2.written("m", asked, asked.feeds, _ASKED)


def _request_mutated(data: bytes, most: int, seed: int) -> bytes | None:
    head, _, body = data.partition(b"\n")
    size = int(head) if head.isdigit() and len(head) < 9 else len(body)
    made = documents.mutated(body[:size], most, seed)
    if made is None:
        return None
    whole = b"%s\n%s%s" % (b"-" if head == b"-" else b"%d" % len(made), made, body[size:])
    return whole if len(whole) <= most else None


def _frames(path: Path) -> None:
    """Read all that a host says."""
    pipe = io.BytesIO(path.read_bytes())
    while (message := frames.read(pipe, HOST_BYTES)) is not None:
        frames.arrays(*message)


def _frames_mutated(data: bytes, most: int, seed: int) -> bytes | None:
    with contextlib.suppress(OnnxgraftError):
        message = frames.read(io.BytesIO(data), HOST_BYTES)
        made = message and documents.mutated(json.dumps(message[0]).encode(), most, seed)
        if message and made:
            whole = struct.pack("<IQ", len(made), len(message[1])) + made + message[1]
            return whole if len(whole) <= most else None
    return None


def _report(path: Path) -> None:
    """Read a report as `view` does, and as `diff` does."""
    with contextlib.suppress(OnnxgraftError):
        told = report_in(path.parent)
        floats_in(told)
        measured_in(path.parent, told, [])
    read_report(path)


READERS: dict[str, Reader] = {
    "prototxt": Reader("net.prototxt", _prototxt),
    "caffemodel": Reader(
        "net.caffemodel", read_caffemodel, mutate=_message_of("tests.fuzz.messages", "caffe_net")
    ),
    "mean": Reader("mean.binaryproto", read_blob),
    "lite_metadata": Reader("metadata.bin", _lite_metadata),
    "cache": Reader("calibration.cache", _cache, writes=True),
    "recipe": Reader("recipe.toml", _recipe),
    "ranges": Reader("ranges.json", _ranges, mutate=documents.mutated),
    "histograms": Reader(
        "ranges.json", lambda path: Ranges.load(path, histograms=True), _write_histograms
    ),
    "overrides": Reader("ranges.toml", read_overrides),
    "passport": Reader("net.engine.json", _passport, mutate=documents.mutated),
    "bundle": Reader("net.pyz", _bundle, writes=True),
    "manifest": Reader("net.pyz", _bundle, _write_manifest, writes=True, mutate=documents.mutated),
    "npz": Reader("data.npz", _samples),
    "arrays": Reader("data.npz", _samples, _write_npz),
    "list": Reader("data.txt", lambda path: open_samples(path, _inputs())),
    "csv": Reader("data.csv", lambda path: open_samples(path, _inputs())),
    "rows": Reader("data.json", _samples, mutate=documents.mutated),
    "image": Reader("image.png", _image),
    "onnx": Reader("net.onnx", _onnx, mutate=_message_of("onnx", "ModelProto")),
    "pt2": Reader("net.pt2", check_program, load=_load_torch),
    "program": Reader("net.pt2", check_program, _write_program, mutate=documents.mutated),
    "shard": Reader("shard.npz", _tally),
    "tflite": Reader("net.tflite", read_tflite, load=_load_tensorflow, mutate=flat.mutated),
    "graphdef": Reader(
        "net.pb",
        _graphdef,
        load=_load_tensorflow,
        mutate=_message_of("tensorflow.core.framework.graph_pb2", "GraphDef"),
    ),
    "metagraph": Reader(
        "net.ckpt.meta",
        check_meta,
        load=_load_tensorflow,
        mutate=_message_of("tensorflow.core.protobuf.meta_graph_pb2", "MetaGraphDef"),
    ),
    "savedmodel": Reader(
        "saved_model.pb",
        lambda path: check_saved_model(path.parent),
        load=_load_tensorflow,
        mutate=_message_of("tensorflow.core.protobuf.saved_model_pb2", "SavedModel"),
    ),
    "keras": Reader(
        "net.keras", check_keras, _write_keras, load=_load_keras, mutate=documents.mutated
    ),
    "coco": Reader("instances.json", _labels, mutate=documents.mutated),
    "labels": Reader("labels.json", _labels, mutate=documents.mutated),
    "voc": Reader("a.xml", _labels),
    "yolo": Reader("a.txt", lambda path: read_labels(path.parent)),
    "classes": Reader("classes.json", _classes, mutate=documents.mutated),
    "report": Reader("report.json", _report, mutate=documents.mutated),
    "placement": Reader("table.toml", lambda path: read_placement(path, "tensorrt")),
    "request": Reader("request", _request, mutate=_request_mutated),
    "frames": Reader("frames", _frames, mutate=_frames_mutated),
    "polygraphy": Reader("run.json", _polygraphy, load=_load_polygraphy, mutate=documents.mutated),
}
