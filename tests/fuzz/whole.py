"""Damaged files of every kind that a command takes, through the whole command line.

    python -m tests.fuzz.whole COUNT [--seed S] [--kinds K,..] [--add]

writes its figures into docs/security-figures.md, or adds to them. With DAMAGED=FOLDER in the
environment, files that a command did not end well with are kept there, those with which it took
much memory before it told of a limit, and those of which it told that something differs.

Everything that commands read is prepared once: networks of each framework, data, labels, recipes,
ranges, caches, engines with their passports, bundles, reports, recordings, and what `deploy` and
`quantize` keep to go on with. For each trial one file is damaged (`damaged`) and a command that
reads it is run in a process that is forked from one that has imported everything. It ends

- with a status that means something to a script, never that of an internal error;
- where it refuses, with one sentence on standard error, no traceback, and with `--json` an object;
- and then with no file but those that were there, here or among what is temporary;
- an engine that was damaged is never used;
- within 60 s and 2 GB, or with the sentence of a limit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnx

from onnxgraft import cli
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine, quantize, surgery
from onnxgraft.targets import TARGETS
from tests import detectors
from tests.faults import finish, prepare, start
from tests.figures import part, put, versions
from tests.fuzz import documents
from tests.fuzz.changes import onnx_changed, tensorflow_changed
from tests.fuzz.mutator import mutated
from tests.fuzz.readers import CORPUS, READERS
from tests.random_networks.caffe_nets import caffe_net
from tests.random_networks.choices import Seeded
from tests.random_networks.onnx_graphs import onnx_graph

__all__ = ["KINDS", "Kind", "Tried", "damaged", "tried"]

# Bytes and seconds that a command may take because of a damaged file.
MEMORY, SECONDS = 2 << 30, 60
_MOST = 1 << 20
# Characters of a sentence.
_LONGEST = 3000
# Statuses that mean something to a script: done, differs, refused, lacks a package.
_DONE, _DIFFERS, _REFUSED, _LACKS = 0, 1, 2, 3
# Folders of results among the inputs, in which there is what commands keep to go on with.
_WRITTEN = ("deployed", "deployed.kept", "kept")
_IN_LIBRARY = re.compile(
    r"a library (crashed|did not come to an end)|it was killed \(|memory ran out"
)


def damaged(
    data: bytes, rng: random.Random, others: Sequence[bytes] = (), schema: str | None = None
) -> bytes:
    """Return what may have become of a file.

    Args:
        data: Of a sound file.
        rng: Decides.
        others: Files of other kinds, parts of which may get into it.
        schema: The reader in `readers` whose format it is, where that can be changed by fields.
    """
    if schema is not None and rng.random() < 0.6:
        change = READERS[schema].mutate
        made = change and change(data, _MOST, rng.randrange(1 << 30))
        if made is not None:
            return made
    if data[:4] == b"PK\3\4" and rng.random() < 0.6:
        with contextlib.suppress(zipfile.BadZipFile):
            return _member_damaged(data, rng, others)
    if data[:1] in (b"{", b"[") and rng.random() < 0.5:
        made = documents.mutated(data, max(_MOST, 2 * len(data)), rng.randrange(1 << 30))
        if made is not None:
            return made
    if b"\0" not in data and rng.random() < 0.6:
        return mutated(data, max(_MOST, len(data)), rng.randrange(1 << 30))
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = _block_damaged(data, rng, others)
    return data


def _block_damaged(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Return data in which something happened to a block, as disks, networks and editors do."""
    size = min(len(data), rng.choice((1, 1, 4, 16, 512, 4096)))
    at = rng.randrange(len(data) - size + 1)
    before, block, after = data[:at], data[at : at + size], data[at + size :]
    other = rng.choice([data, *others])
    start = rng.randrange(len(other) + 1)
    to = rng.randrange(len(after) + 1)
    return rng.choice((
        lambda: before,
        lambda: before + after,
        lambda: before + bytes(size) + after,
        lambda: before + b"\xff" * size + after,
        lambda: before + rng.randbytes(size) + after,
        lambda: before + bytes(byte ^ 1 << rng.randrange(8) for byte in block) + after,
        lambda: before + block * rng.choice((2, 3, 200)) + after,
        lambda: before + after[:to] + block + after[to:],
        lambda: before + other[start : start + size] + after,
        lambda: before + block + other[start : start + size] + after,
        lambda: data + block,
        lambda: data.replace(b"\n", b"\r\n"),
    ))()  # fmt: skip


