"""`bench`: latency, each engine in a process of its own, in turn, so that none disturbs another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from onnxgraft.commands._arguments import Numbers, numbers
from onnxgraft.commands._layer_times import Timed, layer_times
from onnxgraft.commands._opening import ModelGiven, Place, graph_of_engine
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file
from onnxgraft.files.trust import Trust, trusts
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import stored_weights
from onnxgraft.progress import track
from onnxgraft.run.layers import Layer, LayerTimes
from onnxgraft.stages.convert import Original, written
from onnxgraft.stages.engine import graph_precision, target_of
from onnxgraft.stages.engine.passport import passport_path, read_passport
from onnxgraft.stages.engine.passport import record as record_in_passport
from onnxgraft.stages.validate.report import (
    UNANSWERED,
    HostRow,
    LatencyRow,
    LayersTimedRow,
    LayerTimeRow,
)

if TYPE_CHECKING:
    from onnxgraft.commands._bench_load import LoadRow, Searched
    from onnxgraft.commands._hosts import Hosts

__all__ = [
    "Arrivals", "BenchTarget", "Benched", "Counted", "SpeedUp", "Worker", "bench",
    "bench_targets", "measure", "record_latency", "speed_ups",
]  # fmt: skip

Arrivals = Literal["poisson", "fixed"]
# Of single requests, where nothing else is asked for.
BATCHES = (1, 4, 16, 32, 64)
# A turn ends after so many seconds, however many inferences are still to come.
_TURN = 3.0


@dataclass(frozen=True)
class BenchTarget:
    """Something to time.

    Attributes:
        name: In the table.
        kind: ``original`` runs in its framework, ``engine`` is built, ``onnx`` runs in
            onnxruntime.
        opened: The file, and how it is opened.
        precision: Of what is not an original, such as ``fp32``.
        threads: Of the CPU, for an engine; None takes what it was built for.
        trust: Load an engine that has no passport.
        streams: Inferences that an engine runs at once; None takes what it was built for.
        cores: That its process may use; none stands for all.
    """

    name: str
    kind: Literal["original", "engine", "onnx"]
    opened: Original
    precision: str = ""
    threads: int | None = None
    trust: bool = False
    streams: int | None = None
    cores: tuple[int, ...] = ()


class Worker:
    """A child process that holds one engine and times it when told."""

    def __init__(self, target: BenchTarget, batch: int) -> None:
        self.target = target
        self._start()
        opened = replace(target.opened, path=os.path.abspath(target.opened.path))
        told = self._ask({**asdict(replace(target, opened=opened)), "batch": batch})
        self.first_ms = float(told["first_ms"])
        self.warnings = [str(text) for text in told["warnings"]]

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", os.path.join(os.path.dirname(__file__), "_bench_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, count: int) -> list[float]:
        """Return the milliseconds of ``count`` inferences."""
        return [float(v) for v in self._ask({"run": count, "seconds": _TURN})["ms"]]

    def layers(self, count: int) -> LayerTimes:
        """Return what the layers take, of ``count`` inferences."""
        told = self._ask({"layers": count})
        found = [
            Layer(**{
                **entry, **{key: tuple(entry[key]) for key in ("nodes", "reads", "makes")},
            })
            for entry in told["layers"]
        ]  # fmt: skip
        return LayerTimes(tuple(found), told["total"], told["runs"], told["counted"])

    def begin(self, message: dict[str, object]) -> None:
        """Let it begin a load, see `_bench_worker`."""
        self._tell(message)

    def end(self) -> dict[str, Any]:
        """Wait for what it says of the load that it began."""
        return self._answer()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.terminate()
        self._process.wait()

    def _ask(self, message: dict[str, object]) -> dict[str, Any]:
        self._tell(message)
        return self._answer()

    def _tell(self, message: dict[str, object]) -> None:
        stdin = _pipe(self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # it is told when it does not answer
            stdin.write(json.dumps(message, default=os.fspath) + "\n")
            stdin.flush()

    def _line(self) -> str:
        return _pipe(self._process.stdout).readline()

    def _answer(self) -> dict[str, Any]:
        line = self._line()
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            self.close()
            raise InputError(f"{self.target.name} can't be timed: {answer['error']}")
        return dict(answer)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@dataclass(frozen=True)
class Benched:
    """What `bench` measured.

    Attributes:
        rows: One for each engine and batch.
        ratios: How many times as fast each row is as others of its batch.
        notes: Sentences that the user should read.
        layers: What each layer takes in each engine, where that was asked for.
        layers_timed: What they take together.
        loads: What was measured of many requests at once, where that was asked for.
        searches: The settings that were found best for each engine, where that was asked for.
        hosts: The machines that it was measured on, where others than this one were named.
    """

    rows: list[LatencyRow]
    ratios: list[SpeedUp]
    notes: list[str]
    layers: list[LayerTimeRow] = field(default_factory=list)
    layers_timed: list[LayersTimedRow] = field(default_factory=list)
    loads: list[LoadRow] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)
    hosts: list[HostRow] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every host answered."""
        return all(host.answered for host in self.hosts)

    @property
    def exit_status(self) -> int:
        """What a command ends with."""
        return 0 if self.passed else UNANSWERED

    def to_json(self) -> dict[str, Any]:
        """Return the rows and notes as plain values."""
        return {
            "passed": self.passed,
            "latency": [
                {
                    **asdict(row), "images_per_second": row.images_per_second,
                    "over_original": ratio.original, "over_fp32": ratio.fp32,
                }
                for row, ratio in zip(self.rows, self.ratios, strict=True)
            ],
            "notes": self.notes,
            "layers": [asdict(row) for row in self.layers],
            "layers_timed": [asdict(row) for row in self.layers_timed],
            "loads": [row.to_json() for row in self.loads],
            "searches": [found.to_json() for found in self.searches],
            "hosts": [asdict(host) for host in self.hosts],
        }  # fmt: skip


