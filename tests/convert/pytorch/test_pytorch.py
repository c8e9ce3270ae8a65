"""What `convert` makes of a .pt2, held against the modules it was exported from."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.commands import convert, deploy
from onnxgraft.commands._recipe import make_recipe
from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.model import Model, Origin
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.validate import find_divergence
from tests.conftest import few, only_ci

pytestmark = pytest.mark.usefixtures("untimed")


@functools.cache
def lowered(file: Path) -> tuple[Model, list[str]]:
    """Return what a program is converted to; for reading alone."""
    return Original.of(file).lower()


def arrays(programs: Path) -> dict[str, np.ndarray]:
    with np.load(programs / "net.npz") as file:
        return dict(file)


def test_a_program_computes_what_its_module_did_converted_and_not(programs: Path) -> None:
    known = arrays(programs)
    feeds = {"image": known["image"], "scale.by.0": known["by"]}
    model, notes = lowered(programs / "net.pt2")
    assert notes == []
    with Original.of(programs / "net.pt2").run() as original, OnnxRuntime(model.to_onnx()) as ours:
        for engine in (original, ours):
            made = engine.infer(feeds)
            assert list(made) == ["logits", "more.0", "more.1", "more.2"]
            np.testing.assert_allclose(made["logits"], known["logits"], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(made["more.0"], known["maps"], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(made["more.1"], known["argmax"])
            np.testing.assert_array_equal(made["more.2"], made["logits"])


def test_free_axes_have_the_same_names_where_they_are_equal(programs: Path) -> None:
    model, _ = lowered(programs / "net.pt2")
    assert [str(spec) for spec in (*model.inputs, *model.outputs)] == [
        "image (N, 3, image.2, 5) float32", "scale.by.0 (1) float32", "logits (N, 4) float32",
        "more.0 (N, 4, image.2, 5) float32", "more.1 (N, image.2, 5) int64",
        "more.2 (N, 4) float32",
    ]  # fmt: skip


def test_the_names_of_modules_are_kept_for_tensors_and_layers(programs: Path) -> None:
    done = convert(programs / "net.pt2")
    assert done.passed
    assert done.verdicts
    assert done.model.source.framework == "pytorch"
    names = lowered(programs / "net.pt2")[0].names
    assert {"layer1.0", "layer1.0.act", "layer1.0.bn", "fc", "act", "fc@1"} <= set(names)
    assert names["more.0"] == Origin("layer1.1")
    assert {"layer1.0.act", "more.0", "fc", "act"} <= set(done.model.names)
    layers = {node.name for node in done.model.graph.nodes}
    assert {"layer1.0.conv1/Conv", "layer1.1/Conv", "fc/Gemm", "fc/Gemm_2"} <= layers


def test_pytorch_is_asked_for_what_a_module_returns(programs: Path) -> None:
    known = arrays(programs)
    feeds = {"image": known["image"], "scale.by.0": known["by"]}
    with Original.of(programs / "net.pt2").run() as original:
        seen = original.probe(["layer1.0", "no.such"], feeds)  # type: ignore[attr-defined]
    assert list(seen) == ["layer1.0"]
    np.testing.assert_array_equal(seen["layer1.0"], known["block"])


def test_a_difference_is_found_at_its_module(programs: Path) -> None:
    known = arrays(programs)
    original = Original.of(programs / "net.pt2")
    model, _ = surgery.run(lowered(programs / "net.pt2")[0])
    (conv,) = (node for node in model.graph.nodes if node.name == "layer1.1/Conv")
    conv.inputs[1].values = conv.inputs[1].values * 1.5
    with original.run() as running:
        found = find_divergence(
            running, model, {"image": known["image"], "scale.by.0": known["by"]}
        )
    assert found is not None
    assert found.origin == "layer1.1"


@pytest.mark.parametrize("outputs", few(["fc,layer1.1", "layer1.0", "fc"], 1, 1))
def test_a_program_is_cut_at_modules(programs: Path, outputs: str) -> None:
    done = convert(programs / "net.pt2", outputs=outputs)
    assert done.passed
    assert len(done.verdicts) == 2 * len(outputs.split(","))
    assert not any("not compared" in note for note in done.notes)


def test_a_program_begins_at_a_module_that_is_named(programs: Path) -> None:
    done = convert(programs / "net.pt2", inputs="layer1.0", outputs="layer1.1")
    assert done.passed
    assert [spec.name for spec in done.model.inputs] == ["layer1.0"]
    assert done.model.operators() == {"Conv": 1}


def test_a_module_that_is_not_there_is_named(programs: Path) -> None:
    with pytest.raises(InputError, match=r"'layer1\.9'; did you mean layer1\."):
        convert(programs / "net.pt2", outputs="layer1.9")


def test_types_that_numpy_lacks_sizes_and_inputs_that_are_returned(programs: Path) -> None:
    original = Original.of(programs / "mixed.pt2")
    model, _ = lowered(programs / "mixed.pt2")
    assert [str(spec) for spec in model.inputs] == [
        "x (N, 3) float16", "mask (3) bool", "steps () int64",
    ]  # fmt: skip
    assert [str(spec) for spec in model.outputs] == [
        "output.0 (N, 3) bfloat16", "output.1 (N, 3) float16", "output.2 (N, 3) float16",
        "output.3 () int64",
    ]  # fmt: skip
    x = np.array([[1, -2, 3], [4, 5, -6], [0, 8, 9]], np.float16)
    feeds = {"x": x, "mask": np.array([True, False, True]), "steps": np.array(5)}
    with original.run() as running, OnnxRuntime(model.to_onnx()) as ours:
        for engine in (running, ours):
            made = engine.infer(feeds)
            np.testing.assert_array_equal(made["output.0"].astype(np.float32), 2.0 * x)
            np.testing.assert_array_equal(made["output.1"], x * [1, -1, 1])
            np.testing.assert_array_equal(made["output.2"], x)
            assert made["output.3"] == 8
            assert made["output.3"].dtype == np.int64


def test_a_state_is_an_input_and_an_output(programs: Path) -> None:
    original = Original.of(programs / "counting.pt2")
    model, notes = lowered(programs / "counting.pt2")
    assert [spec.name for spec in model.inputs] == ["x", "mean"]
    assert [spec.name for spec in model.outputs] == ["output", "mean.next"]
    assert any("'mean', which the network changes, is the input mean" in note for note in notes)
    assert any("'calls' is left out" in note for note in notes)
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    feeds = {"x": x, "mean": np.array([2, 4, 6], np.float32)}
    with original.run() as running, OnnxRuntime(model.to_onnx()) as ours:
        for engine in (running, ours, running):  # twice: it begins anew
            made = engine.infer(feeds)
            np.testing.assert_array_equal(made["mean.next"], [6, 9, 12])
            np.testing.assert_array_equal(made["output"], x + np.array([6, 9, 12]))
    assert convert(programs / "counting.pt2").passed


@pytest.mark.parametrize("opset", few([20, 18], 1, 1))
def test_opsets_that_pytorch_writes(programs: Path, opset: int) -> None:
    model, _ = Original.of(programs / "net.pt2").lower(opset)
    assert model.graph.opset == opset


def test_an_opset_that_pytorch_does_not_write_is_refused(programs: Path) -> None:
    with pytest.raises(InputError, match="--opset 17: from 18 to 20 can be written of pytorch"):
        Original.of(programs / "net.pt2").lower(17)


def test_a_network_in_training_mode_is_refused_by_the_module(programs: Path) -> None:
    with pytest.raises(ModelError, match=r"'layer1\.0\.bn' is in training mode; call model\.eval"):
        Original.of(programs / "training.pt2").lower()


def test_complex_numbers_are_refused_by_the_input(programs: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"input is complex.*view_as_real"):
        Original.of(programs / "complex.pt2").lower()


def test_what_onnx_lacks_is_named_and_can_be_inspected(programs: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"ONNX has no prims\.igamma, and PyTorch"):
        Original.of(programs / "missing.pt2").lower()
    found = commands.inspect(programs / "missing.pt2")
    assert found.operators == {"aten.special_gammainc": 1}
    assert "ONNX has no prims.igamma" in found.notes[0]


def test_inspect_tells_what_a_program_holds(programs: Path) -> None:
    found = commands.inspect(programs / "net.pt2")
    assert found.framework == "pytorch"
    assert found.inputs == ["image (N, 3, image.2, 5) float32", "scale.by.0 (1) float32"]
    assert found.operators["aten.conv2d"] == 2
    assert found.parameters == sum((4 * 27 + 4, 4 * 4 + 1, 16 + 4, 16 + 4))
    assert found.dynamic == ["image: its dimensions 0, 2 are free"]


@only_ci
def test_a_program_is_deployed_in_int8(programs: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((8, 3, 6, 5)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=images)
    recipe = make_recipe(
        programs / "net.pt2", data=str(tmp_path / "data.npz"), inputs="image", outputs="layer1",
        targets=["onnxruntime"],
    )  # fmt: skip
    recipe.bench.rounds = recipe.bench.runs = 1
    recipe.calibrate.method = "minmax"
    report = deploy(recipe, tmp_path / "out")
    assert report.passed
    assert report.candidates[0].name == "pytorch"


MADE = (
    'program = torch.export.export(model.eval(), (example,)); torch.export.save(program, "net.pt2")'
)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("script.pt", "is a TorchScript network"),
        ("weights.pth", "is weights of PyTorch without their network (a state_dict)"),
        ("checkpoint.pth", "is weights of PyTorch without their network (a state_dict)"),
        ("module.pt", "is a pickled module of PyTorch"),
        ("old.pt", "is a pickled module of PyTorch"),
        ("plain.pkl", "is a pickle, as PyTorch writes .pt and .pth"),
    ],
)
def test_what_is_no_program_is_named_with_the_two_lines_that_make_one(
    programs: Path, name: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "renamed.pt2").write_bytes((programs / name).read_bytes())
    for file in (programs / name, tmp_path / "renamed.pt2"):
        with pytest.raises(ModelError) as told:
            Original.of(file).lower()
        assert words in str(told.value)
        assert MADE in str(told.value)


def test_a_program_of_another_name_is_told_its_suffix(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "net.zip").write_bytes((programs / "net.pt2").read_bytes())
    with pytest.raises(ModelError, match=r"is a program of PyTorch \(\.pt2\), .* call it \.pt2"):
        Original.of(tmp_path / "net.zip").lower()


def test_it_survives_the_way_to_another_process(programs: Path) -> None:
    import pickle

    original = Original.of(programs / "counting.pt2")
    original.lower()
    assert pickle.loads(pickle.dumps(original)).lower()[0].names["mean"] == Origin("mean")
