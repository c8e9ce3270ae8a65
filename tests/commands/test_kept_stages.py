"""A second deployment does what has changed, and loses nothing that a run before it finished."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from pydantic import BaseModel

from onnxgraft.commands import _deployment, _reads, _stages, deploy, view
from onnxgraft.commands._reads import function_reads, model_reads
from onnxgraft.commands._recipe import Recipe, joined, make_recipe
from onnxgraft.commands._runs import read_run
from onnxgraft.commands._stages import STAGES, read_outputs, write_outputs
from onnxgraft.data.functions import Function
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.files import Kept
from onnxgraft.stages.convert import Original
from onnxgraft.stages.validate.report import Report
from tests.conftest import ROOT, few, once, only_ci
from tests.faults import prepare

RNG = np.random.default_rng(0)
DATA = ("calib", "val")


def recipe_of(here: Path) -> Recipe:
    recipe = make_recipe(
        here / "neta.prototxt", weights=here / "neta.caffemodel", data=here / "calib.npz",
        validate_on=here / "val.npz", metric="top1", targets=["onnxruntime"],
    )  # fmt: skip
    recipe.bench.rounds = recipe.bench.runs = 1
    recipe.calibrate.method, recipe.quantize.improve = "minmax", ()
    recipe.validation.drop = 100.0
    return recipe


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network, its data, and what a deployment left, to be copied."""

    def make(folder: Path) -> None:
        prepare(folder)
        for index, name in enumerate(DATA):
            images = RNG.normal(size=(6, 3, 12, 12)).astype(np.float32)
            np.savez(folder / f"{name}.npz", data=images + index, labels=np.arange(6) % 4)
        assert deploy(recipe_of(folder), folder / "out").passed

    return once(tmp_path_factory, "kept", make)


@pytest.fixture
def out(first: Path, tmp_path: Path) -> Path:
    """Return a folder into which a deployment was made; it may be written."""
    for name in ("out", "out.kept"):
        shutil.copytree(first / name, tmp_path / name)
    return tmp_path / "out"


def made(report: Report) -> list[str]:
    """Return the parts of a run that were not taken over."""
    return [row.stage for row in report.times if not row.kept and row.stage != "data"]


LAST = ["validate", "layers", "bench", "graphs"]
AFTER = ["quantize for onnxruntime", "build for onnxruntime", *LAST]


def test_with_nothing_changed_nothing_is_done_twice(
    first: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_deployment, "open_reference", None)  # the original is not even opened
    shutil.rmtree(out)
    report = deploy(recipe_of(first), out)
    assert made(report) == []
    assert any("taken over from earlier runs" in note for note in report.notes)
    for path in (first / "out").iterdir():
        if path.name not in ("report.html", "report.json", "junit.xml"):
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    before = deploy(recipe_of(first), out)
    for name in ("candidates", "latency", "layers", "ranges", "gallery", "engines"):
        assert getattr(report, name) == getattr(before, name)


def test_engines_of_an_earlier_run_are_told_and_are_not_taken_for_this_one_s(
    first: Path, out: Path
) -> None:
    shutil.copyfile(out / "engine.onnxruntime", out / "engine.openvino")
    passport = (out / "engine.onnxruntime.json").read_text().replace("onnxruntime", "openvino")
    (out / "engine.openvino.json").write_text(passport)
    report = deploy(recipe_of(first), out)
    assert (
        f"{out} has engine.openvino of an earlier run, which this one did not make" in report.notes
    )
    assert [*read_run(out).tables["precision"]] == ["onnxruntime int8"]
    page = out.parent / "page.html"
    view(out, out=page, open=False)
    assert "openvino int8" not in page.read_text()


def test_another_drop_is_validated_again_and_nothing_else(first: Path, out: Path) -> None:
    recipe = recipe_of(first)
    recipe.validation.drop = -200.0
    report = deploy(recipe, out)
    assert made(report) == ["validate"]
    assert [row.passed for row in report.candidates] == [True, True, False]


@only_ci
def test_a_target_that_is_added_has_its_own_stages(first: Path, out: Path) -> None:
    pytest.importorskip("openvino")
    recipe = recipe_of(first).model_copy(update={"targets": ("onnxruntime", "openvino")})
    report = deploy(recipe, out)
    assert made(report) == ["quantize for openvino", "build for openvino", *LAST]
    assert (out / "engine.openvino").is_file()


