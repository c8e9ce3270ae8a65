"""`view`: a page of the graphs of a model, an engine or a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.commands import view
from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.validate.report import LayerRow, LayerTimeRow, Report
from tests.conftest import Cli, model_of, once

RNG = np.random.default_rng(0)
NET = """n (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {
  [skip] a = Identity(x) [conv] b = Conv<pads = [1, 1, 1, 1]>(a, w)
  [bn] c = BatchNormalization(b, s, s, s, s) [act] y = Relu(c) }"""
WEIGHTS = {
    "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "s": RNG.uniform(0.5, 1.5, 4).astype(np.float32),
}
Data = dict[str, Any]


def data_of(page: Path) -> Data:
    """Return what a page draws."""
    found = re.search(r'id="graph-data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    told: Data = json.loads(found[1])
    return told


def stage(data: Data, title: str) -> Data:
    return next(one for one in data["stages"] if one["title"] == title)


def node(data: Data, title: str, name: str) -> Data:
    return next(one for one in stage(data, title)["nodes"] if one["n"] == name)


def pairs(data: Data, before: int, after: int) -> set[tuple[str, str]]:
    found = next(link[2] for link in data["links"] if link[:2] == [before, after])
    one, other = (data["stages"][place]["nodes"] for place in (before, after))
    return {(one[mine]["n"], other[theirs]["n"]) for mine, theirs in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model, what `deploy` would have left of it, and an engine of it."""

    def make(place: Path) -> None:
        original = model_of(NET, WEIGHTS)
        original.save(place / "net.onnx")
        run = place / "run"
        run.mkdir()
        report = Report(
            "net.onnx", str(place / "net.onnx"),
            layers=[LayerRow("y", "y", "Relu", "fp32", 0.01, 40.0, 39.0, "", "onnxruntime fp32")],
            layer_times=[
                LayerTimeRow("onnxruntime fp32", "y", "conv", "Conv", "fp32", "fp32", 2.5)
            ],
            float_layers=[("onnxruntime", "conv", "it has few channels")],
            recipe={
                "model": str(place / "net.onnx"), "calibrate": {"data": "images"},
                "targets": ["onnxruntime"],
            },
        )  # fmt: skip
        report.save(run / "report.json")
        cleaned = commands.surgery(place / "net.onnx", run / "model.onnx").model
        assert cleaned is not None
        cleaned.save(run / "model.fp32.onnxruntime.onnx")
        engine.build(cleaned, run / "engine.onnxruntime", "onnxruntime", prove=False)
        ranges = {"y": Range(0.0, 1.0, 0.0, 2.0, "mse")}
        Ranges("mse", 7, "0" * 64, "", "images/", ranges).save(run / "ranges.json")

    return once(tmp_path_factory, "view", make)


# A model ----------------------------------------------------------------------------------------


def test_a_model_is_shown_as_it_is_and_cleaned(folder: Path, tmp_path: Path) -> None:
    done = view(folder / "net.onnx", out=tmp_path / "p.html", open=False)
    assert done.stages == {"original": 4, "cleaned": 2}
    assert (done.out, done.opened) == (str(tmp_path / "p.html"), False)


def test_before_and_after_are_linked_by_what_the_passes_did(folder: Path, tmp_path: Path) -> None:
    view(folder / "net.onnx", out=tmp_path / "p.html", open=False)
    data = data_of(tmp_path / "p.html")
    assert pairs(data, 0, 1) == {
        ("x", "x"), ("conv", "conv"), ("bn", "conv"), ("act", "act"), ("y", "y"),
    }  # fmt: skip
    (note,) = node(data, "original", "bn")["s"]
    assert note.startswith("removed by fold_batchnorm") and note.endswith("conv")
    assert node(data, "original", "skip")["s"][0].startswith("removed by remove_identity")
    assert any("bn by fold_batchnorm" in note for note in node(data, "cleaned", "conv")["s"])


def test_what_was_refused_stands_at_its_node(tmp_path: Path) -> None:
    text = NET.replace("float[1, 4, 8, 8] y)", "float[1, 4, 8, 8] y, float[1, 4, 8, 8] b)")
    view(model_of(text, WEIGHTS), out=tmp_path / "p.html", open=False)
    notes = node(data_of(tmp_path / "p.html"), "original", "bn")["s"]
    assert any(note.startswith("refused by fold_batchnorm: ") for note in notes)


def test_macs_are_those_of_the_definition(folder: Path, tmp_path: Path) -> None:
    view(folder / "net.onnx", out=tmp_path / "p.html", open=False)
    assert node(data_of(tmp_path / "p.html"), "original", "conv")["m"] == 4 * 8 * 8 * 3 * 3 * 3


def test_ranges_are_shown_with_their_histograms(folder: Path, tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    np.savez(tmp_path / "d.npz", x=images)
    commands.calibrate(folder / "net.onnx", tmp_path / "r.json", data=tmp_path / "d.npz")
    view(folder / "net.onnx", ranges=tmp_path / "r.json", out=tmp_path / "p.html", open=False)
    told = data_of(tmp_path / "p.html")["ranges"]["a"]
    assert told["r"] == [0.0, 383.0]
    assert len(told["c"]) > 8


def test_a_model_of_another_framework_has_its_names(shared: Path, tmp_path: Path) -> None:
    place = shared / "models/fcn_camvid"
    view(
        place / "fcn_camvid.prototxt", weights=place / "fcn_camvid.caffemodel",
        out=tmp_path / "p.html", open=False,
    )  # fmt: skip
    data = data_of(tmp_path / "p.html")
    assert node(data, "original (caffe, as ONNX)", "relu1_1")["f"] == "conv1_1"
    assert {"conv1_1", "conv3_2"} <= {name for name, _ in data["stages"][0]["blocks"]}


def test_the_page_is_called_after_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert view(folder / "net.onnx", open=False).out == "net.html"
    assert (tmp_path / "net.html").is_file()


def test_a_file_of_another_kind_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text("my notes\n")
    with pytest.raises(InputError, match=r"p\.html: is there already"):
        view(folder / "net.onnx", out=tmp_path / "p.html", open=False)
    view(folder / "net.onnx", out=tmp_path / "p.html", open=False, force=True)
    view(folder / "net.onnx", out=tmp_path / "p.html", open=False)


def test_a_browser_shows_it_where_that_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda uri: asked.append(uri) or True)
    done = view(folder / "net.onnx", out=tmp_path / "p.html", open=True)
    assert done.opened
    assert asked == [(tmp_path / "p.html").as_uri()]


def test_where_no_browser_is_there_a_note_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda uri: False)
    done = view(folder / "net.onnx", out=tmp_path / "p.html", open=True)
    assert not done.opened
    assert "open" in done.notes[-1] and "p.html" in done.notes[-1]


