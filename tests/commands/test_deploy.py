"""The whole road, on a network trained here and on a real one."""

import json
import pickle
from pathlib import Path

import pytest

from onnxgraft.commands import deploy, read_recipe, view
from onnxgraft.commands._deployment import slower
from onnxgraft.files import sha256
from onnxgraft.stages.engine import read_passport
from onnxgraft.stages.validate.report import LatencyRow, Report
from tests.commands.test_view import data_of
from tests.conftest import ROOT, Cli, in_deep, once, only_ci
from tests.faults import COMMANDS, prepare

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def deployed(
    lenet: Path, process: Cli, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    def make(folder: Path) -> None:
        text = (ROOT / "models/lenet5.toml").read_text().replace("../demo/", f"../{lenet.name}/")
        text = text.replace("runs = 50", "runs = 3")
        # Rounding the 2.4 million weights of fc1 for two targets takes long.
        text += '\n[quantize]\nimprove = ["weights"]\n'
        (folder / "lenet5.toml").write_text(text)
        done = process("deploy", folder / "lenet5.toml", "-o", folder / "out")
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "told").write_text(done.stdout)

    place = once(tmp_path_factory, "deployed", make)
    return place / "out", (place / "told").read_text()


def test_lenet_ends_in_engines_with_passports_and_a_report(deployed: tuple[Path, str]) -> None:
    names = {path.name for path in deployed[0].iterdir()}
    assert names == {
        "engine.onnxruntime", "engine.onnxruntime.json", "engine.openvino", "engine.openvino.json",
        "junit.xml", "model.int8.onnxruntime.onnx", "model.int8.openvino.onnx", "model.onnx",
        "ranges.json", "ranges.json.histograms.npz", "report.html", "report.json",
    }  # fmt: skip


def test_a_report_has_the_whole_recipe(deployed: tuple[Path, str]) -> None:
    recipe = json.loads((deployed[0] / "report.json").read_text())["recipe"]
    assert recipe["targets"] == ["openvino", "onnxruntime"]
    assert recipe["calibrate"]["seed"] == 0  # a default
    assert recipe["bench"]["runs"] == 3
    assert "<code>bench.runs</code>" in (deployed[0] / "report.html").read_text()


def test_a_report_has_the_graphs_from_the_original_to_the_engines(
    deployed: tuple[Path, str], tmp_path: Path
) -> None:
    told = data_of(deployed[0] / "report.html")
    kinds = ["original", "cleaned", *["quantized", "engine"] * 2]
    assert [stage["kind"] for stage in told["stages"]] == kinds
    assert [link[:2] for link in told["links"]] == [[0, 1], [1, 2], [2, 3], [1, 4], [4, 5]]
    for stage in told["stages"][2:]:
        assert any("t" in node for node in stage["nodes"]), "no times"
        assert any("e" in node for node in stage["nodes"]), "no errors"
    assert told["ranges"]
    shown = view(deployed[0], out=tmp_path / "p.html", open=False)
    assert list(shown.stages) == [
        stage["title"] for place in (0, 1, 4, 5, 2, 3) for stage in [told["stages"][place]]
    ]
    # What was converted again is linked by what surgery did, as in the report.
    assert shown.notes == []


def test_lenet_loses_no_more_than_a_point_in_int8(deployed: tuple[Path, str]) -> None:
    report = json.loads((deployed[0] / "report.json").read_text())
    accuracy = {row["name"]: row["metrics"]["top1"] for row in report["candidates"]}
    assert accuracy["tensorflow"] > 95
    assert accuracy["onnxruntime fp32"] == accuracy["tensorflow"]
    for engine in ("openvino int8", "onnxruntime int8"):
        assert accuracy[engine] >= accuracy["tensorflow"] - 1