def _member_damaged(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Return an archive with a member damaged, renamed, repeated or left out."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(entry, archive.read(entry)) for entry in archive.infolist()]
    at = rng.randrange(len(members))
    entry, body = members[at]
    kind = rng.randrange(8)
    if kind == 0:
        del members[at]
    elif kind == 1:
        name = rng.choice(["../x", "/x", "x", "", entry.filename * 2, entry.filename + "/"])
        members[at] = (zipfile.ZipInfo(name), body)
    elif kind == 2:
        members.append((entry, body))
    else:
        members[at] = (entry, damaged(body or b"\0", rng, others))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for entry, body in members:
            how = zipfile.ZIP_DEFLATED if kind == 3 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(entry.filename, entry.date_time), body, how)
    return made.getvalue()


Files = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """Files of a kind.

    Attributes:
        files: Their places below the folder of inputs, with ``*`` as in a shell; one is damaged.
        words: Command lines that read it: ``{file}`` is its place, ``{here}`` the folder of inputs
            and ``{out}`` that of results.
        schema: The reader in `readers` whose format it is.
        change: Changes one thing in it, in place of damaging it.
        drawn: Yields many of them in place of one, each with what belongs to it, by name; a trial
            takes one.
        sealed: Whether its bytes are known by their SHA-256: what was damaged is never used.
        needs: The package without which there are none.
    """

    files: tuple[str, ...]
    words: tuple[str, ...]
    schema: str | None = None
    change: Callable[[bytes, random.Random], bytes | None] | None = None
    drawn: Callable[[], Iterator[Files]] | None = None
    sealed: bool = False
    needs: str = "onnx"


def _standard(number: int) -> Iterator[Files]:
    """Yield a ninth of onnx's own test models, most of a single operator, with inputs stored."""
    from tests.graph.standard_models import FORMS, case, names

    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "standard.onnx")
        for name in names()[number::9]:
            FORMS["stored"](case(name), file)
            yield {file.name: file.read_bytes()}


def _networks() -> Iterator[Files]:
    """Yield random ONNX graphs."""
    for seed in range(60):
        yield {"network.onnx": onnx_graph(Seeded(seed)).to_onnx().SerializeToString()}


def _quantized() -> Iterator[Files]:
    """Yield random ONNX graphs in INT8, for each target in turn."""
    for seed in range(60):
        model, _ = surgery.run(onnx_graph(Seeded(seed)))
        (spec,) = model.inputs
        shape = (4, *map(int, spec.shape[1:]))
        value = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        with contextlib.suppress(InputError):  # that there is no layer for INT8
            ranges = quantize.calibrate(model, open_samples({spec.name: value}, model.inputs))
            target = TARGETS[seed % len(TARGETS)].name
            model, _ = quantize.quantize(model, ranges, quantize.placement(target))
            yield {"quantized.onnx": model.to_onnx().SerializeToString()}


def _nets() -> Iterator[Files]:
    """Yield random Caffe nets."""
    for seed in range(60):
        text, blobs = caffe_net(Seeded(seed))
        yield {"net.prototxt": text.encode(), "net.caffemodel": blobs}


def _graphs() -> Iterator[Files]:
    """Yield random TensorFlow graphs."""
    from tests.random_networks.tensorflow_graphs import tensorflow_graph

    for seed in range(60):
        yield {"graph.pb": tensorflow_graph(Seeded(seed))}


def _loops() -> Iterator[Files]:
    """Yield TensorFlow's loops and conditionals, as functions and as frames."""
    from tests.convert.test_loops import CONDITIONALS, FORMS, LOOPS, frozen

    builds = [build for build, _ in LOOPS.values()] + [*CONDITIONALS.values()]
    with tempfile.TemporaryDirectory() as place:
        for number, build in enumerate(builds):
            with contextlib.suppress(ValueError):  # not each is possible in each form
                file = frozen(Path(place), build, FORMS[number % len(FORMS)])
                yield {"loop.pb": file.read_bytes()}


