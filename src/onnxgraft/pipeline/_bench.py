"""Latency: each engine in a process of its own, taking turns, so that none disturbs another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Literal, Unpack

import numpy as np

from onnxgraft.convert import Opening
from onnxgraft.engine.passport import passport_path
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file
from onnxgraft.progress import track
from onnxgraft.report import LatencyRow

__all__ = ["BenchTarget", "bench", "bench_targets"]


@dataclass(frozen=True)
class BenchTarget:
    """Something to time.

    Attributes:
        name: In the table.
        kind: ``original`` runs in its framework, ``engine`` is built, ``onnx`` runs in
            onnxruntime.
        path: Of the file.
        how: An original is opened.
    """

    name: str
    kind: Literal["original", "engine", "onnx"]
    path: str
    how: Opening = field(default_factory=Opening)


class _Worker:
    """A child process that holds one engine and times it when told."""

    def __init__(self, target: BenchTarget, batch: int) -> None:
        self.target = target
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onnxgraft.pipeline._bench_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._ask({**asdict(target), "path": os.path.abspath(target.path), "batch": batch})

    def run(self, count: int) -> list[float]:
        """Return the milliseconds of ``count`` inferences."""
        return [float(value) for value in self._ask({"run": count})["ms"]]

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.terminate()
        self._process.wait()

    def _ask(self, message: dict[str, object]) -> dict[str, list[float]]:
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        try:
            stdin.write(json.dumps(message, default=os.fspath) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            self.close()
            raise InputError(f"{self.target.name} can't be timed: {answer['error']}")
        return dict(answer)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def bench_targets(
    engines: Sequence[str | os.PathLike[str]],
    against: str | os.PathLike[str] | None = None,
    **how: Unpack[Opening],
) -> list[BenchTarget]:
    """Return what to time for a list of files, the original ``against`` first."""
    targets = [BenchTarget(Path(path).name, _kind(path), os.fspath(path)) for path in engines]
    if against is not None:
        original = BenchTarget(Path(against).name, "original", os.fspath(against), how)
        targets.insert(0, original)
    return targets


def _kind(path: str | os.PathLike[str]) -> Literal["engine", "onnx"]:
    file = existing_file(path, "the engine")
    return "onnx" if file.suffix == ".onnx" and not passport_path(file).is_file() else "engine"


def bench(
    targets: Sequence[BenchTarget],
    *,
    batches: Sequence[int] = (1,),
    rounds: int = 5,
    runs: int = 10,
) -> list[LatencyRow]:
    """Time ``targets`` and return a row for each and each batch.

    Args:
        targets: In the order of the table.
        batches: Images in one inference.
        rounds: How often the targets take turns.
        runs: Inferences in a turn.

    Raises:
        InputError: A target can't be loaded, or does not take a batch.
    """
    if min(rounds, runs, *batches) < 1:
        raise InputError("rounds, runs and batches are whole numbers from 1 on")
    rows = []
    for batch in batches:
        workers: list[_Worker] = []
        try:
            for target in track(targets, f"loading, batch {batch}", len(targets)):
                workers.append(_Worker(target, batch))
            times: list[list[float]] = [[] for _ in workers]
            for _ in track(range(rounds), f"timing, batch {batch}", rounds):
                for worker, mine in zip(workers, times, strict=True):
                    mine.extend(worker.run(runs))
        finally:
            for worker in workers:
                worker.close()
        for target, mine in zip(targets, times, strict=True):
            median, p90, p99 = (float(v) for v in np.percentile(mine, (50, 90, 99)))
            rows.append(LatencyRow(target.name, batch, median, p90, p99, len(mine)))
    return rows