def test_lenet_is_clean_and_equal_to_tensorflow(deployed: tuple[Path, str]) -> None:
    report = json.loads((deployed[0] / "report.json").read_text())
    stages = {row["stage"]: row for row in report["stages"]}
    # Measured 2e-7; float32 with sums in another order.
    assert stages["cleaned"]["relative"] < 1e-5
    left = report["operators_after"]
    assert not {"Where", "Slice", "Concat", "Shape", "BatchNormalization", "ReduceMean"} & set(left)
    assert left.get("Transpose", 0) == 0
    assert sum(left.values()) <= 13


def test_the_passports_say_what_was_measured_and_on_what(deployed: tuple[Path, str]) -> None:
    report = json.loads((deployed[0] / "report.json").read_text())
    rows = {row["name"]: row for row in report["candidates"]}
    times = {row["name"]: row for row in report["latency"]}
    for target in ("openvino", "onnxruntime"):
        passport = read_passport(deployed[0] / f"engine.{target}")
        name = f"{target} int8"
        assert passport.accuracy["top1"] == rows[name]["metrics"]["top1"]
        assert passport.accuracy["samples"] == report["samples"]
        assert passport.accuracy["fc2/BiasAdd:0: cosine"] == rows[name]["outputs"][0]["cosine"]
        assert [row["median_ms"] for row in passport.latency] == [times[name]["median_ms"]]
        assert passport.hashes["ranges"] == sha256(deployed[0] / "ranges.json")
        assert passport.hashes["recipe"] == sha256(deployed[0].with_name("lenet5.toml"))
        assert set(passport.hashes) == {"ranges", "recipe", "data", "validation"}
        assert set(passport.recipe) == {"preprocess", "postprocess"}


def test_the_table_fits_80_columns_and_ends_with_the_report(deployed: tuple[Path, str]) -> None:
    lines = deployed[1].splitlines()
    table = [line for line in lines if not line.startswith("report:")]
    assert max(map(len, table)) <= 80
    assert "…" not in deployed[1]
    assert lines[-1] == f"report: {deployed[0] / 'report.html'}"


@only_ci
def test_a_second_deploy_into_the_same_folder_replaces_the_files(tmp_path: Path, cli: Cli) -> None:
    command, out = COMMANDS["deploy"], tmp_path / "out"
    out.mkdir()
    prepare(tmp_path)
    for version in ("a", "b"):
        done = cli(*command.words.format(v=version, here=tmp_path, out=out).split())
        assert done.returncode == 0, done.stderr
        assert command.version(out) == version
    assert sorted(path.name for path in out.iterdir()) == ["deployed", "deployed.kept"]
    assert not list((out / "deployed").glob(".*"))


