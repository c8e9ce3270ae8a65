"""Two runs side by side: what changed, and whether the second is worse than it may be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.commands import diff
from onnxgraft.commands._runs import read_run
from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import InputError
from onnxgraft.files import sha256
from onnxgraft.stages import engine
from onnxgraft.stages.validate.report import (
    CandidateRow,
    LatencyRow,
    LayerRow,
    LayerTimeRow,
    Report,
)
from tests.conftest import Cli, model_of, once

NET = "n (float[1, 2] x) => (float[1, 2] y) { [scale] a = Mul(x, w) [act] y = Relu(a) }"


def report(miou: float = 70.0, ms: float = 10.0, precision: str = "int8") -> Report:
    return Report(
        "net", "net.pb",
        candidates=[
            CandidateRow("original", [], {"miou": 71.0}, {}, True, ""),
            CandidateRow("openvino int8", [], {"miou": miou}, {"car": miou}, True, ""),
        ],
        latency=[LatencyRow("openvino int8", 1, ms, ms, ms, 5)],
        layers=[LayerRow("a", "scope/a", "Mul", precision, 0.1, 40.0, 39.0, "", "openvino int8")],
        layer_times=[
            LayerTimeRow("openvino int8", "scope/a", "scale", "Mul", precision, "int8", ms)
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two runs: the second lost 2 points, took a fifth more time, and has other weights."""

    def make(folder: Path) -> None:
        for name, factor, told in (("a", 1, report()), ("b", 2, report(68.0, 12.0, "fp32"))):
            place = folder / name
            place.mkdir()
            told.save(place / "report.json")
            model = model_of(NET, {"w": np.full(2, factor, np.float32)})
            model.save(place / "model.onnx")
            ranges = {"y": Range(0.0, 1.0, 0.0, 1.0, "mse"), "a": Range(0, factor, 0, 9, "mse")}
            Ranges("mse", 7, "0" * 64, "", "images/", ranges).save(place / "ranges.json")
            engine.build(model, place / "engine.onnxruntime", "onnxruntime", prove=False)
            engine.record(place / "engine.onnxruntime", accuracy={"top1": 90.0 - factor})

    return once(tmp_path_factory, "runs", make)


def changed(done: commands.Differences, part: str) -> dict[str, tuple[object, object]]:
    return {one.name: (one.before, one.after) for one in done.parts().get(part, [])}


def test_a_run_is_the_same_as_itself(runs: Path) -> None:
    done = diff(runs / "a", runs / "a", metric_drop=0, slower=0)
    assert (done.changes, done.worse, done.missing) == ([], [], [])
    assert done.passed


def test_what_changed_is_told_by_part(runs: Path) -> None:
    done = diff(runs / "a", runs / "b")
    assert changed(done, "metrics")["openvino int8: miou"] == (70.0, 68.0)
    assert changed(done, "classes") == {"openvino int8: car": (70.0, 68.0)}
    assert changed(done, "latency in ms") == {"openvino int8, batch 1": (10.0, 12.0)}
    assert changed(done, "ranges") == {"a": ("[0, 1]", "[0, 2]")}
    assert done.same["ranges"] == 1
    assert changed(done, "precision of layers") == {"openvino int8: scope/a": ("int8", "fp32")}
    assert changed(done, "layers in ms") == {"openvino int8: scope/a": (10.0, 12.0)}
    assert [*changed(done, "graph model.onnx")] == ["scale"]  # whose weights are others
    assert done.passed  # nothing was to be held


def test_another_model_is_told_by_its_hash(tmp_path: Path) -> None:
    for name, digest in (("a", "0" * 64), ("b", "1" * 64)):
        told = report()
        told.hashes = {"net.pb": digest}
        told.save(tmp_path / f"{name}.json")
    done = diff(tmp_path / "a.json", tmp_path / "b.json")
    assert changed(done, "hashes") == {"net.pb": ("0" * 12, "1" * 12)}


def test_a_report_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    told = report()
    told.save(tmp_path / "new.json")
    document = told.to_json()
    for key in ("command", "recipe_text", "hashes", "seeds", "machine"):
        del document[key]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert diff(tmp_path / "old.json", tmp_path / "new.json").changes == []