_MODEL = (
    "inspect {file}", "convert {file} -o {out}/m.onnx",
    "convert {file} -o {out}/m.onnx --no-verify", "convert {file} -o {out}/m.onnx --raw",
    "view {file} -o {out}/p.html --no-open", "init {file} -o {out}/r.toml",
)  # fmt: skip
_REWRITE = (
    "surgery {file} -o {out}/m.onnx --explain", "bundle {file} -o {out}/n.pyz",
    "build {file} --target onnxruntime -o {out}/e", "build {file} --target openvino -o {out}/e",
    "quantize {file} --no-int8 --float fp16 --target tensorrt -o {out}/q.onnx",
)  # fmt: skip
_CAFFE = " --weights {here}/neta.caffemodel"
_ENGINE = (
    "inspect {file}", "infer {file} {here}/pictures/0.png --preprocess {here}/picture.toml",
    "bench {file} --batch 1 --rounds 1 --runs 2", "export triton {file} -o {out}/t --name n",
    "export cpp {file} -o {out}/cpp", "diff {here}/s.onnxruntime {file}",
    "validate {here}/sa.onnx {file} --data {here}/pictures --preprocess {here}/picture.toml",
)  # fmt: skip
_ON_ARRAYS = " {here}/ma.onnx --data {here}/dataa.npz"
_BY_HAND = " --overrides {here}/overrides.toml --placement {here}/placement.toml"
_BAKED = " --recipe {here}/picture.toml --bake preprocess,postprocess"
_BUDGET = " --data {here}/dataa.npz --budget top1=100 --resume"
_ON_MAPS = " --data {here}/maps.txt --preprocess {here}/picture.toml"
_ON_PICTURES = " --data {here}/pictures --preprocess {here}/picture.toml"

