"""What a passport says of how an engine was made, and of what was measured of it."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

from onnxgraft.commands._recipe import read_tables
from onnxgraft.data.functions import Function
from onnxgraft.data.listing import list_data
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, sha256
from onnxgraft.files.limits import IMAGE_BYTES
from onnxgraft.files.remote import File, Remote, contents, place_of
from onnxgraft.graph.model import Model
from onnxgraft.stages.engine import BuildOptions, Evidence
from onnxgraft.stages.engine.passport import Passport, record
from onnxgraft.stages.quantize.place.costs import shares
from onnxgraft.stages.validate.polygraphy import is_recording
from onnxgraft.stages.validate.report import CandidateRow, EngineRow

__all__ = ["engine_row", "evidence", "hash_of_data", "record_accuracy", "work_of"]

Place = str | os.PathLike[str]


def evidence(
    *,
    ranges: Place | None = None,
    data: Place | Samples | None = None,
    recipe: Place | None = None,
    tables: tuple[Preprocess, Postprocess] | None = None,
    sees: Preprocess | None = None,
) -> Evidence:
    """Return the hashes of what was used, and the recipe's tables for who runs the engine.

    Args:
        ranges: What `calibrate` wrote, or a calibration cache.
        data: What was calibrated on: a folder, a list file or an ``.npz``; or samples.
        recipe: A TOML file with ``[preprocess]`` and ``[postprocess]``.
        tables: The two, where they are known already; None reads them from ``recipe``.
        sees: What the engine itself makes of a picture, where its outputs lie in that.
    """
    hashes = {}
    if ranges is not None:
        hashes["ranges"] = sha256(existing_file(ranges, "the ranges file"))
    if data is not None:
        hashes["data"] = hash_of_data(data)
    if recipe is not None:
        hashes["recipe"] = sha256(existing_file(recipe, "the recipe"))
        tables = tables or read_tables(recipe)
    if tables is None:
        return Evidence(hashes)
    # The names of classes are in the passport, which may be read where their file is not.
    tables = tables[0], tables[1].named().model_copy(update={"classes": None})
    # Of a table that says nothing there is nothing to keep: who runs the engine is told so.
    before, after = (
        table.model_dump(mode="json") if table.model_fields_set else {} for table in tables
    )
    inside = {} if sees is None else {"inside": sees.model_dump(mode="json")}
    return Evidence(hashes, {"preprocess": before, "postprocess": after, **inside})


def hash_of_data(data: Place | Samples) -> str:
    """Return the SHA-256 over the files of a folder or list file, by name and contents.

    Of a file that holds the data itself, such as an ``.npz``, it is that of the file; of data that
    Python gave that over the hashes of the samples.
    """
    total = hashlib.sha256()
    if isinstance(data, Samples):
        if not data.given:
            return hash_of_data(data.source)
        for position in range(len(data)):
            total.update(f"{data.identity(position)}\n".encode())
        return total.hexdigest()
    place, labels = place_of(data), dict[File, int]()
    files: list[File] = []
    if isinstance(place, Remote):
        files, labels = _listed(place)
    elif place.is_dir():
        files = sorted(entry for entry in place.iterdir() if entry.is_file())
    elif existing_file(place, "the data").suffix == ".npz" or is_recording(place):
        return sha256(place)
    if not files:
        if isinstance(place, Path) and list_data(place).rows:
            return sha256(place)
        files, labels = _listed(place)
    if not files:
        raise InputError(f"{place}: there are no files in it")
    for file in files:
        kind = f"\0{labels[file]}" if file in labels else ""
        total.update(f"{file.name}\0{_sha256(file)}{kind}\n".encode())
    return total.hexdigest()


def _listed(place: File) -> tuple[list[File], dict[File, int]]:
    """Return the files of a folder or list, and the classes that are their labels."""
    found = list_data(place)
    return found.files, {e.images[0]: e.label for e in found.entries if isinstance(e.label, int)}


def _sha256(file: File) -> str:
    if isinstance(file, Remote):
        return hashlib.sha256(contents(file, IMAGE_BYTES, "the image")).hexdigest()
    return sha256(file)


def work_of(graph: Model, options: BuildOptions) -> dict[str, float]:
    """Return the part of all multiplications that each layer does, where a build asks for it."""
    divided = options.provider is not None or (options.device or "").startswith("HETERO")
    return shares(graph) if divided else {}


def engine_row(name: str, passport: Passport, file: Path) -> EngineRow:
    """Return what a passport says of whether an engine computes what its graph says.

    Args:
        name: What reports call the engine.
        passport: Of it.
        file: The engine.
    """
    cpu = passport.cpu
    int8 = passport.label.startswith("int8")
    return EngineRow(
        name, str(cpu), cpu.arithmetic if int8 and cpu.name else "", passport.proven,
        [str(output) for output in passport.proof], list(passport.notes),
        file.stat().st_size, passport.flags.threads or 0, passport.name,
        gpu="" if cpu.name else passport.runs_on,
    )  # fmt: skip


def record_accuracy(
    engine: Place,
    row: CandidateRow,
    samples: int,
    data: str,
    metric: object = None,
    cpu: str | None = None,
) -> None:
    """Write what validation measured of an engine into its passport.

    Args:
        engine: Has a passport.
        row: Of the report.
        samples: How many there were.
        data: The hash of what they are from, which says on which data the figures were measured.
        metric: Of the figures; the hash of a function of the user's own is noted.
        cpu: The processor of another machine, where it was measured on one.
    """
    found = {"samples": float(samples), **row.metrics}
    for output in row.outputs:
        found[f"{output.output}: largest difference of its range"] = output.relative
        found[f"{output.output}: cosine"] = output.cosine
        found[f"{output.output}: SQNR in dB"] = output.sqnr
        if output.agreement is not None:
            found[f"{output.output}: same argmax in percent"] = 100 * output.agreement
    finite = {name: value for name, value in found.items() if math.isfinite(value)}
    hashes = {"validation": data} if cpu is None else {}
    if isinstance(metric, Function):
        hashes["metric"] = metric.sha256
    record(engine, accuracy=finite, hashes=hashes, direction=row.direction, cpu=cpu)
