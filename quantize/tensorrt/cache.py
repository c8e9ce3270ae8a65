"""TensorRT's calibration cache, read and written.

    TRT-100300-EntropyCalibration2          TRT-<version>-<algorithm>
    conv1: 3c88edfc                         <tensor>: <scale, float32, big-endian hexadecimal>

(TensorRT's samples/sampleINT8/README.md, releases 8.0 to 8.4). The scale is the range's largest
magnitude over 127. TensorRT 10 and older read it; 11 has no calibrators any more, but the scales
are the same in a graph with QuantizeLinear and DequantizeLinear.

A builder calibrates again, without a word, when the first line is not of its own version and
algorithm. The version is therefore chosen by the user; the scales do not depend on it.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, read_json, sha256, together, write_bytes, write_json
from onnxgraft.files.limits import CACHE_BYTES, PASSPORT_BYTES
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.stages.quantize.measure.observers import find_sites
from onnxgraft.stages.quantize.measure.thresholds import BINS
from onnxgraft.stages.quantize.place.placement import activations
from onnxgraft.stages.quantize.place.ready import fingerprint

__all__ = [
    "Cache", "Mapped", "cache_text", "header_version", "parser_tensors", "ranges_from_cache",
    "read_cache", "tensorrt_scale", "write_cache",
]  # fmt: skip

ALGORITHM = "EntropyCalibration2"
_HEADER = re.compile(r"TRT-([^-\s]+)-(\w+)")
_LINE = re.compile(r"(.*): ?(?:0[xX])?([0-9a-fA-F]{1,8})", re.DOTALL)
_UNNAMED = re.compile(r"\(Unnamed Layer\* (\d+)\) \[(.+)\]_output(?:_\d+)?")
# Layers of TensorRT's parser that hand values on.
_KEEPING = frozenset({"CAST", "IDENTITY", "SHUFFLE"})
_NEVER_NEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})
_MOST_LINES = 1 << 20


@dataclass(frozen=True)
class Cache:
    """What a cache holds.

    Attributes:
        file: Where it was read from.
        version: As in its first line, such as ``8401``.
        algorithm: Such as ``EntropyCalibration2``.
        scales: By TensorRT's tensor name; exact float32 values, 0 for a tensor of zeros.
        notes: Lines that can't be used, and why.
    """

    file: str
    version: str
    algorithm: str
    scales: dict[str, float]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Mapped:
    """The ranges of a cache for a model, and what found no partner.

    Attributes:
        ranges: By the model's tensor names.
        unknown: Entries of the cache that are no tensors of the model, with what they may be.
        missing: Tensors that some target wants and the cache does not have.
    """

    ranges: Ranges
    unknown: dict[str, str]
    missing: list[str]


def read_cache(path: str | os.PathLike[str]) -> Cache:
    """Read a calibration cache, as real ones are.

    Lines may be in any order and end in any way, names hold blanks, brackets and colons, values
    are not padded. A value that is no range (infinite, NaN, negative) is left out with a note; a
    name that occurs again takes its last value.

    Raises:
        InputError: It is no cache, or a line is none; the line's number is told.
    """
    file = existing_file(path, "the calibration cache", CACHE_BYTES)
    try:
        lines = file.read_bytes().decode().rstrip("\0").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not a TensorRT calibration cache (binary data)") from error
    header = _HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        raise InputError(
            f"{file}, line 1: a TensorRT calibration cache begins with TRT-<version>-<algorithm>, "
            f"this with {lines[0][:40] if lines else ''!r}"
        )
    if len(lines) > _MOST_LINES:
        raise InputError(f"{file}: has {len(lines):,} lines, at most {_MOST_LINES:,} are read")
    scales: dict[str, float] = {}
    notes = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.rstrip())
        if found is None:
            raise InputError(
                f"{file}, line {number}: {line[:60]!r} is not a tensor's name, a colon and a scale "
                "of up to 8 hexadecimal digits; repair or remove the line"
            )
        name, digits = found.groups()
        (scale,) = struct.unpack(">f", int(digits, 16).to_bytes(4, "big"))
        if not math.isfinite(scale) or scale < 0:
            notes.append(f"line {number}: the scale of {name!r} is {scale}; it is left out")
            scales.pop(name, None)
            continue
        if name in scales and scales[name] != scale:
            notes.append(f"line {number}: {name!r} occurs again; the last scale, {scale:g}, counts")
        scales[name] = scale
    return Cache(str(path), header[1], header[2], scales, notes)


def tensorrt_scale(value: Range) -> float:
    """Return the scale that TensorRT writes for a range, a float32.

    Entropy calibration's threshold is the middle of the last of its 2048 bins, so that a range of
    which nothing is cut off ends half a bin beyond the largest magnitude.

    >>> struct.pack(">f", tensorrt_scale(Range(0.0, 255.0, 0.0, 255.0, "entropy"))).hex()
    '4000890a'
    """
    amax = value.amax
    if value.origin == "entropy" and amax == max(abs(value.minimum), abs(value.maximum)):
        amax *= (BINS + 0.5) / BINS
    (scale,) = struct.unpack(">f", struct.pack(">f", amax / 127))
    return float(scale)


def header_version(version: str) -> str:
    """Return the number in a cache's first line for a TensorRT version.

    >>> header_version("8.6.1"), header_version("10.3.0"), header_version("100300")
    ('8601', '100300', '100300')

    Raises:
        InputError: It is no version.
    """
    if re.fullmatch(r"\d{4,}", version):
        return version
    if not re.fullmatch(r"\d+\.\d+(\.\d+)*", version):
        raise InputError(f"--trt-version {version}: write the target's version such as 10.3.0")
    major, minor, patch = [*(int(part) for part in version.split(".")), 0][:3]
    return str(major * (1000 if major < 10 else 10000) + minor * 100 + patch)


def cache_text(scales: Mapping[str, float], version: str, algorithm: str = ALGORITHM) -> str:
    """Return the text of a cache.

    Args:
        scales: float32 values by TensorRT's tensor name.
        version: Of the TensorRT that will read it, such as ``10.3.0``.
        algorithm: Of the calibrator that will read it.
    """
    lines = [f"TRT-{header_version(version)}-{algorithm}"]
    for name, scale in scales.items():
        if len(name.splitlines()) != 1:
            raise InputError(f"the tensor {name!r} can't be written to a calibration cache")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def write_cache(
    path: str | os.PathLike[str], model: Model, ranges: Ranges, version: str
) -> list[str]:
    """Write the ranges as a cache, and beside it, ``.json`` appended, what they belong to.

    Where tensorrt is installed the tensors that its parser adds get a line too, if they hold the
    values of one that has a range.

    Returns:
        Sentences about what the cache does not hold.
    """
    scales = {name: tensorrt_scale(value) for name, value in ranges.tensors.items()}
    added = parser_tensors(model)
    scales |= {name: scales[source] for name, source in (added or {}).items() if source in scales}
    text = cache_text(scales, version).encode()
    with together(path, f"{os.fspath(path)}.json") as (cache, beside):
        write_bytes(cache, text)
        about = {"model": ranges.model, "cache_sha256": sha256(cache)}
        write_json(beside, {**about, "data_sha256": ranges.fingerprint})
    if added is None:
        told = "tensorrt is not installed here, or does not take the graph, so tensors that its "
        return [told + "parser adds have no line; the layers that they feed may stay in float"]
    return []


def ranges_from_cache(model: Model, cache: Cache) -> Mapped:
    """Return the ranges of ``model`` that a cache holds.

    Names are taken as ONNX tensors', then as the original framework's (``conv1`` for ``conv1:0``),
    then, where tensorrt is installed, as those that its parser gives.

    Raises:
        InputError: The cache was written for another model, or none of its names is known.
    """
    _check_passport(cache, model)
    names = _names(model)
    parsed = parser_tensors(model) or {}
    known = model.graph.tensors()
    tensors: dict[str, Range] = {}
    unknown = {}
    for name, scale in cache.scales.items():
        tensor = names.get(name) or parsed.get(name)
        if tensor is None:
            unknown[name] = _explanation(name)
        elif tensor not in tensors or name == tensor:
            tensors[tensor] = _from_scale(known[tensor], scale, f"cache {cache.algorithm}")
    if not tensors:
        raise InputError(
            f"{cache.file}: none of its {len(cache.scales)} tensors is in {model.file}; it belongs "
            "to another model"
        )
    wanted = list(activations(model.graph))
    for name, sites in find_sites(model.graph, wanted).items():
        # What an operator hands on has the range of either end.
        if name not in tensors and len(sites) == 1 and sites[0] in tensors:
            tensors[name] = tensors[sites[0]]
    ranges = Ranges(
        method=f"cache {cache.algorithm}", images=0, model=fingerprint(model), preprocess="",
        data=cache.file, tensors=tensors, notes=list(cache.notes), file=cache.file,
    )  # fmt: skip
    return Mapped(ranges, unknown, [name for name in wanted if name not in tensors])


def _from_scale(tensor: gs.Tensor, scale: float, origin: str) -> Range:
    """Return the range of a scale, which does not tell whether there are negative values."""
    amax = scale * 127
    positive = bool(tensor.inputs) and is_op(tensor.inputs[0], *_NEVER_NEGATIVE)
    low = 0.0 if positive else -amax
    return Range(low, amax, low, amax, origin)


def parser_tensors(model: Model) -> dict[str, str] | None:
    """Return the tensors that TensorRT's parser adds, with the model's whose values they hold.

    None if tensorrt is not installed, or does not take the graph.
    """
    try:
        import tensorrt as trt
    except ImportError:
        return None

    class Silent(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Print nothing: that the parser takes the graph or not is all that is asked."""

    logger = Silent()
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.to_onnx().SerializeToString()):
        return None
    own = set(_names(model))
    source: dict[str, str] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        first = layer.get_input(0) if layer.num_inputs else None
        if first is None or layer.type.name not in _KEEPING:
            continue
        held = first.name if first.name in own else source.get(first.name)
        name = layer.get_output(0).name
        if held is not None and name not in own:
            source[name] = held
        if held is not None:
            # Older versions numbered them.
            source.setdefault(f"(Unnamed Layer* {index}) [{layer.type.name.title()}]_output", held)
    return source