KINDS: dict[str, Kind] = {
    "onnx": Kind(
        ("ma.onnx", "sa.onnx"),
        (*_MODEL, "surgery {file} -o {out}/m.onnx --explain",
         "calibrate {file} --data {here}/dataa.npz -o {out}/r.json --images 4",
         "quantize {file} --ranges {here}/ra.json --target openvino -o {out}/q.onnx",
         "quantize {file} --no-int8 --float fp16 --target tensorrt -o {out}/q.onnx",
         "build {file} --target onnxruntime -o {out}/e",
         "build {file} --target openvino -o {out}/e",
         "bundle {file} -o {out}/n.pyz", "bench {file} --batch 1 --rounds 1 --runs 2",
         "validate {here}/good.onnx {file} --data {here}/dataa.npz --images 2 --bisect",
         "infer {file} {here}/pictures/0.png -o {out}/o.npz"),
        schema="onnx",
    ),
    "int8": Kind(
        ("qa.onnx",),
        (*_MODEL, "build {file} --target onnxruntime -o {out}/e",
         "quantize {file} --from-qdq --target onnxruntime -o {out}/q.onnx",
         "validate {here}/ma.onnx {file} --data {here}/dataa.npz --images 2"),
        schema="onnx",
    ),
    "external": Kind(
        ("external/net.onnx", "external/weights"),
        tuple(words.replace("{file}", "{here}/external/net.onnx")
              for words in (*_MODEL, *_REWRITE)),
    ),
    "standard": Kind(
        ("standard.onnx",), (*_MODEL, *_REWRITE), schema="onnx",
        drawn=functools.partial(_standard, 0),
    ),
    "networks": Kind(
        ("network.onnx",),
        (*_MODEL, *_REWRITE, "quantize {file} --weights int8 --target openvino -o {out}/q.onnx",
         "quantize {file} --weights int4 --target onnxruntime -o {out}/q.onnx"),
        schema="onnx", drawn=_networks,
    ),
    "quantized": Kind(
        ("quantized.onnx",),
        (*_MODEL, *_REWRITE, "quantize {file} --from-qdq --target openvino -o {out}/q.onnx",
         "quantize {file} --from-qdq --target tensorrt -o {out}/q.onnx"),
        schema="onnx", drawn=_quantized,
    ),
    "nets": Kind(
        ("net.prototxt", "net.caffemodel"),
        tuple(words.replace("{file}", "{here}/net.prototxt") + " --weights {here}/net.caffemodel"
              for words in _MODEL),
        drawn=_nets,
    ),
    "mean": Kind(
        ("mean/mean.binaryproto", "mean/net.prototxt"),
        ("init {here}/mean/net.prototxt -o {out}/r.toml" + _CAFFE,),
    ),
    "graphs": Kind(("graph.pb",), _MODEL, schema="graphdef", needs="tensorflow", drawn=_graphs),
    "prototxt": Kind(("neta.prototxt",), tuple(words + _CAFFE for words in _MODEL)),
    "caffemodel": Kind(
        ("neta.caffemodel",),
        tuple(words.replace("{file}", "{here}/neta.prototxt") + _CAFFE for words in _MODEL),
        schema="caffemodel",
    ),
    "graphdef": Kind(("net.pb",), _MODEL, schema="graphdef", needs="tensorflow"),
    "savedmodel": Kind(
        ("saved/saved_model.pb", "saved/variables/*", "saved/fingerprint.pb"),
        tuple(words.replace("{file}", "{here}/saved") for words in _MODEL),
        needs="tensorflow",
    ),
    "checkpoint": Kind(
        ("checkpoint/*",),
        tuple(words.replace("{file}", "{here}/checkpoint/model.ckpt.meta") + outputs
              for words in _MODEL for outputs in ("", " --outputs prob:0")
              if not (outputs and "inspect" in words)),
        needs="tensorflow",
    ),
    "keras": Kind(("net.keras", "net.h5"), _MODEL, needs="tensorflow"),
    "tflite": Kind(("net.tflite",), _MODEL, schema="tflite", needs="tensorflow"),
    "pt2": Kind(("net.pt2",), _MODEL, needs="torch"),
    "ranges": Kind(
        ("ra.json", "ra.json.histograms.npz"),
        ("inspect {here}/ra.json", "view {here}/ma.onnx --ranges {here}/ra.json -o {out}/p.html",
         "quantize {here}/ma.onnx --ranges {here}/ra.json --target tensorrt -o {out}/q.onnx",
         "calibrate {here}/ma.onnx --ranges {here}/ra.json --method mse -o {out}/r.json",
         "build {here}/ma.onnx --ranges {here}/ra.json --target onnxruntime -o {out}/e"),
    ),
    "partial": Kind(
        ("kept/r.json.partial/*",),
        ("calibrate {here}/ma.onnx --data {here}/dataa.npz -o {here}/kept/r.json --resume",),
    ),
    "cache": Kind(
        ("net.cache",),
        ("quantize {here}/ma.onnx --cache {file} --target tensorrt -o {out}/q.onnx",),
    ),
    "tables": Kind(
        ("overrides.toml", "placement.toml"),
        ("calibrate -o {out}/r.json --images 4 --overrides {here}/overrides.toml" + _ON_ARRAYS,
         "quantize {here}/ma.onnx --ranges {here}/ra.json -o {out}/q.onnx --target tensorrt"
         + _BY_HAND),
    ),
    "recipe": Kind(
        ("a.toml", "picture.toml"),
        ("deploy {here}/a.toml -o {out}/d",
         "calibrate {here}/sa.onnx -o {out}/r.json --images 2" + _ON_PICTURES,
         "infer {here}/sa.onnx {here}/pictures/0.png --preprocess {here}/picture.toml -o {out}/o",
         "build {here}/sa.onnx --target onnxruntime -o {out}/e" + _BAKED),
    ),
    "arrays": Kind(
        ("dataa.npz",),
        ("calibrate {here}/ma.onnx --data {file} -o {out}/r.json --images 4",
         "validate {here}/ma.onnx {here}/qa.onnx --data {file} --metric top1 --report {out}/r"),
    ),
    "pictures": Kind(
        ("pictures/*.png", "pictures/*.jpg", "masks/0.png"),
        ("calibrate {here}/sa.onnx -o {out}/r.json" + _ON_PICTURES,
         "calibrate {here}/sa.onnx -o {out}/r.json --skip-bad" + _ON_PICTURES,
         "infer {here}/sa.onnx {file} --preprocess {here}/picture.toml -o {out}/o",
         "validate {here}/sa.onnx {here}/sa.onnx --metric miou" + _ON_MAPS),
    ),
    "lists": Kind(
        ("list.txt", "list.csv", "list.json", "maps.txt"),
        ("calibrate {here}/sa.onnx --data {file} --preprocess {here}/picture.toml -o {out}/r.json",
         "validate {here}/sa.onnx {here}/sa.onnx --data {file} --preprocess {here}/picture.toml"),
    ),
    "labels": Kind(
        ("labels.json", "labels.csv", "classes.json"),
        tuple("validate {here}/ma.onnx {here}/qa.onnx --data {here}/pictures --metric top1 "
              f"--classes {{here}}/classes.json --labels {{here}}/labels.{form}"
              for form in ("json", "csv")),
    ),
    "boxes": Kind(
        ("boxes/*.json", "boxes/voc/*", "boxes/yolo/*", "boxes/classes.txt", "boxes/recipe.toml"),
        tuple("validate {here}/boxes/net.onnx {here}/boxes/net.onnx --data {here}/boxes/images "
              f"--preprocess {{here}}/boxes/recipe.toml --metric map --labels {{here}}/boxes/{form}"
              for form in ("ours.json", "coco.json", "voc", "yolo")),
    ),
    "engine": Kind(("s.onnxruntime", "s.openvino", "s.ort"), _ENGINE, sealed=True),
    "passport": Kind(
        ("s.onnxruntime.json", "s.openvino.json", "s.ort.json"),
        (*(words.replace("file", "engine") for words in _ENGINE), "inspect {file}"),
    ),
    "bundle": Kind(
        ("net.pyz",), ("inspect {file}",),
    ),
    "report": Kind(
        ("report/report.json",),
        ("diff {here}/report {here}/deployed -o {out}/p.html", "diff {here}/deployed {file}"),
    ),
    "recording": Kind(
        ("inputs.json", "outputs.json"),
        ("validate {here}/ma.onnx {here}/outputs.json --data {here}/inputs.json",
         "validate {here}/ma.onnx {here}/outputs.json --data {here}/dataa.npz --images 4"),
    ),
    "deployed": Kind(
        ("deployed.kept/*/*", "deployed/*.json", "deployed/*.onnx"),
        ("deploy {here}/a.toml -o {here}/deployed", "view {here}/deployed -o {out}/p.html",
         "deploy {here}/a.toml -o {here}/deployed --from validate"),
    ),
    "search": Kind(
        ("kept/q.onnx.search",),
        ("quantize {here}/ma.onnx --ranges {here}/ra.json --target onnxruntime "
         "-o {here}/kept/q.onnx" + _BUDGET,),
    ),
    "changed": Kind(
        ("standard.onnx",), (*_MODEL, *_REWRITE), change=onnx_changed,
        drawn=functools.partial(_standard, 4),
    ),
    "loops": Kind(
        ("loop.pb",), _MODEL, change=tensorflow_changed, drawn=_loops, needs="tensorflow",
    ),
}  # fmt: skip