def bench(
    engines: Sequence[ModelGiven],
    *,
    batch: Numbers | None = None,
    against: ModelGiven = None,
    weights: Place | None = None,
    rounds: int = 5,
    runs: int = 10,
    threads: int | None = None,
    trust: Trust = False,
    record: bool = False,
    layers: bool = False,
    graph: Sequence[ModelGiven] = (),
    clients: Numbers | None = None,
    rate: Numbers | None = None,
    arrivals: Arrivals = "poisson",
    duration: float = 10.0,
    instances: int | None = None,
    streams: int | None = None,
    pin: bool = False,
    p99: str | float | None = None,
    hosts: Hosts | None = None,
    host_python: str = "python3",
    report: Place | None = None,
    force: bool = False,
) -> Benched:
    """Time engines, each in a process of its own, in turn: one by one, or under load.

    A turn of a slow network ends after three seconds; ``runs`` of the rows say how many there were.
    With ``clients`` or ``rate`` many requests are under way at once, and each is timed from when it
    was due; with ``p99`` the best settings for that are looked for.

    Args:
        engines: Engines or ONNX files, in the order of the table; or models in memory.
        batch: Images in one inference; None takes 1, 4, 16, 32 and 64. Under load, how many waiting
            requests are joined, at most: None takes 1, and a search tries those that are given.
        against: The original, as the reference.
        weights: The weights of an original that is a Caffe network.
        rounds: How often the engines take turns.
        runs: Inferences in a turn.
        threads: CPU threads; None takes what each engine was built for.
        trust: Load engines that have no passport, or an original that brings code.
        record: Write the latency into the engines' passports.
        layers: Count what each layer takes, too, with the first batch.
        graph: The ONNX files that engines were built from, where they do not stand beside them: of
            them is what graphs call layers and have them in.
        clients: Requests under way at once: in a closed loop each client asks again when it is
            answered. With ``rate`` it is how many are computed at once.
        rate: Requests a second, which come whether or not others were answered.
        arrivals: How they come: ``poisson``, as of people who know nothing of each other, or
            ``fixed``, as of a camera.
        duration: Seconds for each load, over all rounds.
        instances: Processes that share the requests of an engine.
        streams: Inferences that an instance runs at once.
        pin: Give each instance cores of its own.
        p99: Look for the settings with the highest rate at which 99 % of the requests are answered
            within this time, such as ``20ms``; they are written into the passport.
        hosts: Time the engines on these machines, at the same time, and not here: names with commas
            between, or a list of them, as ssh takes them, ``user@host:port``; or a file with one in
            each line.
        host_python: The Python there that has onnxgraft.
        report: A folder for a report of what was measured on the hosts.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: A target can't be loaded, or none takes any of the batches.
    """
    if hosts is not None:
        if against is not None or record or layers or graph:
            raise InputError(
                "--hosts times engines there: leave out --against, --record, --layers and --graph"
            )
        if not (clients is rate is p99 is instances is streams is None) or pin:
            raise InputError("--hosts times single requests; call bench there for many at once")
        from onnxgraft.commands._bench_hosts import bench_hosts

        return bench_hosts(
            engines, hosts, host_python, batches=numbers(BATCHES if batch is None else batch),
            rounds=rounds, runs=runs, threads=threads, report=report, force=force,
        )  # fmt: skip
    if report is not None:
        raise InputError("--report is of --hosts; name some, or take --json")
    if clients is not None or rate is not None or p99 is not None:
        if against is not None or layers or record:
            raise InputError("--against, --layers and --record are for single requests; leave out")
        from onnxgraft.commands._bench_load import bench_load

        return bench_load(
            [written(engine) for engine in engines], batch=batch, rounds=rounds, threads=threads,
            trust=trust, clients=clients, rate=rate, arrivals=arrivals, duration=duration,
            instances=instances, streams=streams, pin=pin, p99=p99,
        )  # fmt: skip
    if instances is not None or streams is not None or pin:
        raise InputError(
            "--instances, --streams and --pin are for many requests at once; say how many with "
            "--clients or --rate"
        )
    if graph and not layers:
        raise InputError("--graph says what layers are called; ask for them with --layers")
    engines = [written(engine) for engine in engines]
    targets = bench_targets(
        engines, None if against is None else Original.of(against, weights=weights, trust=trust),
        threads=threads, trust=trust,
    )  # fmt: skip
    notes: list[str] = []
    counted: list[Counted] = []
    rows = measure(
        targets, batches=numbers(BATCHES if batch is None else batch), rounds=rounds, runs=runs,
        notes=notes, counted=counted if layers else None,
    )  # fmt: skip
    if record:
        record_latency(targets, rows)
    found = layer_times([_timed(one, [written(each) for each in graph], notes) for one in counted])
    return Benched(rows, speed_ups(rows, targets), notes, *found)


