"""What a .pt2 must not hold: PyTorch reads one as a program, and it comes from a stranger.

PyTorch's own words of `torch.export.load`: "never load data from an untrusted source". An archive
may hold pickles, compiled libraries, and sizes and names that become Python text which is run. So
each member, each operator and each string is looked at first, by PyTorch's own reader of archives,
and only what is known to compute is handed on.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from onnxgraft.errors import ModelError, NotSupportedError, reason_in
from onnxgraft.files import parse_json
from onnxgraft.files.archives import DAMAGED, check_archive
from onnxgraft.files.limits import DOCUMENT_BYTES, EXTERNAL_GROWTH, PROGRAM_NODES
from onnxgraft.files.trust import offer
from onnxgraft.graph.foreign import MAKE_PT2
from onnxgraft.stages.convert.pytorch.expressions import check_expression

__all__ = ["check_program"]

_GRAPH = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_MEMBERS = re.compile(
    r"\.data/\w+|archive_(format|version)|byteorder|extra/.*|models/model\.json"
    r"|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|data/(weights|constants|sample_inputs)/model\.pt"
)
# Pickles, which are read with what PyTorch calls weights_only.
_PICKLE = re.compile(r"data/\w+/model\.pt")
_DAMAGED = "{}: the archive is damaged; export the network again"
# More than its file and this nothing in it may say to hold, in bytes.
_FREE = 64 << 20

# Every string but those below: names become Python text.
_PLAIN = re.compile(r"[\w.,:/@<>+\[\] -]*")
# A size that is computed of free ones: 2*s77, s77 + 1.
_LONGEST_SIZE = 100
_COMPUTED = re.compile(r"(?=.*[*+/-])[\d\s*+/()-]*[su]\d+[\d\s*+/()su-]*")
_NAME = re.compile(r"[A-Za-z_]\w*|")
# What is told of a node, and what it is given as a text, is only carried along; guards are not run.
_FREE_TEXT = frozenset({"as_string", "as_strings", "guards_code", "metadata"})
_OPERATORS = frozenset({
    "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "le", "lshift", "lt", "mod", "mul",
    "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "sub", "truediv",
})  # fmt: skip
_MATH = frozenset({"ceil", "floor", "pow", "sqrt", "trunc"})
_HIGHER = frozenset({
    "associative_scan", "cond", "invoke_subgraph", "map_impl", "scan", "strict_mode",
    "while_loop", "wrap_with_autocast", "wrap_with_set_grad_enabled",
})  # fmt: skip
_LIBRARIES = ("aten", "onnx", "prims", "quantized_decomposed", "torchvision")
# The texts that operators may be given: what they choose by. None is a file's name.
_CHOICES = frozenset({
    "activation", "algorithm", "api_name", "approximate", "assert_msg", "cast_mode_", "driver",
    "equation", "indexing", "interpolation", "interpolation_mode", "mode", "norm", "ord", "p",
    "pad_mode", "padding", "padding_mode", "padding_side", "reduce", "rounding_mode", "side",
    "UPLO",
})  # fmt: skip
_TREES = frozenset({
    "builtins.dict", "builtins.list", "builtins.tuple", "collections.OrderedDict",
    "collections.deque", "torch.Size", "torch.fx.immutable_collections.immutable_dict",
    "torch.fx.immutable_collections.immutable_list",
})  # fmt: skip


def check_program(file: Path) -> dict[str, Any]:
    """Return the description of the program in a .pt2.

    Raises:
        ModelError: It is damaged, or holds what would be run or is more than is read.
    """
    import torch

    try:
        with zipfile.ZipFile(file) as archive:
            check_archive(archive, file)
            if damaged := archive.testzip():  # PyTorch does not look at checksums
                raise ValueError(f"bad CRC-32 for file {damaged!r}")
    except (*DAMAGED, ValueError) as error:
        raise ModelError(
            f"{file}: the archive can't be read ({reason_in(error)}); export it again"
        ) from error
    try:
        reader = torch._C.PyTorchFileReader(str(file))
        members = reader.get_all_records()
    except (IndexError, RuntimeError, ValueError) as error:  # C++'s, of numbers and texts too
        raise ModelError(_DAMAGED.format(file)) from error
    _check_members(file, members)
    graph, *configs = (_document(file, reader, name) for name in (_GRAPH, *_CONFIGS))
    for config in configs:
        _check_weights(file, config)
    for name in filter(_PICKLE.fullmatch, members):
        _check_pickle(file, name, _record(file, reader, name))
    for where, key, value in _strings(graph):
        _check_string(f"{file}: {where}" if where else str(file), file, key, value)
    return graph


def _check_members(file: Path, members: list[str]) -> None:
    for name in members:
        if name.startswith("data/aotinductor/"):
            _refuse(file, "it holds a compiled library (AOTInductor), which is native code")
        if re.fullmatch(r"data/constants/(custom|opaque)_obj_\d+", name):
            _refuse(file, f"{name} is an object of a class of its own, a pickle that runs code")
        if name.startswith("models/") and name != _GRAPH:
            raise ModelError(
                f"{file}: it holds the program {name[7:].removesuffix('.json')!r} beside "
                "torch.export.save's own; save each in a file of its own"
            )
        if not _MEMBERS.fullmatch(name):
            _refuse(file, f"its member {name!r} is none that torch.export.save writes")
    if _GRAPH not in members:
        raise ModelError(f"{file}: it holds no program of torch.export; {MAKE_PT2}")


def _record(file: Path, reader: Any, name: str) -> bytes:
    """Return what is in a member."""
    try:
        return bytes(reader.get_record(name))
    except RuntimeError as error:
        raise ModelError(_DAMAGED.format(file)) from error


def _document(file: Path, reader: Any, name: str) -> dict[str, Any]:
    """Return a JSON member; an old archive lacks the lists of weights."""
    if not reader.has_record(name):
        return {}
    data = _record(file, reader, name)
    DOCUMENT_BYTES.check(len(data), f"{file}: its member {name}")
    try:
        document = parse_json(data)
    except ValueError as error:
        raise ModelError(f"{file}: its member {name} is damaged ({error})") from error
    if not isinstance(document, dict):
        raise ModelError(f"{file}: its member {name} is damaged (it is no table)")
    return document


def _check_weights(file: Path, config: dict[str, Any]) -> None:
    """Refuse pickled weights, and views that are many times as large as the file."""
    total = 0
    try:
        for name, entry in config.get("config", {}).items():
            if entry["use_pickle"]:
                _refuse(file, f"the weight {name!r} is a pickle, which can run code")
            meta = entry["tensor_meta"]
            size = 16
            for dim in meta["sizes"]:
                size *= int(dim["as_int"])
            total += size
            _check_device(file, meta["device"])
            _check_string(str(file), file, "name", entry["path_name"])
            _check_string(str(file), file, "", name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: its list of weights is damaged") from error
    size = file.stat().st_size
    if total > 16 * (EXTERNAL_GROWTH.most * size + _FREE):
        raise ModelError(f"{file}: its weights say to be more than {EXTERNAL_GROWTH.most} times it")


def _check_pickle(file: Path, name: str, data: bytes) -> None:
    """Raise ModelError if reading a pickle would do more than make tensors."""
    import torch

    if not data:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is packed")
            check_archive(archive, file, growth=False)
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # an unpickler raises whatever it meets
        _refuse(file, f"{name} is a pickle that holds more than tensors and can run code", error)


def _strings(graph: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each string with its node's name and its key, and keys with none."""
    stack: list[tuple[str, str, Any]] = [("", "", graph)]
    nodes = 0
    while stack:
        where, key, value = stack.pop()
        if isinstance(value, str):
            yield where, key, value
        elif isinstance(value, list):
            stack += [(where, key, item) for item in value]
        elif isinstance(value, dict):
            if "target" in value:
                nodes += 1
                PROGRAM_NODES.check(nodes, "the program")
                where = str(value.get("name") or where)
            for name, item in value.items():
                yield where, "", name
                stack.append((where, key if key in _FREE_TEXT else name, item))


