"""What a calibration that was killed had counted: a folder with a file for each finished shard."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files import write_bytes, write_json
from onnxgraft.quantize._measure import Job, Shard, Tally

__all__ = ["Checkpoint"]

PLAN = "plan.json"
# What may change the bits of a tensor.
_PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless")


class Checkpoint:
    """A folder beside the result.

    Args:
        folder: Made when a calibration begins.
        resume: Whether to go on from what is there; otherwise it is removed first.
    """

    def __init__(self, folder: str | os.PathLike[str], *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self.resume = resume

    def begin(self, job: Job, model: str, shards: Mapping[str, Shard]) -> dict[str, Tally]:
        """Return what is there of the shards, by their names.

        A shard whose samples have changed since, or were skipped, is left out: it is counted again.

        Raises:
            InputError: It was begun with another model, data, recipe or version.
        """
        plan, place = _plan(job, model, shards), self.folder / PLAN
        if self.folder.exists() and not place.is_file():
            raise InputError(f"{self.folder}: is in the way of the checkpoint; remove or rename it")
        if place.is_file() and not self.resume:
            self.clear()
        if place.is_file():
            self._compare(plan)
            found = {name: self._tally(name) for name in shards}
            return {
                name: tally
                for name, tally in found.items()
                if tally is not None and _unchanged(job, shards[name], tally)
            }
        try:
            self.folder.mkdir()
        except OSError as error:
            raise InputError(f"{self.folder}: can't be made ({error.strerror})") from error
        write_json(place, plan)
        return {}

    def put(self, name: str, packed: bytes) -> None:
        """Keep the packed tally of a finished shard."""
        write_bytes(self._file(name), packed)

    def leave(self) -> None:
        """Remove the folder if there is nothing in it that a later run could use."""
        if not any(self.folder.glob("*.npz")):
            self.clear()

    def clear(self) -> None:
        """Remove the folder: the result is where it belongs, or there is none."""
        (self.folder / PLAN).rename(self.folder / f"{PLAN}.done")
        shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _tally(self, name: str) -> Tally | None:
        try:
            return Tally.from_bytes(self._file(name).read_bytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _compare(self, plan: Mapping[str, object]) -> None:
        try:
            begun = json.loads((self.folder / PLAN).read_text())
        except ValueError as error:
            raise InputError(f"{self.folder / PLAN}: is damaged; run without --resume") from error
        for key, value in plan.items():
            if begun.get(key) != value:
                raise InputError(
                    f"{self.folder}: was begun with another {key}; run without --resume to begin "
                    "again"
                )


def _plan(job: Job, model: str, shards: Mapping[str, Shard]) -> dict[str, object]:
    names = "\n".join(job.samples.name(position) for position in range(len(job.samples)))
    return {
        "model": model,
        "preprocessing recipe": job.samples.preprocess.fingerprint,
        "choice of samples": hashlib.sha256(names.encode()).hexdigest(),
        "set of tensors": [list(job.sites), list(job.per_channel)],
        "division into shards": list(shards),
        "version of a package": {package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _unchanged(job: Job, shard: Shard, tally: Tally) -> bool:
    for position in range(*shard):
        try:
            digest, _ = job.samples.identity(position)
        except InputError:
            return False
        if tally.samples.get(job.samples.name(position)) != digest:
            return False
    return True