def _timed(counted: Counted, graphs: Sequence[Place], notes: list[str]) -> Timed:
    """Return the layers of an engine with its graph; a note says where that is not at hand."""
    target, file = counted.target, Path(counted.target.opened.path)
    if target.kind == "onnx":
        return Timed(target.name, "onnxruntime", counted.batch, counted.times, Model.load(file))
    model = graph_of_engine(file, graphs) if passport_path(file).is_file() else None
    if model is None:
        notes.append(
            f"{target.name}: the graph that it was built from is not beside it, so its layers have "
            "the names that its library gives them; name it with --graph"
        )
    return Timed(target.name, target_of(file).name, counted.batch, counted.times, model)


def bench_targets(
    engines: Sequence[Place],
    against: Original | None = None,
    *,
    threads: int | None = None,
    trust: Trust = False,
) -> list[BenchTarget]:
    """Return what to time for a list of files, the original ``against`` first."""
    targets = []
    titles = [Original.of(path).title for path in engines]
    for path, title in zip(engines, titles, strict=True):
        opened = Original.of(path)
        name = title if titles.count(title) == 1 else os.fspath(path)
        trusted = trusts(trust, opened.title, opened.path)
        kind, precision = _kind(path, trusted)
        mine = threads if kind == "engine" else None
        unknown = trusted and not passport_path(path).is_file() and kind == "engine"
        targets.append(BenchTarget(name, kind, opened, precision, threads=mine, trust=unknown))
    if against is not None:
        targets.insert(0, BenchTarget(against.title, "original", against))
    return targets


def _kind(path: Place, trust: bool) -> tuple[Literal["engine", "onnx"], str]:
    file = existing_file(path, "the engine")
    if passport_path(file).is_file():
        return "engine", read_passport(file).label
    if file.suffix == ".onnx":
        model = Model.load(file)
        return "onnx", stored_weights(model) or graph_precision(model)
    if not trust:
        read_passport(file)  # says what is missing
    return "engine", ""