def computed_size(file: str | os.PathLike[str], size: str) -> NotSupportedError:
    """Return the error at an input whose free size is computed of another size."""
    return NotSupportedError(
        f"{file}: a free size of an input is {size}, computed of another size, which PyTorch's "
        "exporter does not take in a file; export with sizes that are fixed or independent"
    )


def _check_string(where: str, file: Path, key: str, value: str) -> None:
    """Raise ModelError if a string might be run."""
    if key == "expr_str":
        check_expression(where, value)
    elif key in ("in_spec", "out_spec"):
        _check_tree(file, value)
    elif key in ("target", "as_operator") and value.startswith(("torch.", "_operator", "math")):
        _check_operator(where, file, value)
    elif key == "type" and value in ("cuda", "xpu", "mps", "hpu", "xla"):
        _check_device(file, {"type": value})
    elif key in ("name", "as_name", "forward_arg_names"):
        if not _NAME.fullmatch(value):
            _refuse(file, f"the name {value[:80]!r} is none; PyTorch would run it as a program")
    elif key in _FREE_TEXT:
        if "\r" in value:
            _refuse(file, "a text in it has a carriage return, which can hide a line of a program")
    elif len(value) <= _LONGEST_SIZE and _COMPUTED.fullmatch(value):
        raise computed_size(file, value)
    elif not _PLAIN.fullmatch(value):
        _refuse(file, f"{value[:80]!r} is no plain name; PyTorch might run it as a program")


