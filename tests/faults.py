"""Every command, killed at random moments and with a disk that is full: old or new, never torn.

    python -m tests.faults --kills 200      writes its figures into docs/security-figures.md

A process that has imported everything forks one for each trial, which runs the command line. There
are two versions of everything, so that what lies at the place after a kill can be told: it must be
of the one or of the other, whole, and readable. A run that is not killed then ends well and leaves
nothing beside what it says.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from models.caffemodel import caffemodel
from onnxgraft import commands
from onnxgraft.cli import app
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.files import sha256
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.engine.tensorrt import bundle_main as _bundle_main
from tests.figures import put, versions

NET = """
name: "net"
input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 4 } }
"""
VERSIONS = ("a", "b")
IMAGES = 48
# A full disk has so many bytes left: above what a command prints, below every file that it writes.
FULL = 1000
# What a command keeps to go on with.
_KEPT = (".partial", ".search", ".kept")


@dataclass(frozen=True)
class Command:
    """A command line that is tried.

    Attributes:
        words: Of the command; ``{v}`` is the version, ``{here}`` the folder of inputs and
            ``{out}`` that of results.
        version: Reads what lies there and tells of which version it is; raises where it is torn.
        made: The names that a run leaves in the folder of results.
        resumes: Whether it takes --resume.
        before: Prepares the results for a version, where a command changes what is there.
    """

    words: str
    version: Callable[[Path], str]
    made: tuple[str, ...]
    resumes: bool = False
    before: Callable[[Path, Path], None] | None = None


def _source(path: Path) -> str:
    return Path(Model.load(path).source.path).stem[-1]


def _ranges(folder: Path) -> str:
    ranges = Ranges.load(folder / "r.json", histograms=True)
    if ranges.images != IMAGES:
        raise AssertionError(f"{ranges.images} images")
    return Path(ranges.data).stem[-1]


def _engine(path: Path) -> str:
    with engine.load(path) as built:
        spec = built.inputs[0]
        shape = tuple(1 if isinstance(dim, str) else dim for dim in spec.shape)
        built.infer({spec.name: np.zeros(shape, spec.dtype)})
    return Path(engine.read_passport(path).source.path).stem[-1]


def _bundle(folder: Path) -> str:
    manifest, _ = _bundle_main.read(folder / "net.pyz")
    return Path(manifest["passport"]["source"]["path"]).stem[-1]


def _report(folder: Path) -> str:
    place = folder / "report"
    found = json.loads((place / "report.json").read_text())
    version = Path(found["source"]).stem[-1]
    if f"m{version}.onnx" not in (place / "report.html").read_text():
        raise AssertionError("report.html is of another run than report.json")
    ElementTree.parse(place / "junit.xml")
    return version


def _pictures(folder: Path) -> str:
    for name in ("0", "1"):
        path = folder / "seen" / f"{name}.png"
        if path.exists() and cv2.imread(str(path)) is None:
            raise AssertionError(f"{path} is torn")
    return "a"


def _latency(folder: Path) -> str:
    passport = engine.read_passport(folder / "e.onnxruntime")
    return "b" if passport.latency else "a"


def _page(folder: Path) -> str:
    page = folder / "page.html"
    if page.exists() and not page.read_text().rstrip().endswith("</html>"):
        raise AssertionError("page.html is torn")
    return "a"


def _viewed(folder: Path) -> str:
    page = (folder / "page.html").read_text()
    if not page.rstrip().endswith("</html>"):
        raise AssertionError("page.html is torn")
    return "a" if "<h1>ma.onnx</h1>" in page else "b"


def _repository(folder: Path) -> str:
    place = folder / "repository/net"
    config = place / "config.pbtxt"
    if config.exists():
        text = config.read_text()
        (version,) = re.findall(r"versions: \[(\d+)\]", text)
        (wanted,) = re.findall(r'engine_sha256"\s+value {\s+string_value: "(\w+)"', text)
        if sha256(place / version / "model.onnx") != wanted:
            raise AssertionError(f"{config} serves another engine than it says")
    return "a"


def _program(folder: Path) -> str:
    place = folder / "program"
    if (place / "main.cpp").exists():
        text = (place / "main.cpp").read_text()
        for name in re.findall(r'"((?:input|output)\.\d\.npy|e\.onnxruntime)"', text):
            if not (place / name).stat().st_size:
                raise AssertionError(f"{place / name} is torn")
        np.load(place / "output.0.npy")
        if sha256(place / "e.onnxruntime") != sha256(folder / "e.onnxruntime"):
            raise AssertionError(f"{place} has another engine")
    return "a"


def _fresh_engine(here: Path, out: Path) -> None:
    engine.build(Model.load(here / "ma.onnx"), out / "e.onnxruntime", "onnxruntime")


def _deployed(folder: Path) -> str:
    place = folder / "deployed"
    found = json.loads((place / "report.json").read_text())
    version = str(Path(found["source"]).stem[-1])
    parts = [
        _source(place / "model.onnx"), _source(place / "model.int8.onnxruntime.onnx"),
        _engine(place / "engine.onnxruntime"),
        Path(Ranges.load(place / "ranges.json", histograms=True).data).stem[-1],
    ]  # fmt: skip
    if set(parts) != {version}:
        raise AssertionError(f"the report is of {version}, the parts are of {parts}")
    return version


COMMANDS: dict[str, Command] = {
    "convert": Command(
        "convert {here}/net{v}.prototxt --weights {here}/net{v}.caffemodel -o {out}/m.onnx",
        lambda out: _source(out / "m.onnx"), ("m.onnx",),
    ),
    "surgery": Command(
        "surgery {here}/m{v}.onnx -o {out}/m.onnx --report {out}/done.json",
        lambda out: _source(out / "m.onnx"), ("done.json", "m.onnx"),
    ),
    "calibrate": Command(
        "calibrate {here}/m{v}.onnx --data {here}/data{v}.npz -o {out}/r.json "
        "--cache-out {out}/c.cache --trt-version 10.3.0",
        _ranges, ("c.cache", "c.cache.json", "r.json", "r.json.histograms.npz"), resumes=True,
    ),
    "quantize": Command(
        "quantize {here}/m{v}.onnx --ranges {here}/r{v}.json --target onnxruntime "
        "-o {out}/q.onnx --budget top1=100 --data {here}/data{v}.npz",
        lambda out: _source(out / "q.onnx"), ("q.onnx", "q.onnx.search"),
    ),
    "build": Command(
        "build {here}/m{v}.onnx --target onnxruntime -o {out}/e.onnxruntime",
        lambda out: _engine(out / "e.onnxruntime"), ("e.onnxruntime", "e.onnxruntime.json"),
    ),
    "bundle": Command("bundle {here}/m{v}.onnx -o {out}/net.pyz", _bundle, ("net.pyz",)),
    "validate": Command(
        "validate {here}/m{v}.onnx {here}/q{v}.onnx --data {here}/data{v}.npz "
        "--report {out}/report", _report, ("report",),
    ),
    "bench": Command(
        "bench {out}/e.onnxruntime --batch 1 --rounds 1 --runs 3 --record",
        _latency, ("e.onnxruntime", "e.onnxruntime.json"), before=_fresh_engine,
    ),
    "diff": Command(
        "diff {out}/e.onnxruntime {out}/e.onnxruntime -o {out}/page.html",
        _page, ("e.onnxruntime", "e.onnxruntime.json", "page.html"), before=_fresh_engine,
    ),
    "view": Command(
        "view {here}/m{v}.onnx -o {out}/page.html --no-open", _viewed, ("page.html",),
    ),
    "infer": Command(
        "infer {here}/s{v}.onnx {here}/0.png {here}/1.png --preprocess {here}/picture.toml "
        "-o {out}/seen", _pictures, ("seen",),
    ),
    "export": Command(
        "export triton {out}/e.onnxruntime -o {out}/repository --name net",
        _repository, ("e.onnxruntime", "e.onnxruntime.json", "repository"), before=_fresh_engine,
    ),
    "export-cpp": Command(
        "export cpp {out}/e.onnxruntime -o {out}/program",
        _program, ("e.onnxruntime", "e.onnxruntime.json", "program"), before=_fresh_engine,
    ),
    "deploy": Command(
        "deploy {here}/{v}.toml -o {out}/deployed", _deployed, ("deployed", "deployed.kept"),
    ),
}  # fmt: skip


def prepare(here: Path) -> None:
    """Write two versions of every input into a folder."""
    for index, version in enumerate(VERSIONS):
        rng = np.random.default_rng(index)
        (here / f"net{version}.prototxt").write_text(NET)
        blobs = {
            "conv": ("Convolution", [rng.normal(size=(8, 3, 3, 3)), rng.normal(size=8)]),
            "ip": ("InnerProduct", [rng.normal(size=(4, 200)) / 14, rng.normal(size=4)]),
        }
        (here / f"net{version}.caffemodel").write_bytes(caffemodel(blobs))
        images = rng.normal(size=(IMAGES, 3, 12, 12)).astype(np.float32)
        np.savez(here / f"data{version}.npz", data=images, labels=rng.integers(0, 4, IMAGES))
        with contextlib.chdir(here):
            model = commands.convert(
                f"net{version}.prototxt", weights=f"net{version}.caffemodel"
            ).model
        model.save(here / f"m{version}.onnx")
        ranges = quantize.calibrate(
            model, open_samples(here / f"data{version}.npz", model.inputs), "minmax"
        )
        ranges.save(here / f"r{version}.json")
        quantized, _ = quantize.quantize(model, ranges, "onnxruntime")
        quantized.save(here / f"q{version}.onnx")
        _segmenter(here / f"s{version}.onnx", rng)
        (here / f"{version}.toml").write_text(
            f'model = "net{version}.prototxt"\nweights = "net{version}.caffemodel"\n'
            'targets = ["onnxruntime"]\n'
            f'[calibrate]\ndata = "data{version}.npz"\nimages = 16\nmethod = "minmax"\n'
            f'[validate]\ndata = "data{version}.npz"\nimages = 8\nmetric = "top1"\ndrop = 100.0\n'
            "[bench]\nrounds = 1\nruns = 2\n"
        )
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (12, 12, 3), np.uint8)
        cv2.imwrite(str(here / f"{index}.png"), pixels)
    (here / "picture.toml").write_text('[postprocess]\nkind = "segmentation"\n')


def _segmenter(path: Path, rng: np.random.Generator) -> None:
    import onnx

    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        "n (float[N,3,12,12] x) => (float[N,5,12,12] y) { y = Conv(x, w) }"
    )
    proto = onnx.parser.parse_model(text)
    weights = rng.normal(size=(5, 3, 1, 1)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path.write_bytes(proto.SerializeToString())


def start(
    words: Sequence[str], log: Path, most_bytes: int | None = None, fails: int | None = None
) -> int:
    """Run the command line in a process that is forked, and return its id.

    Args:
        words: Of the command line.
        log: Takes what it prints.
        most_bytes: A file may have, as on a disk that is nearly full; None sets no limit.
        fails: Which rename fails, as on a disk that is full just then; None lets all succeed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        os.setpgid(0, 0)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        if fails is not None:
            _fail_rename(fails)
        try:
            app(list(words))
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 98
        sys.stdout.flush()
    finally:
        os._exit(status)


