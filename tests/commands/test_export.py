"""A model repository for Triton: read with Triton's own message definitions."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format

import onnxgraft
from onnxgraft.commands._opening import graph_of_engine
from onnxgraft.errors import InputError
from onnxgraft.files import sha256
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.engine import graph_hash, read_passport
from onnxgraft.stages.engine.passport import Flags, Passport
from onnxgraft.stages.engine.triton import configuration
from tests.conftest import Cli, model_of, once

config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
NET = (
    "net (float[N, 3, 8, 8] data) => (float[N, 4] prob) {"
    " p = GlobalAveragePool(data)  f = Flatten(p)  prob = MatMul(f, w) }"
)
RECIPE = (
    '[preprocess]\nmean = [127.5]\n[postprocess]\nnames = ["cat", "dog", "eel", "a \\"fox\\" é"]\n'
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network and an engine for each CPU target."""

    def make(folder: Path) -> None:
        weights = np.arange(12, dtype=np.float32).reshape(3, 4)
        model_of(NET, {"w": weights}).save(folder / "net.onnx")
        (folder / "recipe.toml").write_text(RECIPE)
        for target in ("onnxruntime", "openvino"):
            onnxgraft.build(
                folder / "net.onnx", folder / target, target=target, prove=False, threads=2,
                recipe=folder / "recipe.toml",
            )  # fmt: skip

    return once(tmp_path_factory, "export", make)


def read(repository: Path, name: str = "test") -> Any:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), config.ModelConfig())


def parameters(found: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in found.parameters.items()}


def test_an_onnxruntime_engine_is_a_model_that_onnxruntime_loads(
    engines: Path, tmp_path: Path
) -> None:
    done = onnxgraft.export("triton", engines / "onnxruntime", tmp_path / "repository")
    found = read(tmp_path / "repository")
    assert (found.name, found.backend, found.platform) == (
        "test", "onnxruntime", "onnxruntime_onnx",
    )  # fmt: skip
    assert found.max_batch_size == 16
    assert found.HasField("dynamic_batching")
    assert found.instance_group[0].kind == config.ModelInstanceGroup.KIND_CPU
    file = tmp_path / "repository/test/1" / found.default_model_filename
    assert sha256(file) == read_passport(engines / "onnxruntime").engine
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for told, there in (
        (found.input, session.get_inputs()), (found.output, session.get_outputs()),
    ):  # fmt: skip
        assert [(t.name, list(t.dims)) for t in told] == [(t.name, t.shape[1:]) for t in there]
        assert {t.data_type for t in told} == {config.TYPE_FP32}
    assert parameters(found)["intra_op_thread_count"] == "2"
    assert any("has to bring onnxruntime" in note for note in done.notes)


