"""The stages of a deployment: taken over where an earlier run made them, timed, and told of."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from onnxgraft.commands._reads import surroundings
from onnxgraft.errors import InputError, nearest
from onnxgraft.files import Entry, Kept, key_of, read_json, write_bytes
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Outputs
from onnxgraft.progress import logger, told
from onnxgraft.stages.validate.report import Report, StageTime

__all__ = ["HIDDEN", "STAGES", "Made", "Stages", "kept_folder", "read_outputs", "write_outputs"]

# What `--from` takes, in order. What is known of the original and of the data goes with the first.
STAGES = ("convert", "surgery", "calibrate", "quantize", "build", "validate", "bench")
# Begins the names of what a stage keeps for later ones, and which is no result.
HIDDEN = "_"
_PART = f"{HIDDEN}part.json"

Make = Callable[[Path, Report], None]


@dataclass(frozen=True)
class Made:
    """What a stage made, in this run or in an earlier one.

    Attributes:
        folder: With its files.
        part: What it noted.
    """

    folder: Path
    part: Report


def kept_folder(out: Path) -> Path:
    """Return where the stages of the runs into a folder are kept: beside it."""
    whole = out if out.name else Path(os.path.abspath(out))
    return whole.parent / f"{whole.name}.kept"


class Stages:
    """Runs the stages of one deployment.

    Args:
        kept: What earlier runs made.
        report: Gets what each stage notes, and its time.
        begin: The stage from which on everything is made again; None makes what has changed.
        fresh: Make everything again.
    """

    def __init__(self, kept: Kept, report: Report, begin: str | None, fresh: bool) -> None:
        if begin is not None and begin not in STAGES:
            raise InputError(f"--from {begin}: {nearest(begin, STAGES)}")
        self.kept, self.report = kept, report
        self._again = 0 if fresh else len(STAGES) if begin is None else STAGES.index(begin)
        # Of what was made, by name: its hash, the folder that it is in, and of graphs the model.
        self.keys: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        self._models: dict[str, Model] = {}
        # Of files that stages read: their hash, and what gives it again.
        self._files: dict[str, tuple[object, Callable[[], object]]] = {}
        self._times: dict[str, StageTime] = {}
        self._entries: list[Entry] = []
        self._made: set[str] = set()  # parts of which something was made in this run
        self._last = self._begun = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, title: str, more: str = "") -> Iterator[None]:
        """Time the block, with what came since the one before it, as a part of the run.

        Args:
            title: Of the part, which may come in several blocks.
            more: Is said of this one.
        """
        rows = len(self.report.stages)
        self._entries = []
        try:
            with told(f"{title}{more}"):
                yield
        finally:
            now = time.perf_counter()
            seconds, self._last = now - self._last, now
            mine = self._times.setdefault(title, StageTime(title, 0.0))
            mine.seconds += seconds
            for row in self.report.stages[rows:]:
                row.seconds = mine.seconds
        if not all(entry.created for entry in self._entries):
            self._made.add(title)
        if self._entries and title not in self._made:
            made = (mine.kept, *(entry.created for entry in self._entries))
            mine.kept = min(filter(None, made))
            mine.before += sum(entry.seconds for entry in self._entries)
            logger.info("%s%s: taken over from %s (%.1f s)", title, more, mine.kept, seconds)
        else:
            mine.kept, mine.before = "", 0.0
            logger.info("%s%s: %.1f s", title, more, seconds)

    def again(self, stage: str) -> bool:
        """Tell whether a stage is to be made again, whatever is kept of it."""
        return (STAGES.index(stage) if stage in STAGES else 0) >= self._again

    def made(
        self,
        stage: str,
        what: str,
        reads: Mapping[str, object],
        make: Make,
        name: str = "",
        files: Sequence[str] = (),
    ) -> Made:
        """Return what a stage made of what it reads, in an earlier run or now.

        Args:
            stage: One of `STAGES`, or what goes with the first.
            what: It makes; the two name it.
            reads: Everything that the result depends on, but for `surroundings`; plain values.
            make: Writes files into a folder and notes into a report.
            name: What it is known by from then on; ``what`` if empty.
            files: Which files, see `watch`, are read meanwhile.

        Raises:
            InputError: They are not those any more that were hashed.
        """
        title = f"{stage}-{what}"
        key = key_of({"stage": title, "in": surroundings(), "reads": reads})
        entry = None if self.again(stage) else self.kept.find(title, key)
        part = None if entry is None else _read_part(entry.folder)
        if entry is None or part is None:
            logger.debug("%s: made, of what has the hash %s", title, key[:12])
            with self.kept.make(title, key) as folder:
                found = Report("", "")
                make(folder, found)
                for read in files:
                    before, now = self._files[read]
                    if now() != before:
                        raise InputError(f"{read}: changed while it was read; run it again")
                write_bytes(folder / _PART, _text(found))
            entry = self.kept.entry(title, key)
            part = _read_part(entry.folder)
            assert part is not None
        self._entries.append(entry)
        for note in (*part.notes, *part.missed):
            logger.debug("%s: %s", title, note)
        self.report.add(part)
        self.keys[name or what], self.folders[name or what] = key, entry.folder
        return Made(entry.folder, part)

    def of(self, *names: str, **reads: object) -> dict[str, object]:
        """Return what a stage reads: what was made before, by name, and more."""
        return {"made": [self.keys[name] for name in names], **reads}

    def watch(self, title: str, hashed: Callable[[], object]) -> object:
        """Return the hash of files, which has to be the same when a stage has read them."""
        self._files[title] = hashed(), hashed
        return self._files[title][0]

    def save(self, model: Model, file: Path) -> None:
        """Write a graph that a stage made."""
        self._models[file.name] = model
        model.save(file)

    def graph(self, name: str) -> Model:
        """Return a graph that a stage made."""
        if name not in self._models:
            self._models[name] = Model.load(self.folders[name] / name)
        return self._models[name]

    def end(self, *, whole: bool) -> None:
        """Note the times and what was taken over; what no stage used is kept no longer.

        Args:
            whole: Whether every stage was reached.
        """
        report = self.report
        if whole:
            self.kept.tidy()
        taken = [row for row in self._times.values() if row.kept]
        if taken:
            oldest = min(row.kept for row in taken)
            report.notes.append(
                "taken over from earlier runs, as nothing that they read has changed: "
                f"{', '.join(row.stage for row in taken)} (since {oldest}); --fresh makes them "
                "again"
            )
        report.times = list(self._times.values())
        report.seconds = time.perf_counter() - self._begun
        logger.info("kept for the next run: %s (%.1f MB)", self.kept.folder, self.kept.size / 1e6)


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def _text(part: Report) -> bytes:
    """Return what a stage noted, with its infinities, which JSON does not have."""
    return json.dumps(asdict(part), default=lambda value: value.item()).encode()


def _read_part(folder: Path) -> Report | None:
    try:
        return _adapter().validate_python(read_json(folder / _PART))
    except (OSError, ValueError, ValidationError):
        return None


def write_outputs(file: Path, found: list[Outputs]) -> None:
    """Write the outputs of some samples, of whatever type they are."""
    arrays: dict[str, Any] = {}
    names: list[list[list[str]]] = []
    for sample, outputs in enumerate(found):
        names.append([])
        for index, (name, value) in enumerate(outputs.items()):
            kind = str(value.dtype)
            plain = value.astype(str) if value.dtype == object else value
            # numpy's files know no bfloat16 and the like.
            stored = plain.view(f"u{plain.itemsize}") if plain.dtype.kind == "V" else plain
            arrays[f"{sample}.{index}"] = stored
            names[-1].append([name, kind])
    np.savez(file, names=np.array(json.dumps(names)), **arrays)


def read_outputs(file: Path) -> list[Outputs]:
    """Return what `write_outputs` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        return [
            {
                name: _as(stored[f"{sample}.{index}"], kind)
                for index, (name, kind) in enumerate(outputs)
            }
            for sample, outputs in enumerate(json.loads(str(stored["names"])))
        ]


def _as(value: Any, kind: str) -> Any:
    if kind == "object":
        return value.astype(object)
    return value if str(value.dtype) == kind else value.view(np.dtype(kind))
