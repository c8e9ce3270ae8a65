"""What a calibration that was killed had counted: a folder with a file for each finished shard."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files import read_json, write_bytes, write_json
from onnxgraft.stages.quantize.measure.measurer import Job, Shard, Tally

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

    def begin(self, job: Job, model: str, shards: Mapping[str, Shard]) -> dict[str, bytes]:
        """Return the packed tallies that are there of the shards, by their names.

        A shard whose samples have changed since, or were skipped, is left out: it is counted again.

        Raises:
            InputError: It was begun with another model, data, recipe or version.
        """
        plan, place = _plan(job, model, shards), self.folder / PLAN
        if self._finished.exists() and not self.folder.is_symlink():
            shutil.rmtree(self.folder)  # a run was killed when it had its result
        self._check_folder()
        if place.is_file() and not self.resume:
            self.clear()
        if place.is_file():
            self._compare(plan)
            found = {name: self._usable(name, job, shard) for name, shard in shards.items()}
            return {name: packed for name, packed in found.items() if packed is not None}
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: can't be made ({error.strerror})") from error
        write_json(place, plan)
        return {}

    def put(self, name: str, packed: bytes) -> None:
        """Keep the packed tally of a finished shard."""
        write_bytes(self._file(name), packed)

    def leave(self) -> bool:
        """Tell whether a later run can use what is in the folder; remove it if not."""
        useful = any(self.folder.glob("*.npz"))
        if not useful:
            self.clear()
        return useful

    def clear(self) -> None:
        """Remove the folder: the result is where it belongs, or there is none."""
        (self.folder / PLAN).rename(self._finished)
        shutil.rmtree(self.folder)

    @property
    def _finished(self) -> Path:
        return self.folder / f"{PLAN}.finished"

    def _check_folder(self) -> None:
        """Refuse what is no checkpoint; a run may have been killed before it wrote the plan."""
        place = self.folder
        if place.is_dir() and not place.is_symlink():  # what is elsewhere is not ours to clear
            strange = not (place / PLAN).is_file() and any(
                not entry.name.startswith(".") for entry in place.iterdir()
            )
        else:
            strange = os.path.lexists(place)
        if strange:
            raise InputError(f"{place}: is in the way of the checkpoint; remove or rename it")

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _usable(self, name: str, job: Job, shard: Shard) -> bytes | None:
        try:
            packed = self._file(name).read_bytes()
            tally = Tally.from_bytes(packed)
        except (InputError, OSError, RecursionError, ValueError, LookupError, TypeError):
            return None
        whole = {*tally.histograms} in ({*job.sites}, set())  # none where all were skipped
        by_channel = {*tally.channels} <= {*job.per_channel}
        return packed if whole and by_channel and _unchanged(job, shard, tally) else None

    def _compare(self, plan: Mapping[str, object]) -> None:
        try:
            begun = read_json(self.folder / PLAN)
            if not isinstance(begun, dict):
                raise ValueError("no object")
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
            digest = job.samples.identity(position)
        except InputError:
            return False
        if tally.samples.get(job.samples.name(position)) != digest:
            return False
    return True
