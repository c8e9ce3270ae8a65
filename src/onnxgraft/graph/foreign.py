"""What a file is that is no model: told by how it begins, and what to do with it."""

from __future__ import annotations

import codecs
import io
import os
import pickletools
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxgraft.errors import ModelError
from onnxgraft.files import parse_json, parse_toml
from onnxgraft.targets import TARGETS

__all__ = [
    "ARRAYS", "BUNDLE", "CACHE", "ENGINE", "JSON", "MAKE_PT2", "PASSPORT", "PICTURE", "PROGRAM",
    "RANGES", "TRITON", "WEB_PAGE", "XML", "is_onnx", "kind_of", "refuse_foreign", "what_it_is",
]  # fmt: skip

# What commands write, as messages call it.
ARRAYS = "arrays of NumPy (.npz)"
BUNDLE = "a bundle that onnxgraft bundle wrote"
CACHE = "a TensorRT calibration cache"
ENGINE = "an engine"
JSON = "JSON"
PASSPORT = "the passport of an engine"
PICTURE = "a PNG image"
PROGRAM = "a C++ program that onnxgraft export wrote"
RANGES = "the ranges that onnxgraft calibrate wrote"
TRITON = "a configuration for Triton that onnxgraft export wrote"
WEB_PAGE = "a web page"
XML = "XML"

# So much of a file's beginning and end is looked at; texts are read whole up to this.
_HEAD = 1 << 16
# The two lines that make a file of a PyTorch network which is read.
MAKE_PT2 = (
    "make a .pt2 in PyTorch: program = torch.export.export(model.eval(), (example,)); "
    'torch.export.save(program, "net.pt2")'
)
_EXPORT = f"it runs code when it is read; {MAKE_PT2}"
_UNPACK = "unpack it and name the model in it"
_MODEL = "name the model"
# What files begin with: the offset, the bytes, what it is, and what to do.
_MARKS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", PICTURE, _MODEL),
    (0, b"\xff\xd8\xff", "a JPEG image", _MODEL),
    (0, b"GIF8", "a GIF image", _MODEL),
    (0, b"II*\0", "a TIFF image", _MODEL),
    (0, b"MM\0*", "a TIFF image", _MODEL),
    (8, b"WEBP", "a WebP image", _MODEL),
    (6, b"\0\0\0\0", "a BMP image", _MODEL),
    (4, b"ftyp", "a video or an image in an MPEG container", _MODEL),
    (0, b"# onnxgraft export: ", TRITON, "name the engine that it was exported from"),
    (0, b"// onnxgraft export: ", PROGRAM, "name the engine that it was exported from"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "if it is a Keras model, call it .h5"),
    (0, b"\x93NUMPY", "a NumPy array", _MODEL),
    (4, b"TFL3", "a TFLite model", "call it .tflite"),
    (4, b"ORTM", "a model in onnxruntime's own format", "name the ONNX file it was made from"),
    (0, b"GGUF", "a GGUF language model", "it holds weights and no graph; export ONNX"),
    (0, b"%PDF", "a PDF document", _MODEL),
    (0, b"\x7fELF", "a program or library", _MODEL),
    (0, b"\x1f\x8b", "an archive, packed with gzip", _UNPACK),
    (0, b"BZh", "an archive, packed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "an archive, packed with xz", _UNPACK),
    (0, b"(\xb5/\xfd", "an archive, packed with Zstandard", _UNPACK),
    (0, b"7z\xbc\xaf'\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"TRT-", CACHE, "give it to quantize with --cache"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (0, b"model_checkpoint_path:", "the list of TensorFlow's checkpoints",
     "name one of those it lists"),
    (0, b"7767517", "an ncnn network", "export the network as ONNX"),
)  # fmt: skip
_FORMAT = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"format":\s*"onnxgraft\.([a-z]+)')
# The line that makes a program of an archive.
_LINE = 64
# Of what the pickles of weights are made.
_WEIGHTS = {"_codecs", "collections", "numpy", "torch"}
# A table at the end of TensorFlow's checkpoints and their indices.
_TABLE = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file begins as ONNX models do: with the number of their IR version."""
    with open(path, "rb") as file:
        head = file.read(3)
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32


def refuse_foreign(path: str | os.PathLike[str], but: Sequence[str] = ()) -> None:
    """Raise ModelError if a file is known to be something else than a model, or than ``but``."""
    found = what_it_is(path)
    if found is not None and found[0] not in but:
        raise ModelError(f"{os.fspath(path)}: is {found[0]}, and no model; {found[1]}")


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return what a file is in words, an ONNX model or an engine included; empty if unknown.

    An engine is told by its passport, whatever it is called.
    """
    file = Path(path)
    if _has_passport(file):
        return ENGINE
    found = what_it_is(file)
    if found is None:
        return "an ONNX model" if is_onnx(file) else ""
    what = found[0]
    return next((kind for kind in (ENGINE, XML) if what.startswith((f"{kind} ", f"{kind},"))), what)