def test_a_quantized_engine_gives_its_bits_at_the_level_that_triton_is_told(
    tmp_path: Path,
) -> None:
    """The level is the backend's: 2 is no optimization, where onnxruntime calls that 0."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32)}
    model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 6, 6, 8] y) {"
        " c = Conv(x, w)  r = Relu(c)  y = Transpose<perm=[0,2,3,1]>(r) }", weights,
    ).save(tmp_path / "net.onnx")  # fmt: skip
    samples = rng.normal(size=(8, 3, 8, 8)).astype(np.float32)
    onnxgraft.LiteEngine(
        tmp_path / "net.onnx", target="onnxruntime", precision="int8", path=tmp_path / "e",
        calibration=samples,
    ).close()  # fmt: skip
    onnxgraft.export("triton", tmp_path / "e", tmp_path / "r", name="net")
    found = read(tmp_path / "r", "net")
    assert found.optimization.graph.level == 2
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        tmp_path / "r/net/1/model.onnx", options, providers=["CPUExecutionProvider"]
    )
    with onnxgraft.load_engine(tmp_path / "e") as engine:
        (name,) = (spec.name for spec in engine.outputs)
        wanted = engine.infer({"x": samples})[name]
    np.testing.assert_array_equal(session.run([name], {"x": samples})[0], wanted)


def test_a_float_engine_is_optimized_as_the_server_does_it(engines: Path, tmp_path: Path) -> None:
    onnxgraft.export("triton", engines / "onnxruntime", tmp_path)
    assert not read(tmp_path).HasField("optimization")


def test_what_the_passport_says_stands_in_the_parameters(engines: Path, tmp_path: Path) -> None:
    onnxgraft.export("triton", engines / "onnxruntime", tmp_path)
    told, passport = parameters(read(tmp_path)), read_passport(engines / "onnxruntime")
    assert told["onnxgraft.engine_sha256"] == passport.engine
    assert told["onnxgraft.graph_sha256"] == passport.graph
    assert told["onnxgraft.precision"] == "fp32"
    assert json.loads(told["onnxgraft.preprocess"])["mean"] == [127.5]
    assert str(engines) not in (tmp_path / "test/config.pbtxt").read_text()


def test_names_of_classes_are_the_labels_of_the_output(engines: Path, tmp_path: Path) -> None:
    onnxgraft.export("triton", engines / "onnxruntime", tmp_path)
    file = tmp_path / "test" / read(tmp_path).output[0].label_filename
    assert file.read_text() == 'cat\ndog\neel\na "fox" é\n'


def test_openvino_gets_the_graph_and_clients_make_batches(engines: Path, tmp_path: Path) -> None:
    done = onnxgraft.export("triton", engines / "openvino", tmp_path)
    found = read(tmp_path)
    assert (found.backend, found.max_batch_size) == ("openvino", 0)
    assert not found.HasField("dynamic_batching")
    assert list(found.input[0].dims) == [-1, 3, 8, 8]
    stored = Model.load(tmp_path / "test/1/model.onnx")
    assert graph_hash(stored) == read_passport(engines / "openvino").graph
    told = parameters(found)
    assert told["PERFORMANCE_HINT"] == "LATENCY"
    assert told["INFERENCE_NUM_THREADS"] == "2"
    assert any("compiles the graph itself" in note for note in done.notes)


def test_the_graph_beside_an_engine_is_found_however_its_path_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_of("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }").save(tmp_path / "net.onnx")
    foreign = onnx.load(tmp_path / "net.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    onnxgraft.build("net.onnx", "e", target="onnxruntime")
    (tmp_path / "moved").mkdir()
    for name in ("net.onnx", "e", "e.json"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    for place in ("moved/e", tmp_path / "moved/e"):
        assert graph_of_engine(Path(place)) is not None


def test_with_openvino_joined_requests_are_padded(engines: Path, tmp_path: Path) -> None:
    onnxgraft.export("triton", engines / "openvino", tmp_path, max_batch=4)
    found = read(tmp_path)
    assert (found.max_batch_size, list(found.input[0].dims)) == (4, [3, 8, 8])
    assert parameters(found)["ENABLE_BATCH_PADDING"] == "YES"


def test_an_openvino_engine_without_its_graph_asks_for_it(engines: Path, tmp_path: Path) -> None:
    for name in ("openvino", "openvino.json"):
        (tmp_path / name).write_bytes((engines / name).read_bytes())
    with pytest.raises(InputError, match="name it with --graph"):
        onnxgraft.export("triton", tmp_path / "openvino", tmp_path / "r")
    onnxgraft.export(
        "triton", tmp_path / "openvino", tmp_path / "r", graph=[engines / "net.onnx"]
    )  # fmt: skip
    assert read(tmp_path / "r").backend == "openvino"


def test_instances_and_delay_are_what_was_asked_for(engines: Path, tmp_path: Path) -> None:
    onnxgraft.export(
        "triton", engines / "onnxruntime", tmp_path, name="other", max_batch=8, instances=3,
        queue_delay=250, threads=1,
    )  # fmt: skip
    found = read(tmp_path, "other")
    assert (found.name, found.max_batch_size) == ("other", 8)
    assert found.instance_group[0].count == 3
    assert found.dynamic_batching.max_queue_delay_microseconds == 250
    assert parameters(found)["intra_op_thread_count"] == "1"


def test_another_engine_is_the_next_version_and_the_same_one_is_not(
    engines: Path, tmp_path: Path
) -> None:
    first = onnxgraft.export("triton", engines / "onnxruntime", tmp_path)
    again = onnxgraft.export("triton", engines / "onnxruntime", tmp_path, instances=2)
    assert (first.version, again.version) == (1, 1)
    other = onnxgraft.export("triton", engines / "openvino", tmp_path)
    assert other.version == 2
    assert list(read(tmp_path).version_policy.specific.versions) == [2]
    assert (tmp_path / "test/1/model.onnx").is_file()


def test_a_configuration_of_another_origin_stays(engines: Path, tmp_path: Path) -> None:
    place = tmp_path / "test/config.pbtxt"
    place.parent.mkdir()
    place.write_text('backend: "python"\n')
    with pytest.raises(InputError, match="is there already"):
        onnxgraft.export("triton", engines / "onnxruntime", tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.pbtxt", "test"]
    onnxgraft.export("triton", engines / "onnxruntime", tmp_path, force=True)
    assert read(tmp_path).backend == "onnxruntime"


def test_an_engine_that_its_passport_does_not_describe_is_refused(
    engines: Path, tmp_path: Path
) -> None:
    (tmp_path / "e").write_bytes((engines / "onnxruntime").read_bytes() + b"\0")
    (tmp_path / "e.json").write_bytes((engines / "onnxruntime.json").read_bytes())
    with pytest.raises(InputError, match="not the file that its passport describes"):
        onnxgraft.export("triton", tmp_path / "e", tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ["..", "a/b", "", "-x"])
def test_a_name_that_is_no_folder_is_refused(name: str, engines: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a model's name has letters"):
        onnxgraft.export("triton", engines / "onnxruntime", tmp_path, name=name)


def test_the_command_says_what_it_wrote(engines: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("export", "triton", engines / "onnxruntime", "-o", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert "test, version 1: test/1/model.onnx" in " ".join(done.stdout.split())


# Of devices and providers the passport alone: none is here.


@pytest.mark.parametrize(
    ("provider", "kind", "accelerator", "more"),
    [
        ("cuda:1", "KIND_GPU", "gpu_execution_accelerator", {"use_tf32": "0"}),
        ("tensorrt", "KIND_GPU", "gpu_execution_accelerator", {"precision_mode": "INT8"}),
        ("openvino", "KIND_CPU", "cpu_execution_accelerator", {}),
    ],
)
def test_triton_is_told_the_provider(
    provider: str, kind: str, accelerator: str, more: dict[str, str], engines: Path
) -> None:
    passport = dataclasses.replace(
        read_passport(engines / "onnxruntime"), precision="int8", flags=Flags(provider=provider)
    )
    found = parsed(passport)
    (group,) = found.instance_group
    assert config.ModelInstanceGroup.Kind.Name(group.kind) == kind
    assert list(group.gpus) == ([int(provider[-1] == "1")] if kind == "KIND_GPU" else [])
    (told,) = getattr(found.optimization.execution_accelerators, accelerator)
    assert told.name == provider.partition(":")[0]
    assert dict(told.parameters) == more


@pytest.mark.parametrize("provider", ["dml", "qnn", "openvino:GPU"])
def test_a_provider_that_tritons_backend_lacks_is_refused(provider: str, engines: Path) -> None:
    passport = read_passport(engines / "onnxruntime")
    with pytest.raises(InputError, match=f"has no provider {provider}: it has cuda, tensorrt"):
        configuration(dataclasses.replace(passport, flags=Flags(provider=provider)), "net")


def test_triton_is_told_the_device(engines: Path) -> None:
    passport = read_passport(engines / "openvino")
    assert "TARGET_DEVICE" not in parameters(parsed(passport))
    found = parsed(dataclasses.replace(passport, flags=Flags(device="GPU")))
    assert parameters(found)["TARGET_DEVICE"] == "GPU"


# Of TensorRT the passport alone: no engine is built here.


@pytest.fixture
def plan(engines: Path) -> Passport:
    shapes = [[[1, 3, 8, 8]] * 3, [[2, 3, 8, 8], [32, 3, 8, 8], [32, 3, 8, 8]]]
    return dataclasses.replace(
        read_passport(engines / "onnxruntime"), target="tensorrt", versions={"tensorrt": "10.3.0"},
        flags=Flags(profiles=[{"data": each} for each in shapes], version_compatible=True),
    )  # fmt: skip


def parsed(passport: Passport, **more: Any) -> Any:
    return text_format.Parse(configuration(passport, "net", **more).text, config.ModelConfig())


def test_a_tensorrt_plan_is_served_on_the_gpu_with_all_its_profiles(plan: Passport) -> None:
    found = parsed(plan)
    assert (found.platform, found.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert found.max_batch_size == 32
    group = found.instance_group[0]
    assert group.kind == config.ModelInstanceGroup.KIND_GPU
    assert list(group.profile) == ["0", "1"]
    assert any("version-compatible=true" in note for note in configuration(plan, "n").notes)


def test_a_plan_takes_no_larger_batch_than_it_was_built_for(plan: Passport) -> None:
    assert parsed(plan, largest=2).max_batch_size == 2
    with pytest.raises(InputError, match="built for batches up to 32"):
        configuration(plan, "net", largest=33)


def test_where_not_all_have_the_batch_clients_give_whole_shapes(plan: Passport) -> None:
    fixed = dataclasses.replace(
        plan,
        inputs=(*plan.inputs, TensorSpec("threshold", "float32", ())),
        outputs=(TensorSpec("boxes", "float16", (1, "count", 4)), TensorSpec("n", "int64", (1,))),
    )
    found = parsed(fixed)
    assert found.max_batch_size == 0
    assert [list(each.dims) for each in found.input] == [[-1, 3, 8, 8], [1]]
    assert found.input[1].HasField("reshape")
    assert list(found.input[1].reshape.shape) == []
    assert [list(each.dims) for each in found.output] == [[1, -1, 4], [1]]
    assert [each.data_type for each in found.output] == [config.TYPE_FP16, config.TYPE_INT64]
    with pytest.raises(InputError, match="can't be joined"):
        configuration(fixed, "net", largest=4)


def test_fixed_shapes_of_openvino_are_the_shapes_that_are_served(engines: Path) -> None:
    passport = read_passport(engines / "openvino")
    fixed = dataclasses.replace(passport, flags=Flags(shapes={"data": [2, 3, 8, 8]}), floats="bf16")
    found = parsed(fixed)
    assert list(found.input[0].dims) == [2, 3, 8, 8]
    assert parameters(found)["RESHAPE_IO_LAYERS"] == parameters(found)["HINT_BF16"] == "YES"


def test_a_precision_that_the_backend_has_no_setting_for_is_told(engines: Path) -> None:
    passport = read_passport(engines / "openvino")
    told = {
        floats: configuration(dataclasses.replace(passport, floats=floats), "net").notes
        for floats in ("fp32", "bf16", "fp16")
    }
    assert any("no setting for fp16" in note for note in told["fp16"])
    assert told["fp32"] == told["bf16"] != told["fp16"]


def test_a_form_that_the_engine_was_healed_by_is_told(engines: Path) -> None:
    healed = dataclasses.replace(read_passport(engines / "openvino"), notes=("conv1 in pads",))
    assert any("conv1 in pads" in note for note in configuration(healed, "net").notes)


def test_a_type_that_triton_lacks_is_refused(plan: Passport) -> None:
    odd = dataclasses.replace(plan, outputs=(TensorSpec("x", "complex64", ("N", 2)),))
    with pytest.raises(InputError, match="has no name for"):
        configuration(odd, "net")


def test_the_word_of_a_type_is_one_that_triton_has() -> None:
    from onnxgraft.run.v2 import DATATYPES

    assert {f"TYPE_{word}" for word in DATATYPES.values()} <= set(config.DataType.keys())
