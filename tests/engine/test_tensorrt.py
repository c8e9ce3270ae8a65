"""TensorRT's own parser and builder, without a GPU; running an engine needs one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError, ModelError
from onnxgraft.graph.half import to_half
from onnxgraft.graph.model import Model, Origin
from onnxgraft.stages import engine, quantize, surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.engine import BuildOptions, tensorrt
from onnxgraft.stages.engine.tensorrt import _layer
from onnxgraft.stages.engine.tensorrt import builder as tensorrt_builder
from onnxgraft.stages.engine.tensorrt.builder import gpu
from onnxgraft.targets import FORMATS
from tests.conftest import DEEP, Cli, model_of, only_ci

pytest.importorskip("tensorrt", reason="TensorRT is not installed")


def conv(shape: str) -> Model:
    return model_of(
        f"net (float[{shape}] x) => (float[A, B, C, D] y) {{ c = Conv(x, w)  y = Relu(c) }}",
        {"w": np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)},
    )


def test_a_free_batch_gets_a_profile(tmp_path: Path) -> None:
    passport = engine.build(conv("N, 16, 8, 8"), tmp_path / "e", "tensorrt")
    assert "tensorrt" in passport.versions
    assert (tmp_path / "e").stat().st_size > 1000


def test_other_free_dimensions_have_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give its shape with --shapes"):
        engine.build(conv("N, 16, H, W"), tmp_path / "e", "tensorrt")
    engine.build(conv("N, 16, H, W"), tmp_path / "e", "tensorrt", shapes={"x": (1, 16, 8, 8)})
    assert (tmp_path / "e").is_file()


def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit"):
        engine.build(conv("N, 16, 8, 8"), tmp_path / "e", "tensorrt", shapes={"x": (1, 3, 8, 8)})


def test_parser_errors_name_operator_and_node(tmp_path: Path) -> None:
    model = model_of(
        "net (float[2] x) => (float[2] y) { y = Bernoulli(x) }",
    )
    model.graph.nodes[0].name = "the_culprit"
    with pytest.raises(ModelError, match="Bernoulli 'the_culprit'"):
        engine.build(model, tmp_path / "e", "tensorrt")
    assert not list(tmp_path.iterdir())


def test_loading_says_that_a_gpu_is_needed(tmp_path: Path) -> None:
    engine.build(conv("1, 16, 8, 8"), tmp_path / "e", "tensorrt")
    if gpu() is not None:
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="NVIDIA GPU"):
        engine.load(tmp_path / "e")


FCN, MOBILENET = "models/fcn_camvid/fcn_camvid", "models/mobilenet_camvid/mobilenet_camvid.pb"
LABELS = ["fp32", "fp16", "int8", "int8+fp16", "fp8", "fp8+fp16"]
NETWORKS = {
    "fcn": (f"{FCN}.prototxt", {"weights": f"{FCN}.caffemodel"}),
    "mobilenet": (MOBILENET, {"outputs": "score:0"}),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, shared: Path) -> Model:
    path, how = NETWORKS[request.param]
    if path.endswith(".pb"):
        pytest.importorskip("tensorflow")
    how = {key: str(shared / value) if key == "weights" else value for key, value in how.items()}
    cleaned, _ = surgery.run(Original.of(shared / path, **how).lower()[0])  # type: ignore[arg-type]
    return cleaned


@only_ci
@pytest.mark.parametrize("label", LABELS if DEEP else ["int8+fp16"])
def test_real_networks_build(network: Model, tmp_path: Path, label: str) -> None:
    graph = network
    precision: Any = label.rpartition("+")[2]
    ranges = None
    kind: Any = label.partition("+")[0]
    if kind in FORMATS:
        form = quantize.placement("tensorrt", kind=kind)
        spec = network.inputs[0]
        shape = (2, *(dim for dim in spec.shape[1:]))
        data = np.random.default_rng(0).normal(scale=60, size=shape).astype(np.float32)
        np.savez(tmp_path / "data.npz", **{spec.name.removesuffix(":0"): data})
        samples = open_samples(tmp_path / "data.npz", network.inputs)
        tensors: Any = "all" if precision == "fp16" else "targets"
        ranges = quantize.calibrate(network, samples, "minmax", tensors=tensors)
        graph, report = quantize.quantize(network, ranges, form)
        if precision == "fp16":
            kept = report.layers[::3]
            graph, _ = quantize.quantize(network, ranges, form, keep_float=kept)
    passport = engine.build(
        graph, tmp_path / "e", "tensorrt", precision=precision, ranges=ranges,
        options=BuildOptions(batches=(1,)),
    )  # fmt: skip
    assert passport.label == label
    if label.endswith("8+fp16"):
        assert passport.flags.unchecked == 0
    # The weights are half or a quarter of the bytes; the MobileNet's engines are mostly code.
    if label != "fp32" and network.source.framework == "caffe":
        engine.build(network, tmp_path / "f", "tensorrt", options=BuildOptions(batches=(1,)))
        assert (tmp_path / "e").stat().st_size < 0.85 * (tmp_path / "f").stat().st_size


def test_what_would_overflow_in_fp16_stays_float32_and_is_told(tmp_path: Path) -> None:
    model = model_of(
        "net (float[1, 4] x) => (float[1, 4] y) { [up] a = Mul(x, k)  [act] b = Relu(a)"
        " [down] y = Mul(b, r) }",
        {"k": np.array(1e4, np.float32), "r": np.array(1e-3, np.float32)},
    )
    np.savez(tmp_path / "data.npz", x=np.full((2, 4), 20, np.float32))
    samples = open_samples(tmp_path / "data.npz", model.inputs)
    ranges = quantize.calibrate(model, samples, "minmax", tensors="all")
    known = engine.build(model, tmp_path / "e", "tensorrt", precision="fp16", ranges=ranges)
    assert known.flags.float32 == {
        "up": "'a' overflows in FP16", "act": "'a' overflows in FP16",
        "down": "'b' overflows in FP16",
    }  # fmt: skip
    unknown = engine.build(model, tmp_path / "f", "tensorrt", precision="fp16")
    assert unknown.flags.float32 == {}
    assert unknown.flags.unchecked == 3
    assert unknown.precision == known.precision == "fp16"


def test_a_graph_that_is_half_already_is_built_as_it_is(tmp_path: Path) -> None:
    half, _ = to_half(conv("1, 16, 8, 8"))
    passport = engine.build(half, tmp_path / "e", "tensorrt")
    assert passport.label == "fp16"
    assert engine.build(half, tmp_path / "e", "tensorrt", precision="fp16").label == "fp16"
    with pytest.raises(InputError, match="the graph is fp16"):
        engine.build(half, tmp_path / "f", "tensorrt", precision="fp32")


def test_batches_become_profiles_without_a_gap() -> None:
    model = conv("N, 16, 8, 8")
    found = tensorrt.profiles(model.inputs, BuildOptions(batches=(16, 1, 4)))
    assert [[shape[0] for shape in profile["x"]] for profile in found] == [
        [1, 1, 1], [2, 4, 4], [5, 16, 16],
    ]  # fmt: skip


def test_batches_that_nothing_would_be_tuned_for_are_refused() -> None:
    fixed, given = conv("1, 16, 8, 8").inputs, {"x": (2, 16, 8, 8)}
    assert tensorrt.profiles(fixed, BuildOptions()) == []
    assert tensorrt.profiles(fixed, BuildOptions(batches=(1,))) == []
    for inputs, options in (
        (fixed, BuildOptions(batches=(1, 4))),
        (conv("N, 16, 8, 8").inputs, BuildOptions(batches=(4,), shapes=given)),
    ):
        with pytest.raises(InputError, match=r"--batches .*4: the shapes are fixed or given, x \["):
            tensorrt.profiles(inputs, options)


def test_bounds_become_one_profile(tmp_path: Path) -> None:
    options = BuildOptions(
        shapes={"x": (2, 16, 8, 8)}, smallest={"x": (1, 16, 4, 4)}, largest={"x": (4, 16, 32, 32)}
    )
    model = conv("N, 16, H, W")
    assert tensorrt.profiles(model.inputs, options) == [
        {"x": ((1, 16, 4, 4), (2, 16, 8, 8), (4, 16, 32, 32))}
    ]
    passport = engine.build(model, tmp_path / "e", "tensorrt", options=options)
    assert passport.inputs[0].shape == ("N", 16, "H", "W")
    with pytest.raises(InputError, match="each has to be within the next"):
        engine.build(
            model, tmp_path / "f", "tensorrt",
            options=BuildOptions(shapes={"x": (2, 16, 8, 8)}, largest={"x": (1, 16, 8, 8)}),
        )  # fmt: skip


def test_the_first_profile_that_takes_a_shape_is_chosen() -> None:
    stored = tensorrt._ranges([
        {"x": [[1, 4], [1, 4], [1, 4]]}, {"x": [[2, 4], [8, 4], [8, 4]]},
    ])  # fmt: skip
    assert [tensorrt.choose("e", stored, {"x": (n, 4)}) for n in (1, 2, 8)] == [0, 1, 1]
    with pytest.raises(InputError, match=r"fed x of \[9, 4\]; it was built for .*--batches"):
        tensorrt.choose("e", stored, {"x": (9, 4)})


def test_the_framework_s_name_and_a_pass_are_told(tmp_path: Path) -> None:
    model = model_of("net (float[2] x) => (float[2] y) { r = Relu(x)  y = Bernoulli(r) }")
    model.names["y"] = Origin("dropout_1/mask:0")
    with pytest.raises(
        ModelError, match=r"\(onnx: dropout_1/mask:0\).*unsupported.*--only freeze_training"
    ):
        engine.build(model, tmp_path / "e", "tensorrt")


def test_every_pass_that_is_told_exists() -> None:
    assert set(tensorrt._HELPS.values()) <= {item.name for item in surgery.PASSES}


def test_onnxruntimes_form_of_int8_is_refused_with_the_cure(tmp_path: Path) -> None:
    model = model_of(
        "net (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y) { b = DequantizeLinear(q, s)"
        " y = Conv(x, w, b) }",
        {"w": np.ones((4, 4, 3, 3), np.float32), "q": np.ones(4, np.int32),
         "s": np.array(0.1, np.float32)},
    )  # fmt: skip
    with pytest.raises(ModelError, match="onnxgraft quantize --target tensorrt"):
        engine.build(model, tmp_path / "e", "tensorrt")


def test_too_small_a_workspace_says_so(tmp_path: Path) -> None:
    model = conv("N, 16, 512, 512")
    options = BuildOptions(workspace=1)
    with pytest.raises(ModelError, match="smaller shapes or batches, or a larger workspace than"):
        engine.build(model, tmp_path / "e", "tensorrt", options=options)
    assert not list(tmp_path.iterdir())


def test_a_calibration_cache_is_for_tensorrt_10(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes no calibration cache"):
        engine.build(
            conv("1, 16, 8, 8"), tmp_path / "e", "tensorrt",
            options=BuildOptions(calibration=b"TRT-101600-EntropyCalibration2\n"),
        )  # fmt: skip


def test_the_builders_progress_is_told() -> None:
    import tensorrt as trt

    told: list[tuple[str, int, int]] = []
    profile = tensorrt.profiles(conv("N, 16, 8, 8").inputs, BuildOptions(batches=(1,)))
    tensorrt_builder.build_plan(
        trt, conv("N, 16, 8, 8").to_onnx().SerializeToString(),
        tensorrt_builder.Settings(profile), lambda *step: told.append(step),
    )  # fmt: skip
    phases = {phase for phase, _, _ in told}
    assert len(phases) > 3
    assert all(0 <= done <= total for _, done, total in told)
    assert all((phase, total, total) in told for phase, _, total in told)


def test_an_interrupt_in_the_progress_ends_the_build() -> None:
    import tensorrt as trt

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    profile = tensorrt.profiles(conv("N, 16, 8, 8").inputs, BuildOptions(batches=(1,)))
    with pytest.raises(KeyboardInterrupt):
        tensorrt_builder.build_plan(
            trt, conv("N, 16, 8, 8").to_onnx().SerializeToString(),
            tensorrt_builder.Settings(profile), stop,
        )  # fmt: skip


# Run by a Python that has TensorRT 10.
TEN = """
import tensorrt as trt
from onnxgraft.stages.engine.tensorrt import builder
base = trt.IInt8EntropyCalibrator2
cache = builder.cache_calibrator(trt, b"TRT-101600-EntropyCalibration2")
assert isinstance(cache, base)
assert cache.get_algorithm() == trt.CalibrationAlgoType.ENTROPY_CALIBRATION_2
assert base.get_batch_size(cache) == 1
assert cache.get_batch(["x"]) is None
assert cache.read_calibration_cache() == b"TRT-101600-EntropyCalibration2"
assert builder.major(trt) == 10
assert builder._strongly_typed(trt) == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
for flag in ("INT8", "FP16", "TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"):
    getattr(trt.BuilderFlag, flag)