def _fail_rename(number: int) -> None:
    """Let a rename of this process fail: the first one, or one that comes later."""
    left = [number]

    def failing(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(*places: Any, **how: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rename(*places, **how)

        return renamed

    os.replace, os.rename = failing(os.replace), failing(os.rename)


def finish(child: int) -> int:
    """Return the exit status of a child that `start` began; negative for a signal."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@dataclass
class Trials:
    """What was tried, and what came of it.

    Attributes:
        kills: By command.
        old: How often the old version lay there, by command.
        new: How often the new one did.
        torn: Sentences about what was neither.
        full: What was wrong after a full disk, by command; empty if nothing.
        renames: How many renames failed, one in a run, by command.
    """

    kills: dict[str, int] = field(default_factory=dict)
    old: dict[str, int] = field(default_factory=dict)
    new: dict[str, int] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)
    full: dict[str, str] = field(default_factory=dict)
    renames: dict[str, int] = field(default_factory=dict)


class Bench:
    """Where trials are made: a folder of inputs, and one of results for each command."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.here, self.folder = folder / "in", folder
        self.here.mkdir()
        self.rng = random.Random(seed)
        self.trials = Trials()
        self.seconds: dict[str, float] = {}
        prepare(self.here)

    def words(self, name: str, version: str, *more: str) -> list[str]:
        """Return a command line."""
        text = COMMANDS[name].words
        filled = text.format(v=version, here=self.here, out=self.out(name))
        return [*filled.split(), *more]

    def out(self, name: str) -> Path:
        """Return the folder of a command's results."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return place

    def run(
        self, name: str, version: str, *more: str, most_bytes: int | None = None,
        fails: int | None = None,
    ) -> int:  # fmt: skip
        """Run a command to its end and return its exit status."""
        log = self.folder / f"{name}.log"
        return finish(start(self.words(name, version, *more), log, most_bytes, fails))

    def first(self, name: str) -> None:
        """Make version ``a``, and note how long that takes."""
        command = COMMANDS[name]
        if command.before is not None:
            command.before(self.here, self.out(name))
        begin = time.monotonic()
        status = self.run(name, "a")
        self.seconds[name] = time.monotonic() - begin
        log = (self.folder / f"{name}.log").read_text()
        if status or command.version(self.out(name)) not in VERSIONS:
            raise AssertionError(f"{name} ended with {status}: {log}")
        self.trials.kills[name] = self.trials.old[name] = self.trials.new[name] = 0

    def fill(self, name: str) -> None:
        """Let a command that would write the other version run out of disk."""
        out = self.out(name)
        before = _listed(out)
        status = self.run(name, "b", most_bytes=FULL)
        told = (self.folder / f"{name}.log").read_text()
        after = _listed(out)
        good = status == 2 and "can't be written" in told and after == before
        self.trials.full[name] = "" if good else f"{status}: {told}; {before} became {after}"

    def break_renames(self, name: str) -> None:
        """Let each rename of a command fail in turn; what lies there is old, new or refused."""
        command, out, other = COMMANDS[name], self.out(name), "b"
        for number in itertools.count(1):
            if command.before is not None:
                command.before(self.here, out)
            status = self.run(name, other, fails=number)
            told = (self.folder / f"{name}.log").read_text()
            if status == 0:  # so many there are not, or it was one that may fail
                if number > 1 and other == "b":
                    self.trials.renames[name] = number - 1
                break
            half = "run it again, which finishes that" in told
            if status != 2 or "No space left" not in told:
                self.trials.torn.append(f"{name}: rename {number} failed: {status}: {told}")
            strays = [path.name for path in out.rglob(".*onnxgraft-*")]
            if strays and not half:
                self.trials.torn.append(f"{name}: rename {number} failed and left {strays}")
            try:
                command.version(out)
            except (AssertionError, KeyError, OSError, ValueError) as error:
                self.trials.torn.append(f"{name}: rename {number} failed: {error}")
            except InputError as error:
                if not half:
                    self.trials.torn.append(f"{name}: rename {number} failed: {error}")

    def kill(self, name: str) -> None:
        """Kill a run that would write the other version, and look at what lies there."""
        command, out = COMMANDS[name], self.out(name)
        if command.before is not None:
            command.before(self.here, out)
        before = command.version(out)
        after = "b" if before == "a" else "a"
        resume = ["--resume"] if command.resumes and self.rng.random() < 0.3 else []
        child = start(self.words(name, after, *resume), self.folder / f"{name}.log")
        if self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(0, 1.1 * self.seconds[name]))
        else:
            self._until_it_writes(child, out)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it may not have a group of its own yet
        finish(child)
        self.trials.kills[name] += 1
        try:
            found = command.version(out)
        except (AssertionError, InputError, KeyError, OSError, ValueError) as error:
            self.trials.torn.append(f"{name}: {error}")
            return
        (self.trials.old if found == before else self.trials.new)[name] += 1

    def _until_it_writes(self, child: int, out: Path) -> None:
        """Wait until something temporary lies there, and a moment more."""
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if any(path.name.endswith(("-tmp", "-moves")) for path in out.glob(".*")):
                time.sleep(self.rng.uniform(0, 0.01))
                return
            time.sleep(0.001)

    def last(self, name: str) -> None:
        """Let a run end: it goes on where it was killed, and leaves what it says and no more."""
        command, out = COMMANDS[name], self.out(name)
        for version in VERSIONS:
            more = []
            if command.resumes and (out / "r.json.partial").exists():
                more = ["--resume"]
            status = self.run(name, version, *more)
            log = (self.folder / f"{name}.log").read_text()
            if status == 2 and more:
                # What was counted is of the other version; it says so, and begins again.
                assert "was begun with another" in log, log
                status = self.run(name, version)
            if status:
                raise AssertionError(f"{name} ended with {status}: {log}")
        if command.before is None and name != "infer" and command.version(out) != "b":
            raise AssertionError(f"{name}: the last run is not what lies there")
        left = sorted(path.name for path in out.iterdir())
        if left != sorted(command.made):
            raise AssertionError(f"{name} left {left}, not {sorted(command.made)}")
        for made in command.made:
            strays = [p.name for p in (out / made).glob(".*")] if (out / made).is_dir() else []
            if strays:
                raise AssertionError(f"{name} left {strays} in {made}")


def _listed(folder: Path) -> list[tuple[str, int]]:
    """Return what is in a folder, but for what commands keep to go on with."""
    return sorted(
        (path.name, path.stat().st_size)
        for place in folder.iterdir()
        if not place.name.endswith(_KEPT)
        for path in (place, *place.rglob("*"))
    )


@contextlib.contextmanager
def bench(seed: int = 0) -> Iterator[Bench]:
    """Yield a place for trials, which is removed."""
    with tempfile.TemporaryDirectory() as folder:
        yield Bench(Path(folder), seed)


def tried(kills: int, seed: int = 0, renames: Collection[str] = ("build", "surgery")) -> Trials:
    """Fill the disk for every command, kill so often, and let every command go on.

    Args:
        kills: How often.
        seed: Of the moments.
        renames: The commands of which each rename fails once.
    """
    cv2.setNumThreads(0)  # threads would not be there in what is forked
    with bench(seed) as place:
        names = list(COMMANDS)
        for name in names:
            place.first(name)
            place.fill(name)
            if name in renames:
                place.break_renames(name)
        for number in range(kills):
            place.kill(names[number % len(names)])
        for name in names:
            place.last(name)
        return place.trials


def main() -> None:
    """Kill so often, and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = time.monotonic()
    trials = tried(options.kills, options.seed, COMMANDS)
    rows = [
        f"| {name} | {trials.kills[name]} | {trials.old[name]} | {trials.new[name]} | "
        f"{trials.renames.get(name, 0)} | "
        f"{sum(told.startswith(f'{name}:') for told in trials.torn)} |"
        for name in COMMANDS
    ]
    put("faults", [
        f"{options.kills} kills, {time.monotonic() - begin:.0f} s, {versions('onnxruntime')}",
        "",
        "| command | kills | the old result | the new one | renames that failed | torn |",
        "|---|---|---|---|---|---|",
        *rows,
        *trials.torn,
    ])  # fmt: skip
    full = [f"{name}, full disk: {wrong}" for name, wrong in trials.full.items() if wrong]
    print("\n".join(full), file=sys.stderr)
    sys.exit(1 if trials.torn or full else 0)


if __name__ == "__main__":
    main()