def test_what_is_no_terminal_opens_no_browser(cli: Cli, folder: Path, tmp_path: Path) -> None:
    done = cli("view", folder / "net.onnx", "-o", tmp_path / "p.html")
    assert done.stdout == f"{tmp_path / 'p.html'}: original 4 nodes, cleaned 2 nodes\n"


# An engine --------------------------------------------------------------------------------------


def test_an_engine_is_shown_with_the_graph_it_was_built_from(folder: Path, tmp_path: Path) -> None:
    view(folder / "run/engine.onnxruntime", out=tmp_path / "p.html", open=False)
    data = data_of(tmp_path / "p.html")
    assert [one["kind"] for one in data["stages"]] == ["quantized", "engine"]
    assert {name for name, _ in pairs(data, 0, 1)} == {"x", "conv", "act", "y"}


def test_an_engine_without_its_graph_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    for name in ("engine.onnxruntime", "engine.onnxruntime.json"):
        shutil.copy(folder / "run" / name, tmp_path)
    with pytest.raises(InputError, match="put that ONNX file into the same folder"):
        view(tmp_path / "engine.onnxruntime", out=tmp_path / "p.html", open=False)


# A folder ---------------------------------------------------------------------------------------


def test_a_run_is_shown_from_the_original_to_the_engine(folder: Path, tmp_path: Path) -> None:
    done = view(folder / "run", out=tmp_path / "p.html", open=False)
    data = data_of(tmp_path / "p.html")
    assert [one["kind"] for one in data["stages"]] == ["original", "cleaned", "quantized", "engine"]
    assert [note for note in done.notes if "not shown" in note or "linked by" in note] == []
    assert [link[:2] for link in data["links"]] == [[0, 1], [1, 2], [2, 3]]
    assert ("bn", "conv") in pairs(data, 0, 1)