for name in ("int8_calibrator", "progress_monitor", "profiling_verbosity",
             "builder_optimization_level", "create_timing_cache", "set_memory_pool_limit"):
    assert hasattr(trt.IBuilderConfig, name), name
"""


def test_what_tensorrt_10_is_asked_for_is_there(tensorrt10: Callable[..., None]) -> None:
    tensorrt10(TEN)


def test_layers_that_could_not_be_told_are_refused_before_anything_is_built(
    tmp_path: Path, cli: Cli
) -> None:
    if gpu() is not None:
        pytest.skip("there is a GPU, which tells layers")
    conv("1, 16, 8, 8").save(tmp_path / "net.onnx")
    done = cli("build", tmp_path / "net.onnx", "--target", "tensorrt", "-o", tmp_path / "e",
               "--layers", tmp_path / "layers.json")  # fmt: skip
    assert done.returncode == 2
    assert (
        "--layers: a TensorRT engine reports its layers where there is an NVIDIA GPU" in done.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


# As TensorRT-RTX 1.5's inspector wrote them on a GPU, shortened.
GEMM = {
    "Name": "/q/MatMul_myl0_15",
    "LayerType": "gemm",
    "Inputs": [{"Name": "__myln_k_arg__bb1_8_myl0", "Datatype": "Int8"}],
    "Outputs": [{"Name": "__myln_k_arg__bb1_15_myl0", "Datatype": "Half"}],
    "Metadata": "[ONNX Layer: /q/MatMul]\x1e[ONNX Layer: /n1/output/DequantizeLinear]",
}
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv",
    "LayerType": "Reformat",
    "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Name": "x_", "Format/Datatype": "Row major linear FP32"}],
}


def test_a_layer_of_the_inspector_has_its_nodes_and_what_it_reads() -> None:
    found = _layer(GEMM)
    assert found.nodes == ("/q/MatMul", "/n1/output/DequantizeLinear")
    assert (found.precision, found.role) == ("Int8", "layer")
    assert found.reads == ("__myln_k_arg__bb1_8_myl0",)


@pytest.mark.parametrize("key", ["TacticName", "TacticValue"])
def test_a_layer_of_the_inspector_has_its_tactic(key: str) -> None:
    assert _layer({**GEMM, key: "sm89_xmma_gemm_i8"}).tactic == "sm89_xmma_gemm_i8"
    assert not _layer(GEMM).tactic


def test_a_reformat_of_the_inspector_is_a_reorder_or_a_conversion() -> None:
    assert _layer(REFORMAT).role == "reorder"
    other = {**REFORMAT, "Outputs": [{"Name": "x_", "Format/Datatype": "Row major linear INT8"}]}
    assert (_layer(other).role, _layer(other).change) == (
        "conversion", "Row major linear FP32 to Row major linear INT8",
    )  # fmt: skip


def test_an_inspector_that_tells_names_alone_is_read() -> None:
    assert _layer("conv + relu").name == "conv + relu"