def measure(
    targets: Sequence[BenchTarget],
    *,
    batches: Sequence[int] = (1,),
    rounds: int = 5,
    runs: int = 10,
    notes: list[str] | None = None,
    counted: list[Counted] | None = None,
    start: Callable[[BenchTarget, int], Worker] = Worker,
) -> list[LatencyRow]:
    """Time ``targets`` and return a row for each and each batch.

    A turn of a slow network ends after three seconds; ``runs`` of the rows say how many there were.

    Args:
        targets: In the order of the table.
        batches: Images in one inference.
        rounds: How often the targets take turns.
        runs: Inferences in a turn.
        notes: Takes a sentence for each target that can't be timed with a batch; without it that
            is an error.
        counted: Takes what the layers take in each engine, with the first batch that it takes; a
            sentence goes to ``notes`` for each that does not tell.
        start: Starts what times a target with a batch.

    Raises:
        InputError: A target can't be loaded, or does not take a batch, or none takes any.
    """
    if min(rounds, runs, *batches) < 1:
        raise InputError("rounds, runs and batches are whole numbers from 1 on")
    rows: list[LatencyRow] = []
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    refused: dict[str, list[int]] = {}  # why -> with which batches
    warned: list[str] = []
    for batch in batches:
        workers: list[Worker] = []
        try:
            for target in track(targets, f"loading, batch {batch}", len(targets)):
                try:
                    workers.append(start(target, batch))
                except InputError as error:
                    if notes is None:
                        raise
                    refused.setdefault(str(error), []).append(batch)
            times: list[list[float]] = [[] for _ in workers]
            for _ in track(range(rounds), f"timing, batch {batch}", rounds):
                for worker, mine in zip(workers, times, strict=True):
                    mine.extend(worker.run(runs))
            if counted is not None:
                known = [one.target for one in counted]
                for worker in track(workers, f"counting layers, batch {batch}", len(workers)):
                    if worker.target not in known:
                        _count(worker, batch, runs, counted, [] if notes is None else notes)
        finally:
            for worker in workers:
                worker.close()
        warned += [text for worker in workers for text in worker.warnings]
        for worker, mine in zip(workers, times, strict=True):
            median, p90, p99 = (float(v) for v in np.percentile(mine, (50, 90, 99)))
            rows.append(LatencyRow(
                worker.target.name, batch, median, p90, p99, len(mine), mine, worker.first_ms, busy
            ))  # fmt: skip
    told = [
        f"batch{'es' if len(which) > 1 else ''} {', '.join(map(str, which))}: {why}"
        for why, which in refused.items()
    ]
    if not rows:
        raise InputError("; ".join(told) or "there is nothing to time")
    if notes is not None:
        notes += [*told, *dict.fromkeys(warned)]
    return rows


@dataclass(frozen=True)
class Counted:
    """What the layers of a target take, as its library counts it.

    Attributes:
        target: What was timed.
        batch: Images in one inference.
        times: Of its layers.
    """

    target: BenchTarget
    batch: int
    times: LayerTimes


def _count(worker: Worker, batch: int, runs: int, counted: list[Counted], notes: list[str]) -> None:
    target = worker.target
    if target.kind == "original":
        return
    if target.kind == "onnx" and target.precision.startswith("int"):
        notes.append(
            f"{target.name}: is timed as its graph says, float layer by float layer; its layers "
            "are those of an engine: build one"
        )
        return
    try:
        counted.append(Counted(target, batch, worker.layers(runs)))
    except InputError as error:
        notes.append(str(error).replace("can't be timed", "does not tell of its layers"))


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast a row is as others of its batch; None where there is none.

    Attributes:
        original: Than the original in its framework.
        fp32: Than the first FP32 engine or graph.
    """

    original: float | None
    fp32: float | None


def speed_ups(rows: Sequence[LatencyRow], targets: Sequence[BenchTarget]) -> list[SpeedUp]:
    """Return the speed-ups of rows that `bench` measured of ``targets``."""

    def base(names: list[str], batch: int) -> float | None:
        for name in names:
            for row in rows:
                if row.name == name and row.batch == batch:
                    return row.median_ms
        return None

    originals = [target.name for target in targets if target.kind == "original"]
    floats = [target.name for target in targets if target.precision == "fp32"]
    found = []
    for row in rows:
        one, other = base(originals, row.batch), base(floats[:1], row.batch)
        found.append(
            SpeedUp(one and one / row.median_ms, other and other / row.median_ms)
        )  # fmt: skip
    return found


def record_latency(targets: Sequence[BenchTarget], rows: Sequence[LatencyRow]) -> None:
    """Write what was measured into the passports of the engines."""
    for target in targets:
        if target.kind == "engine" and not target.trust:
            mine = (row for row in rows if row.name == target.name)
            latency = [asdict(replace(row, times_ms=[])) for row in mine]
            record_in_passport(target.opened.path, latency=latency)