def make(here: Path, packages: Collection[str]) -> None:
    """Write sound files of every kind into a folder.

    Args:
        here: The folder.
        packages: Those whose files are wanted, too; where one lacks they are left out.
    """
    prepare(here)
    shutil.copy(here / "ma.onnx", here / "good.onnx")
    _pictures(here)
    (here / "picture.toml").write_text(
        "[preprocess]\nresize = [12, 12]\nmean = [1.0, 2.0, 3.0]\nscale = 0.01\n"
        '[postprocess]\nkind = "segmentation"\n'
    )
    for suffix, target in (
        ("onnxruntime", "onnxruntime"), ("openvino", "openvino"), ("ort", "onnxruntime"),
    ):  # fmt: skip
        engine.build(Model.load(here / "sa.onnx"), here / f"s.{suffix}", target)
    _external(here / "external")
    _mean(here / "mean")
    _boxes(here / "boxes")
    for name, words in {
        "cache": f"calibrate {here}/ma.onnx --data {here}/dataa.npz -o {here}/other.json "
        f"--method entropy --cache-out {here}/net.cache --trt-version 10.3.0",
        "bundle": f"bundle {here}/ma.onnx -o {here}/net.pyz",
        "report": f"validate {here}/ma.onnx {here}/qa.onnx --data {here}/dataa.npz --images 4 "
        f"--report {here}/report --save-inputs {here}/inputs.json "
        f"--save-outputs {here}/outputs.json",
        "deploy": f"deploy {here}/a.toml -o {here}/deployed",
        "search": f"quantize {here}/ma.onnx --ranges {here}/ra.json --target onnxruntime "
        f"--data {here}/dataa.npz -o {here}/kept/q.onnx --budget top1=100",
    }.items():
        (here / "kept").mkdir(exist_ok=True)
        log = here.parent / f"{name}.log"
        if finish(start(words.split(), log)) > _DIFFERS:
            raise AssertionError(f"{words}: {log.read_text()}")
    _interrupted(here)
    tensors = sorted(Ranges.load(here / "ra.json").tensors)
    (here / "overrides.toml").write_text(f'# by hand\n"{tensors[0]}" = [-2.0, 3]\n')
    shutil.copy(CORPUS / "placement/plain.toml", here / "placement.toml")
    for package, write in (("tensorflow", _tensorflow), ("torch", _torch)):
        if package in packages and importlib.util.find_spec(package) is not None:
            _in_a_process(write, here)