def what_it_is(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Return what a file is that is no model, and what to do; None where that is not known."""
    file = Path(path)
    if ".data-" in file.name and "-of-" in file.suffix:
        return "the data of a TensorFlow checkpoint", "name the checkpoint by its prefix"
    head = _beginning(file)
    with open(file, "rb") as opened:
        opened.seek(max(file.stat().st_size - _HEAD, 0))
        tail = opened.read()
    if head.startswith(b"PK\3\4"):
        return _archive(file, head, tail)
    if head.startswith(b"#!") and b"PK\3\4" in head[:_LINE] and b"onnxgraft/" in tail:
        return BUNDLE, "run it with Python where TensorRT is; name the model that it was made from"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return _pickled(head) or ("a pickle, as PyTorch writes .pt and .pth", _EXPORT)
    if file.suffix.lower() != ".onnx" and _has_passport(file):
        return ENGINE, "name the model that it was built from"
    for target in TARGETS:
        # onnxruntime's are ONNX files: a single byte is no mark.
        if target.wrote(head[:64]) and all(len(mark) > 1 for _, mark in target.magic):
            return f"{ENGINE} of {target.title}", "name the model that it was built from"
    if tail.endswith(_TABLE):
        return "a part of a TensorFlow checkpoint", "name the checkpoint by its prefix"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < file.stat().st_size:
        return "a file of weights (safetensors)", "it has no graph; export the network as ONNX"
    for offset, mark, what, advice in _MARKS:
        at = head[offset : offset + len(mark)]
        if at == mark and (what != "a BMP image" or _is_bitmap(head)):
            return what, advice
    return next(_texts(file, head), None)


def _beginning(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(_HEAD)


def _has_passport(file: Path) -> bool:
    beside = Path(f"{file}.json")
    try:
        return beside.is_file() and _json(_beginning(beside))[0] == PASSPORT
    except OSError:  # it is not ours to read
        return False


def _is_bitmap(head: bytes) -> bool:
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in (12, 40, 108, 124)


def _archive(file: Path, head: bytes, tail: bytes) -> tuple[str, str]:
    """Return what a ZIP file holds, by the names at its beginning and in its list at the end."""
    if b"PK\5\6" not in tail:
        return "a ZIP archive that is cut short", "fetch it again"
    names = head + tail
    if b"/archive_format" in names and b"/models/" in names:
        return "a program of PyTorch (.pt2)", "call it .pt2"
    if b"serialized_exported_program.json" in names:
        return "a program that a PyTorch before 2.7 exported", f"export it anew; {MAKE_PT2}"
    if b"/data.pkl" in names and b"/constants.pkl" in names:
        return "a TorchScript network", f"it is no program of torch.export; {MAKE_PT2}"
    if b"/data.pkl" in names:
        return _pickled(_member(file, "data.pkl")) or ("a PyTorch file (.pt, .pth)", _EXPORT)
    if b"config.json" in names and b".weights.h5" in names:
        return "a Keras model", "call it .keras"
    if b".npy" in names:
        return ARRAYS, _MODEL
    return "a ZIP archive", _UNPACK


def _member(file: Path, name: str) -> bytes:
    """Return the beginning of the first member of that name."""
    try:
        with zipfile.ZipFile(file) as archive:
            full = next(entry for entry in archive.namelist() if entry.endswith(f"/{name}"))
            with archive.open(full) as member:
                return member.read(_HEAD)
    except Exception:  # damaged archives raise whatever their reader meets
        return b""


def _pickled(data: bytes) -> tuple[str, str] | None:
    """Return what a pickle of PyTorch's holds, by the classes it names; nothing of it is run."""
    classes, words, stream = set(), [""], io.BytesIO(data)
    try:
        while True:  # older files are several pickles behind each other
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    classes.add(str(argument).partition(" ")[0])
                elif opcode.name == "STACK_GLOBAL":
                    classes.add(words[-2])
                elif isinstance(argument, str):
                    words.append(argument)
    except (ValueError, IndexError):  # the end, or the end of the part that is looked at
        pass
    packages = {name.partition(".")[0] for name in classes}
    if "torch" not in packages:
        return None
    if packages <= _WEIGHTS and not any(name.startswith("torch.nn.modules") for name in classes):
        return "weights of PyTorch without their network (a state_dict)", (
            f"load them into the network and {MAKE_PT2}"
        )
    return "a pickled module of PyTorch", _EXPORT


def _texts(file: Path, head: bytes) -> Iterator[tuple[str, str]]:
    """Yield what a text is, as long as it is none that a model is written in."""
    long = len(head) == _HEAD  # what is longer may be cut within a character
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=not long).strip()
    except UnicodeDecodeError:
        return
    if not text or "\0" in text:
        return
    start = text[:256].lower()
    if start.startswith(("<!doctype html", "<html")):
        yield WEB_PAGE, "the download went wrong; fetch the file itself"
    elif start.startswith(("<?xml", "<net")):
        yield f"{XML}, as OpenVINO writes its networks", "name the model that it was made from"
    elif start.startswith(("[net]", "[convolutional]")):
        yield "a Darknet network", "export the network as ONNX"
    elif start.startswith(("#!", "import ", "from ", "def ", "class ")):
        yield "a program text", _MODEL
    elif start.startswith(("{", "[")) and (_json(head)[0] != JSON or long or _is_json(text)):
        yield _json(head)
    elif not long and (found := _recipe(text)) is not None:
        yield found


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _json(head: bytes) -> tuple[str, str]:
    """Return what a JSON file is; what this product writes begins with its format."""
    found = _FORMAT.match(head)
    kind = b"" if found is None else found[1]
    if kind == b"ranges":
        return RANGES, "give them to quantize with --ranges"
    if kind == b"passport":
        return PASSPORT, "name the model that the engine was built from"
    return JSON, _MODEL


def _recipe(text: str) -> tuple[str, str] | None:
    try:
        told = parse_toml(text)
    except ValueError:
        return None
    if "calibrate" in told or "preprocess" in told:
        return "a recipe", "give it to onnxgraft deploy, or the preprocessing in it to --preprocess"
    return ("TOML", _MODEL) if told else None