def test_a_metric_may_lose_what_is_allowed(runs: Path) -> None:
    assert diff(runs / "a", runs / "b", metric_drop=2).passed
    lost = diff(runs / "a", runs / "b", metric_drop=1.5)
    assert lost.worse == ["openvino int8: miou: lost 2, and 1.5 is allowed (70 and 68)"]
    assert diff(runs / "b", runs / "a", metric_drop=0).passed  # it gained


def test_an_inference_may_take_what_is_allowed(runs: Path) -> None:
    assert diff(runs / "a", runs / "b", slower=20.1).passed
    late = diff(runs / "a", runs / "b", slower=10)
    assert late.worse == [
        "openvino int8, batch 1: takes 20 % more time, and 10 % is allowed (10 and 12)"
    ]


def test_an_engine_may_grow_by_what_is_allowed(runs: Path, tmp_path: Path) -> None:
    for name in ("engine.onnxruntime", "engine.onnxruntime.json"):
        (tmp_path / name).write_bytes((runs / "a" / name).read_bytes())
    large = tmp_path / "engine.onnxruntime"
    large.write_bytes(large.read_bytes() * 2)
    with pytest.raises(InputError, match="is not the file that its passport describes"):
        diff(runs / "a" / "engine.onnxruntime", large)
    passport = tmp_path / "engine.onnxruntime.json"
    passport.write_text(json.dumps(json.loads(passport.read_text()) | {"engine": sha256(large)}))
    small = runs / "a" / "engine.onnxruntime"
    assert "is 100 % larger, and 50 % is allowed" in diff(small, large, larger=50).worse[0]
    assert diff(small, large, larger=100).passed


def test_what_passed_and_fails_now_is_worse_whatever_is_allowed(tmp_path: Path) -> None:
    one, other = report(), report()
    other.candidates[1] = replace(other.candidates[1], passed=False)
    for name, told in (("a.json", one), ("b.json", other)):
        told.save(tmp_path / name)
    done = diff(tmp_path / "a.json", tmp_path / "b.json")
    assert not done.passed
    assert done.worse[0].startswith("openvino int8: passes in ")
    assert diff(tmp_path / "b.json", tmp_path / "a.json").passed


def test_a_value_that_the_second_does_not_say_is_not_passed_over(tmp_path: Path) -> None:
    one, other = report(), report()
    other.candidates[1] = replace(other.candidates[1], metrics={})
    for name, told in (("a.json", one), ("b.json", other)):
        told.save(tmp_path / name)
    done = diff(tmp_path / "a.json", tmp_path / "b.json", metric_drop=5)
    assert len(done.worse) == 1
    assert "does not say it, so it can't be held to --metric-drop" in done.worse[0]


def test_what_one_run_alone_has_is_told(runs: Path, tmp_path: Path) -> None:
    report().save(tmp_path / "report.json")
    done = diff(runs / "a", tmp_path / "report.json")
    assert f"ranges: {runs / 'a'} alone says what they are" in done.missing
    assert done.passed


def test_two_engines_are_compared_whatever_they_are_called(runs: Path) -> None:
    done = diff(*(runs / name / "engine.onnxruntime" for name in ("a", "b")), metric_drop=0.5)
    assert changed(done, "metrics") == {"the engine: top1": (89.0, 88.0)}
    assert done.worse == ["the engine: top1: lost 1, and 0.5 is allowed (89 and 88)"]


def test_an_engine_is_found_in_a_folder_by_its_name(runs: Path) -> None:
    done = diff(runs / "a", runs / "b" / "engine.onnxruntime")
    assert changed(done, "metrics")["onnxruntime fp32: top1"] == (89.0, 88.0)


@pytest.mark.parametrize(
    ("option", "words"),
    [({"slower": 5}, "says nothing of latency in ms, which --slower holds"),
     ({"metric_drop": -1}, "--metric-drop -1: a number from 0 on")],
    ids=["nothing to hold", "negative"],
)  # fmt: skip
def test_a_limit_that_can_not_be_held_is_refused(
    option: dict[str, float], words: str, tmp_path: Path
) -> None:
    Report("net", "net.pb").save(tmp_path / "r.json")
    with pytest.raises(InputError, match=words):
        diff(tmp_path / "r.json", tmp_path / "r.json", **option)  # type: ignore[arg-type]