def _pictures(here: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("pictures", "masks"):
        (here / folder).mkdir()
    names = [f"{number}.{'jpg' if number == 2 else 'png'}" for number in range(4)]
    for name in names:
        cv2.imwrite(str(here / "pictures" / name), rng.integers(0, 255, (12, 12, 3), np.uint8))
        mask = rng.integers(0, 5, (12, 12), np.uint8)
        cv2.imwrite(str(here / "masks" / f"{Path(name).stem}.png"), mask)
    places = [f"pictures/{name}" for name in names]
    classes = {name: number % 4 for number, name in enumerate(names)}
    for name, text in {
        "list.txt": "\n".join(places),
        "maps.txt": "".join(f"{p}\tmasks/{Path(p).stem}.png\n" for p in places),
        "list.csv": "image\n" + "\n".join(places),
        "list.json": json.dumps([{"image": place} for place in places]),
        "labels.json": json.dumps(classes),
        "labels.csv": "".join(f"{n},{c}\n" for n, c in classes.items()),
        "classes.json": json.dumps({"names": ["a", "b", "c", "d"]}),
    }.items():  # fmt: skip
        (here / name).write_text(text)


def _external(here: Path) -> None:
    here.mkdir()
    model = onnx.load(here.parent / "ma.onnx")
    onnx.save(
        model, here / "net.onnx", save_as_external_data=True, size_threshold=0, location="weights"
    )


def _mean(here: Path) -> None:
    here.mkdir()
    shutil.copy(CORPUS / "mean/shape", here / "mean.binaryproto")
    shutil.copy(here.parent / "neta.prototxt", here / "net.prototxt")


def _boxes(here: Path) -> None:
    here.mkdir()
    detectors.write(here)
    detectors.save(here, {"y": detectors.rows_of("yolov5")})
    (here / "recipe.toml").write_text(detectors.RECIPE.replace("FORM", "yolov5"))


def _interrupted(here: Path) -> None:
    """Leave what a calibration that was killed leaves."""

    def kept() -> bool:
        return len(list((here / "kept/r.json.partial").glob("[!.]*"))) > 1

    words = f"calibrate {here}/ma.onnx --data {here}/dataa.npz -o {here}/kept/r.json"
    while not kept():
        child = start(words.split(), here.parent / "partial.log")
        while not kept() and os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ) is None:  # fmt: skip
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, 9)
        finish(child)