def test_a_run_shows_what_was_measured(folder: Path, tmp_path: Path) -> None:
    view(folder / "run", out=tmp_path / "p.html", open=False)
    data = data_of(tmp_path / "p.html")
    graph = "graph for onnxruntime fp32"
    assert node(data, graph, "conv")["t"] == 2.5
    assert node(data, graph, "act")["e"] == [0.01, 40.0, 39.0]
    assert node(data, graph, "conv")["s"] == ["stays in float: it has few channels"]
    (layer,) = [n for n in stage(data, "onnxruntime fp32")["nodes"] if n.get("t")]
    assert layer["t"] == 2.5


def test_a_node_that_quantization_made_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    cleaned = Model.load(tmp_path / "run/model.onnx")
    ranges = {name: Range(-4.0, 4.0, -4.0, 4.0, "mse") for name in cleaned.graph.tensors()}
    given = Ranges("mse", 7, quantize.fingerprint(cleaned), "", "images/", ranges)
    quantized, _ = quantize.quantize(cleaned, given, "onnxruntime")
    quantized.save(tmp_path / "run/model.fp32.onnxruntime.onnx")
    view(tmp_path / "run", out=tmp_path / "p.html", open=False)
    nodes = stage(data_of(tmp_path / "p.html"), "graph for onnxruntime fp32")["nodes"]
    made = [n for n in nodes if n["o"] in ("QuantizeLinear", "DequantizeLinear")]
    assert made
    assert all("made by quantize for onnxruntime fp32" in n["s"] for n in made)


def test_an_engine_that_cannot_be_asked_is_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    with open(tmp_path / "run/engine.onnxruntime", "ab") as file:
        file.write(b"0")
    done = view(tmp_path / "run", out=tmp_path / "p.html", open=False)
    assert list(done.stages) == ["original", "cleaned", "graph for onnxruntime fp32"]
    assert done.notes[-1].startswith("the layers of engine.onnxruntime are not shown: ")


def test_a_run_whose_original_is_gone_is_shown_from_the_cleaned_graph_on(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    report = json.loads((tmp_path / "run/report.json").read_text())
    report["recipe"]["model"] = str(tmp_path / "gone.onnx")
    (tmp_path / "run/report.json").write_text(json.dumps(report))
    done = view(tmp_path / "run", out=tmp_path / "p.html", open=False)
    assert "cleaned" in done.stages and "original" not in done.stages
    assert "gone.onnx" in done.notes[0]


def test_a_run_whose_original_is_another_by_now_is_linked_by_names(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    other = NET.replace("[act] y = Relu", "[other] y = Abs")
    model_of(other, WEIGHTS).save(tmp_path / "other.onnx")
    report = json.loads((tmp_path / "run/report.json").read_text())
    report["recipe"]["model"] = str(tmp_path / "other.onnx")
    (tmp_path / "run/report.json").write_text(json.dumps(report))
    done = view(tmp_path / "run", out=tmp_path / "p.html", open=False)
    assert any("linked by their names" in note for note in done.notes)
    assert ("other", "act") in pairs(data_of(tmp_path / "p.html"), 0, 1)


def test_a_folder_without_graphs_says_what_to_name(tmp_path: Path) -> None:
    Report("net", "net.pb").save(tmp_path / "report.json")
    with pytest.raises(InputError, match="holds no graph; name a folder that onnxgraft deploy"):
        view(tmp_path, out=tmp_path / "p.html", open=False)


@pytest.mark.parametrize("text", ["{", "[1, 2]"], ids=["cut", "a_list"])
def test_what_is_no_report_is_told(text: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run/report.json").write_text(text)
    with pytest.raises(InputError, match=r"report\.json: is no report that onnxgraft wrote"):
        view(tmp_path / "run", out=tmp_path / "p.html", open=False)


def test_a_report_of_another_version_leaves_out_what_it_measured(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    report = json.loads((tmp_path / "run/report.json").read_text())
    report["layers"], report["float_layers"] = [{"tensor": 1, "sqnr": "many"}], [1]
    (tmp_path / "run/report.json").write_text(json.dumps(report))
    done = view(tmp_path / "run", out=tmp_path / "p.html", open=False)
    assert len(done.stages) == 4
    assert done.notes[-1].startswith("errors and times are not shown: the report is of another")


@pytest.mark.parametrize("what", ["run", "run/engine.onnxruntime"])
def test_an_option_that_has_no_effect_is_refused(what: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--inputs goes with a model, and .* leave it out"):
        view(folder / what, inputs="a", out=tmp_path / "p.html", open=False)