def _check_device(file: Path, device: dict[str, Any]) -> None:
    if device["type"] not in ("cpu", "meta"):
        raise ModelError(
            f"{file}: it was exported on {device['type']}, and is run on the CPU here; export "
            "model.cpu() with an example on the CPU"
        )


def _check_operator(where: str, file: Path, target: str) -> None:
    import torch

    library, *path = target.removeprefix("torch.ops.").split(".")
    name = path[0] if path else ""
    if not target.startswith("torch.ops."):
        known = (
            target.startswith(("torch.sym_", "torch._sym_"))
            or (library == "_operator" and path == [name] and name in _OPERATORS)
            or (library == "math" and path == [name] and name in _MATH)
        )  # fmt: skip
        if not known or target.count(".") != 1:
            _refuse(file, f"{where} calls {target!r}, which is no operator of a network")
        return
    if library == "higher_order":
        if name not in _HIGHER:
            _refuse(file, f"{where} calls {target!r}, which may do more than compute")
        return
    if library not in _LIBRARIES or len(path) != 2:
        raise ModelError(
            f"{where}: the operator {target.removeprefix('torch.ops.')} is of a library of its "
            "own, which ONNX does not know; write that part of the network in PyTorch's operators"
        )
    found: Any = getattr(getattr(torch.ops, library), name, None)
    schema = getattr(getattr(found, path[1], None), "_schema", None)
    texts = {} if schema is None else {a.name for a in schema.arguments if "str" in str(a.type)}
    if not _CHOICES.issuperset(texts):
        _refuse(file, f"{where} calls {target!r}, which may read or write files")


def _check_tree(file: Path, text: str) -> None:
    """Look at how inputs or outputs are nested: classes are imported by their names."""
    try:
        stack = [parse_json(text)[1]]
        while stack:
            tree = stack.pop()
            kind, context = tree["type"], str(tree["context"])
            if kind is not None and kind not in _TREES:
                raise ModelError(
                    f"{file}: an input or output is a {kind}; give and return tuples, lists and "
                    "dicts of tensors"
                )
            if "__enum__" in context or not re.fullmatch(r"[\w.,:/@+\[\]\" -]*", context):
                _refuse(file, f"{context[:80]!r} names an input or output, and is no plain name")
            stack += tree["children_spec"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: what it says of inputs and outputs is damaged") from error


def _refuse(file: Path, why: str, error: Exception | None = None) -> NoReturn:
    raise ModelError(f"{file}: {why}; {offer(file.name)}") from error