def _in_a_process(write: Callable[[Path], None], here: Path) -> None:
    """Write with a framework that this process, which forks, does not import."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            write(here)
            status = 0
        finally:
            os._exit(status)
    if finish(child):
        raise AssertionError(f"{write.__name__} failed")


def _tensorflow(here: Path) -> None:
    import keras
    import tensorflow as tf

    from tests.fuzz.mutants import tensorflow_seeds

    layers = keras.layers
    network = keras.Sequential([
        keras.Input((12, 12, 3), name="image"), layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(), layers.GlobalAveragePooling2D(), layers.Dense(3),
    ])  # fmt: skip
    network.save(here / "net.keras")
    network.save(here / "net.h5")
    network.export(here / "saved", verbose=False)
    lite = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    (here / "net.tflite").write_bytes(lite)
    (here / "net.pb").write_bytes(tensorflow_seeds()[0]["net.pb"])
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        weight = v1.get_variable("w", [4, 3], use_resource=False)
        tf.nn.softmax(tf.matmul(x, weight), name="prob")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(here / "checkpoint/model.ckpt"))


def _torch(here: Path) -> None:
    import torch

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    )
    program = torch.export.export(network.eval(), (torch.zeros(1, 3, 6, 6),))
    torch.export.save(program, here / "net.pt2")


@dataclass
class Tried:
    """What came of damaged files.

    Attributes:
        outcomes: How often a kind ended how.
        wrong: Sentences about what may not be.
        peak: Kilobytes that the largest command took.
        largest: What that was.
    """

    outcomes: dict[str, collections.Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    peak: int = 0
    largest: str = ""


class Bench:
    """Where trials are made."""

    def __init__(
        self, folder: Path, packages: Collection[str], kinds: Collection[str] = ()
    ) -> None:
        self.folder, self.here, self.good = folder, folder / "in", folder / "good"
        self.out, self.temporary = folder / "out", folder / "tmp"
        for place in (self.here, self.temporary):
            place.mkdir()
        os.environ["TMPDIR"], tempfile.tempdir = str(self.temporary), None
        make(self.here, packages)
        shutil.copytree(self.here, self.good)
        self.drawn = {
            name: self._draw(kind.drawn, folder / "drawn" / name)
            for name, kind in KINDS.items()
            if kind.drawn is not None and kind.needs in packages and name in (kinds or KINDS)
            and importlib.util.find_spec(kind.needs) is not None
        }  # fmt: skip
        for left in self.temporary.iterdir():  # what the frameworks that wrote it did not remove
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.others = [p.read_bytes() for p in sorted(self.good.glob("*")) if p.is_file()]
        self.found = Tried()

    @staticmethod
    def _draw(drawn: Callable[[], Iterator[Files]], folder: Path) -> list[Path]:
        """Write what is drawn, in a process that may import anything; return the folders."""

        def write(folder: Path) -> None:
            for number, files in enumerate(drawn()):
                (folder / f"{number}").mkdir(parents=True)
                for name, data in files.items():
                    (folder / f"{number}" / name).write_bytes(data)

        _in_a_process(write, folder)
        return sorted(folder.iterdir())

    def take(self, name: str, rng: random.Random) -> None:
        """Put other files of a kind among the sound ones, where there are many."""
        if name in self.drawn:
            shutil.copytree(rng.choice(self.drawn[name]), self.good, dirs_exist_ok=True)

    def files(self, kind: Kind) -> list[Path]:
        """Return the places of a kind's files below the folder of inputs."""
        return sorted(
            place.relative_to(self.good)
            for pattern in kind.files for place in self.good.glob(pattern) if place.is_file()
        )  # fmt: skip

    def run(
        self, name: str, words: str, file: Path, data: bytes | None, told: str, *, as_json: bool
    ) -> None:
        """Run a command on a file that holds ``data``, or on the sound one, and judge it."""
        for place in (self.here, self.out):
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.good, self.here)
        self.out.mkdir()
        place = self.here / file
        if data is not None:
            place.write_bytes(data)
        before = _listed(self.here)
        line = words.format(
            file=place, here=self.here, out=self.out, engine=place.with_suffix("")
        ).split() + ["--max-seconds", str(SECONDS)] + ["--json"] * as_json  # fmt: skip
        ended = _run(line, self.folder)
        if ended.peak > self.found.peak:
            self.found.peak, self.found.largest = ended.peak, f"{told}: {' '.join(line[:2])}"
        faults = _faults(ended, line[0], as_json=as_json)
        if ended.status > _DIFFERS:
            faults += [f"it left {left}" for left in self._left()]
            faults += ["what was there is another"] * (_listed(self.here) != before)
            faults += ["a sound file is refused"] * (data is None)
        elif data not in (None, (self.good / file).read_bytes()) and line[0] != "inspect":
            faults += ["it was used all the same"] * KINDS[name].sealed
        for left in self.temporary.iterdir():
            faults.append(f"{left.name} is left in the temporary folder")
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if data is not None:
            outcome = "wrong" if faults else ended.outcome
            self.found.outcomes.setdefault(name, collections.Counter())[outcome] += 1
        much = ended.peak > MEMORY >> 10
        if faults or much:
            why = "; ".join(faults) or f"a limit, of {ended.peak >> 10} MB"
            sentence = f"{told}: {' '.join(line)}: {why}\n{ended.said[-1500:]}"
            self.found.wrong += [sentence] * bool(faults)
            print(sentence, file=sys.stderr, flush=True)
        elif ended.outcome == "differs":
            print(f"{told}: {' '.join(line)}: it differs\n{ended.said[-1500:]}", file=sys.stderr)
        else:
            return
        if data is not None and (kept := os.environ.get("DAMAGED")):
            Path(kept, re.sub(r"\W+", "-", told) + "-" + file.name).write_bytes(data)

    def _left(self) -> list[str]:
        return sorted(
            str(place.relative_to(self.out)) for place in self.out.rglob("*")
            if not any(name.endswith((".kept", ".partial", ".search")) for name in place.parts)
        )  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status; negative for a signal.
        printed: On standard output.
        said: On standard error.
        peak: Kilobytes of memory.
    """

    status: int
    printed: str
    said: str
    peak: int

    @property
    def outcome(self) -> str:
        """Say it in a word of the table."""
        if self.status == _REFUSED and "stopped: " in self.said:
            return "limit"
        if self.status == _REFUSED and _IN_LIBRARY.search(self.said):
            return "library"
        names = {_DONE: "done", _DIFFERS: "differs", _REFUSED: "refused", _LACKS: "lacks"}
        return names.get(self.status, "wrong")


def _run(words: Sequence[str], folder: Path) -> Ended:
    """Run the command ``onnxgraft`` as a user does, in a process that is forked."""
    printed, said = folder / "printed", folder / "said"
    child = os.fork()
    if child == 0:
        status = 98
        try:
            for stream, place in ((1, printed), (2, said)):
                os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.argv = ["onnxgraft", *words]
            cli.main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 99 if ended.code else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, how, usage = os.wait4(child, 0)
    texts = [place.read_text(errors="replace") for place in (printed, said)]
    return Ended(os.waitstatus_to_exitcode(how), *texts, usage.ru_maxrss)


def _faults(ended: Ended, command: str, *, as_json: bool) -> list[str]:
    """Return what is not as it has to be in how a command ended."""
    faults = []
    if ended.outcome == "wrong":
        faults.append(f"status {ended.status}")
    if "Traceback (most recent call last)" in ended.said + ended.printed:
        faults.append("a traceback")
    if ended.status > _DIFFERS:
        last = ([line for line in ended.said.splitlines() if line.strip()] or [""])[-1]
        if not last.startswith(f"onnxgraft {command}: ") or len(last) > _LONGEST:
            faults.append(f"the last line is no sentence of ours: {last[:200]!r}")
    if ended.peak > MEMORY >> 10 and ended.outcome != "limit":
        faults.append(f"it took {ended.peak >> 10} MB")
    if as_json:
        try:
            document = json.loads(ended.printed)
            if ended.status > _DIFFERS and document["exit_status"] != ended.status:
                faults.append("another status in the JSON")
        except (ValueError, LookupError, TypeError) as error:
            faults.append(f"no JSON ({error})")
    return faults


def _listed(folder: Path) -> dict[str, int]:
    """Return what is in a folder, but for what commands write there."""
    return {
        str(place.relative_to(folder)): place.stat().st_size
        for place in folder.rglob("*")
        if place.is_file() and place.relative_to(folder).parts[0] not in _WRITTEN
    }


# Imported once, before anything is forked: by the package that the files of a kind need.
_IMPORTED = {
    "onnx": ("onnxruntime", "openvino", "cv2", "polygraphy", "h5py"),
    "tensorflow": ("tf2onnx", "keras"),
    "torch": ("torch.export",),
}


def tried(count: int, seed: int = 0, kinds: Sequence[str] = (), *, sound: bool = True) -> Tried:
    """Run so many commands on damaged files, kinds in turn.

    Args:
        count: How many.
        seed: Of what is drawn.
        kinds: Names in `KINDS`; all if empty.
        sound: Whether every command line is first tried on the sound file, which it has to take.
    """
    packages = {KINDS[name].needs for name in kinds or KINDS}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), packages, kinds)
        for package in packages:
            if importlib.util.find_spec(package) is not None:
                for module in _IMPORTED[package]:
                    importlib.import_module(module)
        for name in bench.drawn:
            bench.take(name, random.Random(0))
        names = [name for name in kinds or KINDS if bench.files(KINDS[name])]
        if sound:
            for name in names:
                for words in KINDS[name].words:
                    file = bench.files(KINDS[name])[0]
                    bench.run(name, words, file, None, f"{name}, sound", as_json=False)
        for number in range(count):
            name = names[number % len(names)]
            kind, rng = KINDS[name], random.Random(f"{number} of seed {seed}")
            bench.take(name, rng)
            file = rng.choice(bench.files(kind))
            good = (bench.good / file).read_bytes()
            data = kind.change(good, rng) if kind.change is not None else None
            if data is None:
                data = damaged(good, rng, bench.others, kind.schema)
            bench.run(
                name, rng.choice(kind.words), file, data, f"{name} {number} of seed {seed}",
                as_json=rng.random() < 0.5,
            )  # fmt: skip
            if number % 100 == 99:
                print(f"{number + 1} of {count}, {len(bench.found.wrong)} wrong", file=sys.stderr)
        return bench.found


_COLUMNS = ("files", "done", "differs", "refused", "lacks", "limit", "library", "wrong")


def figures(found: Tried, before: str) -> list[str]:
    """Return the table of what came, added to that of before."""
    rows = {
        name: collections.Counter(dict(zip(_COLUMNS, map(int, numbers.split("|")), strict=False)))
        for name, numbers in re.findall(r"(?m)^\| (\w+) \| (\d[\d |]*) \|$", before)
    }
    for name, outcomes in found.outcomes.items():
        row = rows.setdefault(name, collections.Counter())
        row.update(outcomes)
        row["files"] += outcomes.total()
    return [
        f"| kind | {' | '.join(_COLUMNS)} |",
        "|---" * (1 + len(_COLUMNS)) + "|",
        *(f"| {name} | {' | '.join(str(rows[name][column]) for column in _COLUMNS)} |"
          for name in KINDS if name in rows),
    ]  # fmt: skip


def main() -> None:
    """Run commands on damaged files, and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=[])
    parser.add_argument("--add", action="store_true", help="to the figures that stand there")
    options = parser.parse_args()
    found = tried(options.count, options.seed, options.kinds)
    sentence = (
        f"The last of them on {versions('onnx', 'onnxruntime', 'openvino', 'tensorflow', 'torch')} "
        f"The largest took {found.peak >> 10} MB ({found.largest.split(':')[0]})."
    )
    put("damaged", [sentence, "", *figures(found, part("damaged") if options.add else "")])


if __name__ == "__main__":
    main()
