"""Where no target is named, the graph and the machine say which is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxgraft import commands
from onnxgraft.commands._defaults import deployed_targets, only_target, target_of_graph
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine as stage
from onnxgraft.stages.engine import loading
from onnxgraft.targets import target_names
from tests.conftest import Cli, model_of


@pytest.fixture
def net() -> Model:
    return model_of("n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")


def here(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    backend = loading.backend_of

    def some(target: str) -> object:
        found = backend(target)
        monkeypatch.setattr(found, "runs_here", lambda: target in names)
        return found

    monkeypatch.setattr(loading, "backend_of", some)


@pytest.mark.parametrize("target", target_names())
def test_a_graph_that_was_quantized_is_built_for_its_target(
    net: Model, target: str, tmp_path: Path
) -> None:
    done = commands.quantize(net, target, tmp_path / "q.onnx", int8=False).done
    assert done is not None
    made = Model.load(tmp_path / "q.onnx")
    assert target_of_graph(made)[0] == target
    assert target_of_graph(made)[1].endswith("which the graph was made for")


def test_the_engine_is_of_the_graphs_target_and_says_so(
    net: Model, tmp_path: Path, cli: Cli
) -> None:
    commands.quantize(net, "onnxruntime", tmp_path / "q.onnx", int8=False)
    done = cli("build", tmp_path / "q.onnx", "-o", tmp_path / "e", "--no-prove")
    assert done.returncode == 0, done.stderr
    assert stage.read_passport(tmp_path / "e").target == "onnxruntime"
    assert "for onnxruntime, which the graph was made for" in done.stdout


def test_another_target_may_still_be_named(net: Model, tmp_path: Path) -> None:
    net.metadata["onnxgraft.precision"] = json.dumps({"target": "openvino"})
    built = commands.build(net, tmp_path / "e", target="onnxruntime", prove=False)
    assert built.passport.target == "onnxruntime"
    assert "chosen" not in built.to_json()


@pytest.mark.parametrize("told", ["", "[]", '{"target": "tpu"}', '{"target": ["openvino"]}'])
def test_a_graph_that_names_no_known_target_is_as_any_other(
    net: Model, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, "openvino", "onnxruntime")
    net.metadata["onnxgraft.precision"] = told
    name, why = target_of_graph(net)
    assert name == "openvino"
    assert "rather than onnxruntime; --target names another" in why


def test_where_one_runtime_is_here_it_is_taken(
    net: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here(monkeypatch, "onnxruntime")
    assert target_of_graph(net) == (
        "onnxruntime",
        "for onnxruntime, the only runtime that is here; --target names another",
    )
    assert only_target() == "onnxruntime"
    assert deployed_targets() == ("onnxruntime",)
    commands.quantize(net, out=tmp_path / "q.onnx", int8=False)
    assert target_of_graph(Model.load(tmp_path / "q.onnx"))[0] == "onnxruntime"


def test_where_several_are_here_quantize_asks(
    net: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here(monkeypatch, "openvino", "onnxruntime")
    with pytest.raises(InputError, match="here can run: openvino, onnxruntime; name one with --ta"):
        commands.quantize(net, out=tmp_path / "q.onnx", int8=False)
    assert deployed_targets() == ("openvino", "onnxruntime")


def test_where_none_is_here_deploy_keeps_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    assert deployed_targets() == ("openvino", "onnxruntime")
    with pytest.raises(InputError, match="none can run here"):
        only_target()