def test_what_is_no_run_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no report\.json; name a folder"):
        diff(runs / "a", tmp_path)
    with pytest.raises(InputError, match="is no report that onnxgraft wrote"):
        diff(runs / "a", runs / "a" / "ranges.json")


def test_the_command_prints_and_exits_by_the_verdict(runs: Path, tmp_path: Path, cli: Cli) -> None:
    page = tmp_path / "d.html"
    done = cli("diff", runs / "a", runs / "b", "--metric-drop", "1", "-o", page)
    assert done.returncode == 1, done.stderr
    assert "openvino int8: miou: 70 -> 68 (0.971x)" in done.stdout
    assert "WORSE: openvino int8: miou: lost 2" in done.stdout
    assert "the second is worse" in page.read_text()
    told = cli("diff", runs / "a", runs / "b", "--json")
    assert told.returncode == 0
    changes = json.loads(told.stdout)["changes"]
    assert {"part", "name", "before", "after", "ratio"} == set(changes[0])


def test_names_of_strangers_are_escaped(tmp_path: Path) -> None:
    for name, ms in (("a", 1.0), ("b", 2.0)):
        told = report(ms=ms)
        told.latency[0].name = "<script>alert(1)</script>"
        told.save(tmp_path / f"{name}.json")
    done = diff(tmp_path / "a.json", tmp_path / "b.json", out=tmp_path / "d.html")
    for text in ((tmp_path / "d.html").read_text(), done._repr_html_()):
        assert "<script>" not in text
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("direction", "values", "told"),
    [
        ("down", (2.0, 1.0), ""),
        ("down", (1.0, 2.0), "rose by 1, and 0.5 is allowed"),
        ("up", (2.0, 1.0), "lost 1, and 0.5 is allowed"),
        ("", (2.0, 1.0), "moved by 1, and 0.5 is allowed; its function does not say"),
        ("", (1.0, 2.0), "moved by 1, and 0.5 is allowed; its function does not say"),
    ],
)
def test_a_metric_is_worse_where_its_function_says(
    direction: str, values: tuple[float, float], told: str, tmp_path: Path
) -> None:
    for name, value in zip("ab", values, strict=True):
        row = CandidateRow("onnx", [], {"error": value}, {}, True, "", direction=direction)
        Report("net", "net.pb", candidates=[row]).save(tmp_path / f"{name}.json")
    done = diff(tmp_path / "a.json", tmp_path / "b.json", metric_drop=0.5)
    assert done.passed == (not told)
    assert [told in sentence for sentence in done.worse] == [True] * bool(told)


def test_an_engines_passport_says_where_its_metric_is_better(runs: Path, tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        for suffix in ("", ".json"):
            shutil.copy(runs / name / f"engine.onnxruntime{suffix}", tmp_path / f"{name}.e{suffix}")
        engine.record(tmp_path / f"{name}.e", accuracy={"error": value}, direction="down")
    assert not diff(tmp_path / "a.e", tmp_path / "b.e", metric_drop=0.5).passed
    assert diff(tmp_path / "b.e", tmp_path / "a.e", metric_drop=0.5).passed


def test_engines_beside_a_report_of_validate_are_compared(tmp_path: Path) -> None:
    """That report says what it wrote itself, which no engine is."""
    model_of(NET, {"w": np.ones(2, np.float32)}).save(tmp_path / "net.onnx")
    (tmp_path / "v").mkdir()
    commands.build(tmp_path / "net.onnx", tmp_path / "v/engine.onnxruntime", target="onnxruntime")
    data = np.ones((3, 2), np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    commands.validate(
        tmp_path / "net.onnx", tmp_path / "v/engine.onnxruntime", tmp_path / "data.npz",
        report=tmp_path / "v",
    )  # fmt: skip
    assert "onnxruntime fp32" in read_run(tmp_path / "v").tables["precision"]