def changed(first: Path, folder: Path, change: Callable[[dict[str, Any]], None], of: str) -> None:
    with np.load(first / f"{of}.npz") as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(folder / f"{of}.npz", **arrays)


@only_ci
@pytest.mark.parametrize(
    ("of", "array", "again"),
    [
        ("calib", "data", ["calibrate", *AFTER]),
        ("val", "labels", ["validate"]),
        # The first samples of validation are those that stages are compared on.
        ("val", "data", ["original", "convert", "surgery", *AFTER[:-2], "graphs"]),
    ],
)
def test_a_sample_that_changed_is_noticed(
    of: str, array: str, again: list[str], first: Path, out: Path, tmp_path: Path
) -> None:
    here = tmp_path / "in"
    shutil.copytree(first, here, ignore=shutil.ignore_patterns("out*"))
    assert deploy(recipe_of(here), out).passed

    def change(arrays: dict[str, Any]) -> None:
        arrays[array][0] = 1

    changed(first, here, change, of)
    assert made(deploy(recipe_of(here), out)) == again


@only_ci
def test_from_a_stage_on_everything_is_made_again(first: Path, out: Path) -> None:
    report = deploy(recipe_of(first), out, from_stage="quantize")
    assert made(report) == AFTER


@only_ci
def test_fresh_makes_everything_again(first: Path, out: Path) -> None:
    report = deploy(recipe_of(first), out, fresh=True)
    assert made(report) == ["original", "convert", "surgery", "calibrate", *AFTER]
    assert not any("taken over" in note for note in report.notes)


def test_a_stage_that_there_is_not_is_told(first: Path, out: Path) -> None:
    with pytest.raises(InputError, match="--from quantise: did you mean quantize"):
        deploy(recipe_of(first), out, from_stage="quantise")


@pytest.mark.parametrize("file", ["model.onnx", "_part.json"])
def test_what_was_damaged_is_made_again(file: str, first: Path, out: Path) -> None:
    (folder,) = out.with_name("out.kept").glob("surgery-graph-*")
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    shutil.rmtree(out)
    assert made(deploy(recipe_of(first), out)) == ["surgery"]
    assert (out / "model.onnx").read_bytes() == (first / "out" / "model.onnx").read_bytes()


def test_a_verdict_that_someone_changed_is_measured_again(first: Path, out: Path) -> None:
    (folder,) = out.with_name("out.kept").glob("validate-candidates-*")
    text = (folder / "_part.json").read_text()
    (folder / "_part.json").write_text(text.replace('"passed": true', '"passed": false'))
    report = deploy(recipe_of(first), out)
    assert report.passed
    assert made(report) == ["validate"]


