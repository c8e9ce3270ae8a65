"""`export`: an engine as another program wants it: for Triton, or with a program in C++."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from onnxgraft.commands._engine_recipe import recipe_of
from onnxgraft.commands._export_cpp import export_cpp
from onnxgraft.commands._opening import ModelGiven, Place, graph_of_engine
from onnxgraft.commands._outputs import check_beside
from onnxgraft.errors import InputError, OnnxgraftError, nearest
from onnxgraft.files import atomic_folder, check_folder, existing_file, sha256, write_bytes
from onnxgraft.graph.foreign import TRITON
from onnxgraft.graph.model import Model
from onnxgraft.stages.engine import graph_hash
from onnxgraft.stages.engine.passport import Passport, own_passport
from onnxgraft.stages.engine.triton import configuration
from onnxgraft.targets import find_target

__all__ = ["Exported", "Form", "export"]

Form = Literal["cpp", "triton"]
_FORMS: tuple[Form, ...] = ("cpp", "triton")
_CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        out: The model repository, or the program's folder.
        name: Of the model in it.
        version: Of the model; 0 of a program.
        files: In the folder.
        notes: Sentences that whoever runs it should read.
    """

    out: str
    name: str
    version: int
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def export(
    form: Form,
    engine: Place,
    out: Place,
    *,
    name: str | None = None,
    max_batch: int | None = None,
    instances: int | None = None,
    queue_delay: int = 0,
    threads: int | None = None,
    graph: Sequence[ModelGiven] = (),
    force: bool = False,
) -> Exported:
    """Write an engine as another program wants it: for Triton, or with a program in C++.

    For Triton it becomes a model in a model repository. What is there already stays: an engine
    becomes the model's next version, which is the one that is served from then on. An engine that
    is there already is configured anew.

    Args:
        form: ``triton``; or ``cpp``, a folder with the engine, a program of one file that runs it,
            a sample, and what the engine answers to that. The other options are Triton's.
        engine: With its passport beside it.
        out: The folder; in Triton's other models may be.
        name: Of the model; that of the network's file if not given.
        max_batch: How many requests are joined at most, where the batch is free. If not given, what
            `bench --p99` found best; or 16, for TensorRT what the engine was built for, and with
            OpenVINO, whose backend pads each batch to it, clients make batches.
        instances: That run side by side; what `bench --p99` found best, or 1, if not given.
        queue_delay: Microseconds that a request may wait for others.
        threads: Of the CPU, for an instance; what was found best, or the engine was built for, if
            not given.
        graph: ONNX files, one of which the engine was built from, where that is not beside it:
            OpenVINO's backend reads it.
        force: Replace a configuration that was not written by this command.

    Raises:
        InputError: The file is not the engine that its passport describes, or can't be served so.
    """
    if form not in _FORMS:
        raise InputError(f"no form of export is called {form!r}; {nearest(form, _FORMS)}")
    file = existing_file(engine, "the engine")
    passport = own_passport(file)
    if form == "cpp":
        given = {
            "--name": name, "--max-batch": max_batch, "--instances": instances,
            "--queue-delay": queue_delay, "--threads": threads, "--graph": graph,
        }  # fmt: skip
        for option, value in given.items():
            if value:
                raise InputError(f"{option} goes with export triton; leave it out")
        files, notes = export_cpp(file, passport, Path(out), force=force)
        return Exported(str(out), _name(passport), 0, files, notes)
    title = _name(passport) if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", title, re.ASCII):
        raise InputError(
            f"--name {title}: a model's name has letters, digits, dots, dashes and underscores"
        )
    check_folder(out)
    place = Path(out) / title
    check_beside(place / _CONFIG, TRITON, force=force)
    labels = recipe_of(file, False, after=False)[1].named().labels()
    best = passport.served(passport.runs_on)
    joins = find_target(passport.target).triton.joins
    if max_batch is None and joins and best.get("batch", 1) > 1:
        max_batch = best["batch"]
    instances = best.get("instances", 1) if instances is None else instances
    threads = best.get("threads") if threads is None else threads
    # Asked before anything is written.
    configuration(passport, title, largest=max_batch, instances=instances, threads=threads)
    read = None if find_target(passport.target).triton.engine else _graph(file, graph)
    version = _stored(place, file, passport, read)
    made = configuration(
        passport, title, version, largest=max_batch, instances=instances, delay=queue_delay,
        threads=threads, labels=labels, file=f"labels.{version}.txt",
    )  # fmt: skip
    written = [place / _CONFIG, place / str(version) / find_target(passport.target).triton.file]
    if made.labels:
        written.append(place / f"labels.{version}.txt")
        write_bytes(written[-1], "".join(f"{label}\n" for label in made.labels).encode())
    # Who is killed before this has changed nothing that Triton serves.
    write_bytes(place / _CONFIG, made.text.encode())
    told = tuple(sorted(str(path.relative_to(out)) for path in written))
    return Exported(str(out), title, version, told, made.notes)


def _name(passport: Passport) -> str:
    """Return what a model is called: as the file of the network, in letters that folders have."""
    stem = Path(passport.source.path).stem or passport.target
    return re.sub(r"[^\w.-]+", "_", stem, flags=re.ASCII).lstrip("._-") or "model"


def _graph(engine: Path, given: Sequence[ModelGiven]) -> Model:
    """Return the graph that an engine was built from, for a backend that compiles it itself."""
    found = graph_of_engine(engine, given)
    if found is None:
        raise InputError(
            f"{engine}: Triton's backend reads the graph that it was built from, which is not "
            "beside it; name it with --graph"
        )
    return found


def _stored(place: Path, engine: Path, passport: Passport, graph: Model | None) -> int:
    """Write what Triton loads as the next version of a model, and return that.

    Where the last version is the same, it is that.
    """
    name = find_target(passport.target).triton.file
    numbers = [int(entry.name) for entry in place.glob("[1-9]*") if entry.name.isdecimal()]
    last = max(numbers, default=0)
    there = place / str(last) / name
    if there.is_file() and (
        sha256(there) == passport.engine if graph is None else _is_graph(there, passport)
    ):
        return last
    with atomic_folder(place / str(last + 1)) as folder:
        if graph is None:
            shutil.copyfile(engine, folder / name)
        else:
            graph.save(folder / name)
    return last + 1


def _is_graph(file: Path, passport: Passport) -> bool:
    with contextlib.suppress(OnnxgraftError):
        return graph_hash(Model.load(file)) == passport.graph
    return False