@pytest.fixture(scope="module")
def street(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    in_deep()  # in CI the README deploys it
    recipe = read_recipe(ROOT / "benchmarks/fcn_camvid.toml", images=2)
    recipe.bench.rounds, recipe.bench.runs = 2, 2
    # The tutorial for Caffe, which runs too, has what is usual; on such a network that takes long.
    recipe.calibrate.method, recipe.quantize.improve = "mse", ()
    for holder, name in (
        (recipe, "model"),
        (recipe.calibrate, "data"),
        (recipe.validation, "data"),
    ):
        place = Path(getattr(holder, name))
        setattr(holder, name, str(shared / place.relative_to(ROOT.parent / "shared")))

    def make(folder: Path) -> None:
        report = deploy(recipe, folder / "out")
        (folder / "report").write_bytes(pickle.dumps(report))

    place = once(tmp_path_factory, "street", make)
    return place / "out", pickle.loads((place / "report").read_bytes())


def test_all_the_time_of_the_fcn_finds_a_layer_by_the_frameworks_name(
    street: tuple[Path, Report],
) -> None:
    report = street[1]
    names = ["onnxruntime fp32", "openvino int8", "onnxruntime int8"]
    assert [(row.engine, row.lost) for row in report.layers_timed] == [(n, 0.0) for n in names]
    for name in names:
        mine = {row.layer: row for row in report.layer_times if row.engine == name}
        assert {f"conv{n}/Relu:0" for n in ("1_2", "2_1", "3_3", "4_2", "5_3")} <= {*mine}
        assert {"pool1:0", "prob:0"} <= {*mine}
        assert mine["conv4_2/Relu:0"].precision == name.split()[1]


def test_an_engine_that_is_slower_than_the_float_graph_is_told() -> None:
    timed = [
        LatencyRow(name, batch, ms, ms, ms, 50)
        for name, batch, ms in (
            ("tensorflow", 1, 9.0), ("onnxruntime fp32", 1, 1.0), ("openvino int8", 1, 1.3),
            ("onnxruntime int8", 1, 1.02), ("onnxruntime fp32", 16, 10.0),
            ("openvino int8", 16, 5.0), ("openvino int8", 4, 5.0),
        )
    ]  # fmt: skip
    assert slower(timed, "onnxruntime fp32") == [
        "openvino int8 is slower here than onnxruntime fp32: 1.30 ms against 1.00 for a batch of 1"
    ]


def test_the_fcn_is_39_nodes_with_2_transposes(street: tuple[Path, Report]) -> None:
    report = street[1]
    assert sum(report.operators_after.values()) == 39
    assert report.operators_after["Transpose"] == 2
    assert "ReduceMean" not in report.operators_after


def test_the_fcn_computes_what_tensorflow_computes(street: tuple[Path, Report]) -> None:
    report = street[1]
    # Measured 3e-6 of the range for both graphs.
    for row in report.stages[:2]:
        assert row.relative < 2e-5
    original, fp32 = report.candidates[:2]
    assert fp32.metrics == pytest.approx(original.metrics, abs=0.02)


def test_the_fcn_keeps_its_accuracy_in_int8(street: tuple[Path, Report]) -> None:
    report = street[1]
    original, _, *engines = report.candidates
    assert [row.name for row in engines] == ["openvino int8", "onnxruntime int8"]
    for row in engines:
        # On all 101 images the loss is under 0.1; on a few it scatters by some tenths.
        assert row.metrics["class mIoU"] > original.metrics["class mIoU"] - 0.5
        assert row.passed


def test_the_fcn_is_timed_on_every_engine(street: tuple[Path, Report]) -> None:
    rows = {row.name: row for row in street[1].latency}
    assert list(rows) == ["tensorflow", "onnxruntime fp32", "openvino int8", "onnxruntime int8"]
    assert all(row.runs == 4 and row.median_ms > 0 for row in rows.values())


@pytest.mark.parametrize("graph", ["fp32", "int8"])
def test_tensorrt_builds_the_fcn(
    graph: str, street: tuple[Path, Report], tmp_path: Path, cli: Cli
) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    folder = street[0]
    source = folder / "model.onnx"
    if graph == "int8":
        done = cli(
            "quantize", source, "--ranges", folder / "ranges.json", "--target", "tensorrt",
            "-o", tmp_path / "trt.onnx",
        )  # fmt: skip
        assert "17 of 17 layers in INT8" in done.stdout
        source = tmp_path / "trt.onnx"
    done = cli("build", source, "--target", "tensorrt", "-o", tmp_path / "e", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["precision"] == graph
    size = (tmp_path / "e").stat().st_size
    # 3.8 million weights of 4 bytes or of 1, and the code of two profiles.
    assert 3.8e6 < size < (20e6 if graph == "fp32" else 12e6)


def test_tensorrts_parser_errors_reach_the_user(
    street: tuple[Path, Report], tmp_path: Path, cli: Cli
) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    done = cli(
        "build", street[0] / "model.int8.onnxruntime.onnx", "--target", "tensorrt",
        "-o", tmp_path / "no.engine",
    )  # fmt: skip
    assert done.returncode == 2
    assert "QuantizeLinear" in done.stderr
    assert "Non-zero zero point is not supported" in done.stderr
    assert not (tmp_path / "no.engine").exists()