@only_ci
def test_other_libraries_or_another_processor_make_everything_again(
    first: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stages, "surroundings", lambda: {"versions": {"onnxruntime": "0.0"}})
    assert made(deploy(recipe_of(first), out))[0] == "original"


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_an_error_loses_no_stage_that_was_finished(
    error: type[BaseException], first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(_deployment, "measure", fail)
        with pytest.raises(error):
            deploy(recipe_of(first), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert made(deploy(recipe_of(first), tmp_path / "out")) == LAST


def test_only_what_the_last_run_used_is_kept(first: Path, out: Path) -> None:
    recipe, place = recipe_of(first), out.with_name("out.kept")
    before = len(list(place.iterdir()))
    recipe.validation.drop = 99.0
    deploy(recipe, out)
    assert len(list(place.iterdir())) == before


@pytest.mark.parametrize("fresh", [False, True])
def test_the_seconds_of_the_stages_add_up_to_the_runs(fresh: bool, first: Path, out: Path) -> None:
    report = deploy(recipe_of(first), out, fresh=fresh)
    assert [row.stage for row in report.times] == [
        "original", "data", "convert", "surgery", "calibrate", *AFTER,
    ]  # fmt: skip
    total = sum(row.seconds for row in report.times)
    assert total == pytest.approx(report.seconds, rel=0.05, abs=0.5)


@pytest.mark.parametrize("name", few(["neta.caffemodel", "calib.npz", "val.npz"], 1))
def test_what_was_made_of_a_file_that_changed_meanwhile_is_not_kept(
    name: str, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "in"
    shutil.copytree(first, here, ignore=shutil.ignore_patterns("out*"))
    stage = {"neta.caffemodel": "lower", "calib.npz": "measured", "val.npz": "measure"}[name]
    holder: Any = Original if stage == "lower" else _deployment
    real = getattr(holder, stage)

    def changing(*given: Any, **more: Any) -> Any:
        found = real(*given, **more)
        if name.endswith(".npz"):
            other = np.ones((6, 3, 12, 12), np.float32)
            np.savez(here / "new.npz", data=other, labels=np.arange(6) % 4)
            (here / name).write_bytes((here / "new.npz").read_bytes())
        else:
            shutil.copyfile(first / "netb.caffemodel", here / name)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(holder, stage, changing)
        with pytest.raises(InputError, match="changed while it was read; run it again"):
            deploy(recipe_of(here), tmp_path / "out")
    shutil.copyfile(first / name, here / name)
    again = {"neta.caffemodel": "convert", "calib.npz": "calibrate", "val.npz": "validate"}[name]
    assert made(deploy(recipe_of(here), tmp_path / "out"))[:1] == [again]


# What stages read ----------------------------------------------------------------------------


class _Stop(Exception):
    """The first stage that is made, and not taken over."""


def _first_made(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, out: Path) -> str:
    @contextmanager
    def stop(self: Kept, stage: str, key: str) -> Iterator[Path]:
        raise _Stop(stage)
        yield

    monkeypatch.setattr(Kept, "make", stop)
    with pytest.raises(_Stop) as stopped:
        _deployment.run_recipe(joined(recipe), out)
    return str(stopped.value)


def _keys(model: type[BaseModel], within: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        key, kind = f"{within}{field.alias or name}", field.annotation
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        if section and key not in ("preprocess", "postprocess"):
            yield from _keys(kind, f"{key}.")  # type: ignore[arg-type]
        else:
            yield key


# Each key of a recipe, another value of it, and the first stage that is made for it.
CHANGES: dict[str, tuple[Any, str]] = {
    "model": ("netb.prototxt", "original-facts"),
    "weights": ("netb.caffemodel", "original-facts"),
    "inputs": ("data", "original-facts"),
    "outputs": ("conv", "original-facts"),
    "set": (("a=1",), "original-facts"),
    "signature": ("serve", "original-facts"),
    "freeze_batchnorm": (True, "original-facts"),
    "opset": (18, "convert-graph"),
    "io_layout": ("nhwc", "convert-graph"),
    "targets": (("tensorrt",), "quantize-tensorrt"),
    "keep_float": (("ip",), "quantize-onnxruntime"),
    "preprocess": (Preprocess(color="rgb"), "original-answers"),
    "postprocess": (Postprocess(kind="classes"), "build-onnxruntime"),
    "calibrate.data": ("val.npz", "original-answers"),
    "calibrate.method": ("mse", "calibrate-ranges"),
    "calibrate.images": (4, "calibrate-ranges"),
    "quantize.improve": (("bias",), "quantize-onnxruntime"),
    "quantize.budget": ("cosine=0.5", "quantize-onnxruntime"),
    "quantize.float": ({"onnxruntime": "fp16"}, "quantize-onnxruntime"),
    "build.cpu": ("avx2", "quantize-onnxruntime"),
    "build.precision": ("fp32", "quantize-onnxruntime"),
    "build.onnxruntime.precision": ("fp32", "quantize-onnxruntime"),
    "build.onnxruntime.threads": (1, "build-onnxruntime"),
    "build.onnxruntime.provider": ("cpu", "build-onnxruntime"),
    "validate.data": ("calib.npz", "original-answers"),
    "validate.metric": ("top5", "validate-candidates"),
    "validate.output": ("ip", "validate-candidates"),
    "validate.drop": (1.0, "validate-candidates"),
    "validate.images": (5, "validate-candidates"),
    "bench.batches": ((1, 2), "bench-latency"),
    "bench.rounds": (2, "bench-latency"),
    "bench.runs": (2, "bench-latency"),
}  # fmt: skip
# Of a budget, stored weights and a part of the samples alone, and of metrics that this net lacks.
ELSEWHERE = {
    "calibrate.seed", "quantize.block", "quantize.trials", "quantize.weights", "validate.classes",
    "validate.labels",
    # Of targets that are not built here: `build` reads them as it does the threads.
    *(key for key in _keys(Recipe) if key.startswith(("build.tensorrt.", "build.openvino."))),
}  # fmt: skip


def test_every_key_of_a_recipe_is_tried_here() -> None:
    assert set(_keys(Recipe)) == set(CHANGES) | ELSEWHERE


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_that_changed_is_noticed_by_the_stage_that_reads_it(
    key: str, first: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, stage = CHANGES[key]
    recipe = recipe_of(first)
    section, _, name = key.replace("validate.", "validation.").rpartition(".")
    if isinstance(value, str) and (first / value).is_file():
        value = str(first / value)
    setattr(attrgetter(section)(recipe) if section else recipe, name, value)
    assert _first_made(monkeypatch, recipe, out) == stage
    assert stage.partition("-")[0] in (*STAGES, "original")


def _onnx_with_data(folder: Path) -> Path:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        "n (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }"
    )
    weights = np.arange(4096, dtype=np.float32).reshape(64, 64)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save_model(
        proto, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    return folder / "m.onnx"


def _checkpoint(folder: Path) -> Path:
    for name in ("m.meta", "m.index", "m.data-00000-of-00001"):
        (folder / name).write_text(name)
    return folder / "m"


def _saved_model(folder: Path) -> Path:
    (folder / "m/variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/v"):
        (folder / "m" / name).write_text(name)
    return folder / "m"


@pytest.mark.parametrize(
    ("write", "beside"),
    [
        (_onnx_with_data, "m.data"),
        (_checkpoint, "m.data-00000-of-00001"),
        (_saved_model, "m/variables/v"),
    ],
)
def test_a_model_is_all_of_its_files(
    write: Callable[[Path], Path], beside: str, tmp_path: Path
) -> None:
    opened = Original(str(write(tmp_path)))
    before = model_reads(opened)
    assert model_reads(opened) == before
    data = bytearray((tmp_path / beside).read_bytes())
    data[0] ^= 1
    (tmp_path / beside).write_bytes(data)
    assert model_reads(opened) != before


def test_the_code_of_every_stage_counts() -> None:
    found = {"/".join(path.parts[-3:]) for path in _reads._sources()}
    assert {
        "stages/convert/original.py", "stages/surgery/list.py", "quantize/place/ready.py",
        "stages/engine/proving.py", "validate/measure/stream.py", "onnxgraft/commands/_reads.py",
    } <= found  # fmt: skip


def test_a_function_of_python_is_never_the_same_and_that_of_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(x, y): return 1.0\n")
    written = Function.load(f"{tmp_path / 'f.py'}:f")
    assert function_reads(written) == function_reads(written)
    called = Function.of(lambda x, y: 1.0)
    assert function_reads(called) != function_reads(called)


def test_outputs_of_every_type_are_kept(tmp_path: Path) -> None:
    found = [
        {
            "a/b:0": np.array([[1.5, np.nan]], np.float32),
            "half": np.array([1, 2], ml_dtypes.bfloat16),
            "words": np.array(["x", "yz"], object),
            "one": np.array(3, np.int64),
            "none": np.zeros((0, 4), np.float16),
        }
    ]
    write_outputs(tmp_path / "o.npz", found)
    (read,) = read_outputs(tmp_path / "o.npz")
    for name, value in found[0].items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


# Killed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", few(range(3), 1, 1))
def test_a_kill_loses_at_most_the_stage_in_hand(seed: int, first: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "onnxgraft", "deploy", first / "a.toml", "-o", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    stage = random.Random(seed).choice(["original", "convert", "surgery", "calibrate", *AFTER[:-1]])
    run = subprocess.Popen(
        call, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert run.stderr is not None
    finished = set()
    for line in run.stderr:
        name, _, rest = line.removeprefix("onnxgraft deploy: ").partition(": ")
        if rest.strip().endswith(" s"):
            finished.add(name.partition(",")[0])
        if name == stage:
            break
    run.kill()
    run.communicate()
    assert not (tmp_path / "out").exists()
    again = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    taken = {
        line.removeprefix("onnxgraft deploy: ").partition(": ")[0].partition(",")[0]
        for line in again.stderr.splitlines()
        if "taken over from" in line
    }
    assert finished - {"data"} <= taken
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"out", "out.kept"}
    assert not list((tmp_path / "out.kept").glob(".*"))