def _names(model: Model) -> dict[str, str]:
    """Return the names under which a cache may have the model's tensors."""
    tensors = model.graph.tensors()
    names = {}
    for name, origin in model.names.items():
        if name in tensors:
            names[origin.name] = name
            names.setdefault(origin.name.removesuffix(":0"), name)
    for name in tensors:
        names.setdefault(name.removesuffix(":0"), name)
    return names | {name: name for name in tensors}


def _explanation(name: str) -> str:
    found = _UNNAMED.fullmatch(name)
    if found is None:
        return "no tensor of the model has this name"
    if found[2] == "Constant":
        return "a constant that TensorRT's parser added; its values are in the graph"
    if found[2].upper() in _KEEPING:
        return f"a {found[2]} that TensorRT's parser added; it holds the values of its input"
    return f"the output of a {found[2]} without a name; which one TensorRT alone knows"


def _check_passport(cache: Cache, model: Model) -> None:
    """Refuse a cache that `write_cache` wrote for another model."""
    beside = Path(f"{cache.file}.json")
    try:
        told = read_json(existing_file(beside, "what the cache belongs to", PASSPORT_BYTES))
        same = told["cache_sha256"] == sha256(cache.file)
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return
    if same and told.get("model") != fingerprint(model):
        raise InputError(
            f"{cache.file}: was written for another model than {model.file}; calibrate again"
        )
