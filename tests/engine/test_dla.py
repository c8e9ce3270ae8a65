"""Bundles for a DLA: what they carry, what the target tells TensorRT, and what the GPU will run.

There is no DLA here, and a builder of TensorRT 10 can't be used without its library. So the calls
are made to a stand-in, whose every name the bindings of TensorRT 10 are asked for.
"""

from __future__ import annotations

import json
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.commands import bundle, inspect
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.passport import Flags
from onnxgraft.stages.engine.tensorrt import builder, bundle_main
from onnxgraft.stages.engine.tensorrt.dla import on_gpu
from tests.conftest import Cli, model_of

CACHE = b"TRT-100300-EntropyCalibration2\nx: 3c010a14\n"
ONE = BuildOptions(batches=(1,))
NET = """
net (float[N, 3, 16, 16] x) => (float[N, 8] y) {
    [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w)  [relu] b = Relu (a)
    [pool] c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    [mean] d = GlobalAveragePool (c)  [flat] y = Flatten (d)
}
"""


def net() -> Model:
    return model_of(NET, {"w": np.ones((8, 3, 3, 3), np.float32)})


# Restrictions -----------------------------------------------------------------------------------

REFUSED = {
    "three_dimensions": ("1, 4, 6, 6, 6", "Conv(x, w)", (8, 4, 3, 3, 3), "5 dimensions"),
    "a_kernel": ("1, 4, 64, 64", "Conv(x, w)", (8, 4, 33, 33), "a kernel of 33; from 1 to 32"),
    "a_stride": ("1, 4, 64, 64", "Conv<strides=[9,9]>(x, w)", (8, 4, 3, 3), "a stride of 9"),
    "a_pad": (
        "1, 4, 8, 8", "Conv<pads=[3,3,3,3]>(x, w)", (8, 4, 3, 3),
        "a padding of 3, which is not less than the kernel",
    ),
    # ceil(2048 * 9 * 2 / 32768) = 2 banks of weights, and of data
    # ceil(ceil(2048 * 2 / 32) * 64 / 4) * 3 / 256 = 24.
    "a_buffer": (
        "1, 2048, 8, 64", "Conv(x, w)", (8, 2048, 3, 3), "take 26 banks of the DLA's buffer",
    ),
    "up_pad": ("1, 4, 8, 8", "ConvTranspose<pads=[1,1,1,1]>(x, w)", (4, 8, 3, 3), "a padding of 1"),
    "up_group": (
        "1, 4, 8, 8", "ConvTranspose<group=2>(x, w)", (4, 8, 3, 3),
        "a transposed convolution in groups",
    ),
    "up_slow": (
        "1, 4, 8, 8", "ConvTranspose<strides=[24,24]>(x, w)", (4, 8, 24, 24),
        "a square kernel and stride of 24",
    ),
    "a_window": ("1, 4, 16, 16", "MaxPool<kernel_shape=[9,9]>(x)", None, "a window of 9; from 1"),
    "a_global_window": ("1, 4, 16, 16", "GlobalAveragePool(x)", None, "a window of 16; from 1"),
    "a_softmax": ("1, 4, 8, 8", "Softmax<axis=1>(x)", None, "every other dimension has to be 1"),
    "a_concat": ("1, 4, 8, 8", "Concat<axis=2>(x, x)", None, "a Concat along axis 2"),
    "an_lrn": ("1, 4, 8, 8", "LRN<size=4>(x)", None, "an LRN over 4 channels"),
    "no_image": ("1, 4", "Relu(x)", None, "2 dimensions, and a DLA takes images alone"),
    "a_size": ("1, 1, 1, 9000", "Relu(x)", None, "larger than 4096 images, or 8192 a side"),
    "another_operator": ("1, 4, 8, 8", "HardSwish(x)", None, "a DLA has no HardSwish"),
    "a_repeated_row": ("1, 4, 8, 8", "Add(x, w)", (1, 1, 8, 8), "is repeated along rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_dla_does_not_take_is_told_with_its_reason(case: str) -> None:
    shape, call, weights, why = REFUSED[case]
    constants = {} if weights is None else {"w": np.ones(weights, np.float32)}
    model = model_of(f"net (float[{shape}] x) => (float y) {{ [it] y = {call} }}", constants)
    (found,) = on_gpu(model, {}, int8=False)
    assert found.node == "it"
    assert why in found.reason


TAKEN = {
    "conv": ("1, 4, 8, 8", "Conv<pads=[1,1,1,1], group=4>(x, w)", (4, 1, 3, 3)),
    "up": ("1, 4, 8, 8", "ConvTranspose<strides=[2,2]>(x, w)", (4, 8, 2, 2)),
    "long": ("1, 4, 8, 8", "ConvTranspose<strides=[1,1]>(x, w)", (4, 8, 1, 64)),
    "channels": ("1, 4, 8, 8", "Mul(x, w)", (4, 1, 1)),
    "number": ("1, 4, 8, 8", "Add(x, w)", ()),
    "pool": ("1, 4, 8, 8", "AveragePool<kernel_shape=[8,8]>(x)", None),
    "softmax": ("1, 4, 1, 1", "Softmax<axis=1>(x)", None),
    "concat": ("1, 4, 8, 8", "Concat<axis=1>(x, x)", None),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_a_dla_takes_is_not_named(case: str) -> None:
    shape, call, weights = TAKEN[case]
    constants = {} if weights is None else {"w": np.ones(weights, np.float32)}
    model = model_of(f"net (float[{shape}] x) => (float y) {{ y = {call} }}", constants)
    assert on_gpu(model, {}, int8=True) == ()


@pytest.mark.parametrize(
    ("scales", "mode", "why"),
    [
        ([1, 1, 2, 2], "nearest", ""), ([1, 1, 4, 4], "linear", ""),
        ([1, 1, 8, 8], "linear", "a Resize by 8; whole numbers from 1 to 4"),
        ([1, 1, 1.5, 1.5], "nearest", "a Resize by 1.5"), ([1, 1, 2, 2], "cubic", "neither"),
    ],
)  # fmt: skip
def test_resizes_are_by_whole_numbers(scales: list[float], mode: str, why: str) -> None:
    model = model_of(
        f'net (float[1, 4, 8, 8] x) => (float y) {{ y = Resize<mode="{mode}">(x, , s) }}',
        {"s": np.float32(scales)},
    )
    found = on_gpu(model, {}, int8=True)
    assert [why in node.reason for node in found] == ([True] if why else [])


@pytest.mark.parametrize(("low", "high", "taken"), [(0, 6, True), (-1, 1, False), (0, 200, False)])
def test_a_clip_is_a_relu_with_an_end(low: float, high: float, taken: bool) -> None:
    model = model_of(
        "net (float[1, 4, 8, 8] x) => (float y) { y = Clip(x, low, high) }",
        {"low": np.float32(low), "high": np.float32(high)},
    )
    assert (on_gpu(model, {}, int8=True) == ()) is taken


def test_int8_needs_half_of_the_buffer() -> None:
    model = model_of(
        "net (float[1, 1408, 8, 64] x) => (float y) { y = Conv(x, w) }",
        {"w": np.ones((8, 1408, 3, 3), np.float32)},
    )
    assert on_gpu(model, {}, int8=True) == ()
    (found,) = on_gpu(model, {}, int8=False)
    assert "take 18 banks" in found.reason


# Bundles ----------------------------------------------------------------------------------------


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        found: dict[str, Any] = json.loads(archive.read("manifest.json"))
    return found


def test_a_bundle_carries_the_float_graph_and_the_cache_once(tmp_path: Path) -> None:
    options = BuildOptions(batches=(1,), calibration=CACHE)
    made = engine.bundle(net(), tmp_path / "b.pyz", options=options, dla=1)
    manifest, files = bundle_main.read(tmp_path / "b.pyz")
    assert sorted(files) == ["calibration.cache", "model.onnx"]
    assert manifest["dla"] == made.dla == 1
    assert (manifest["passport"]["precision"], manifest["passport"]["floats"]) == ("int8", "fp16")
    assert made.trtexec == {
        10: "trtexec --onnx=model.onnx --saveEngine=b.engine --minShapes=x:1x3x16x16 "
        "--optShapes=x:1x3x16x16 --maxShapes=x:1x3x16x16 --profilingVerbosity=detailed --noTF32 "
        "--useDLACore=1 --allowGPUFallback --int8 --calib=calibration.cache --fp16"
    }
    assert [(node.node, node.reason) for node in made.on_gpu] == [
        ("flat", "a DLA has no Flatten"),
    ]


def test_without_a_cache_it_is_fp16(tmp_path: Path) -> None:
    made = engine.bundle(net(), tmp_path / "b.pyz", options=ONE, dla=0)
    manifest = manifest_of(tmp_path / "b.pyz")
    assert manifest["passport"]["precision"] == "fp16"
    assert made.trtexec[10].endswith("--useDLACore=0 --allowGPUFallback --fp16")


def test_a_float_graph_beside_the_quantized_one_is_taken(tmp_path: Path) -> None:
    quantized = model_of(
        "net (float[1, 3, 4, 4] x) => (float y) {"
        " q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": np.float32(1), "z": np.int8(0)},
    )
    with pytest.raises(InputError, match="a DLA takes a float graph"):
        engine.bundle(quantized, tmp_path / "b.pyz", options=ONE, dla=0)
    engine.bundle(quantized, tmp_path / "b.pyz", float_model=net(), options=ONE, dla=0)
    assert manifest_of(tmp_path / "b.pyz")["passport"]["inputs"][0]["shape"][1:] == [3, 16, 16]


def test_what_a_dla_can_not_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a DLA runs one shape.*--batches 1"):
        engine.bundle(net(), tmp_path / "b.pyz", dla=0)
    with pytest.raises(InputError, match="a core of the DLA, from 0 on"):
        engine.bundle(net(), tmp_path / "b.pyz", options=ONE, dla=-1)
    with pytest.raises(InputError, match="in fp16, not in int8; give --calibration"):
        engine.bundle(net(), tmp_path / "b.pyz", precision="int8", options=ONE, dla=0)
    with pytest.raises(InputError, match="in fp16, not in fp32; leave --precision out"):
        engine.bundle(net(), tmp_path / "b.pyz", precision="fp32", options=ONE, dla=0)
    assert not list(tmp_path.iterdir())


def test_the_command_line_tells_what_the_gpu_will_run(tmp_path: Path, cli: Cli) -> None:
    net().save(tmp_path / "net.onnx")
    (tmp_path / "c.cache").write_bytes(CACHE)
    done = cli(
        "bundle", tmp_path / "net.onnx", "--calibration", tmp_path / "c.cache", "--dla", "0",
        "--batches", "1", "-o", tmp_path / "b.pyz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "for core 0 of the DLA, with TensorRT 10" in told
    assert "by NVIDIA's documentation: flat (Flatten): a DLA has no Flatten" in told
    assert "--useDLACore=0" in told.replace(" --useDLACore", "--useDLACore")
    assert "TensorRT 11" not in told
    told_in_json = bundle(
        tmp_path / "net.onnx", tmp_path / "j.pyz", batches="1", dla=0
    ).to_json()  # fmt: skip
    assert told_in_json["on_gpu"][0]["node"] == "flat"
    summary = inspect(tmp_path / "b.pyz").summary
    assert summary.startswith("a bundle for TensorRT 10 and core 0 of the DLA, int8")


# On the target ----------------------------------------------------------------------------------


class Recorded(types.SimpleNamespace):
    """TensorRT 10 as far as a build calls it: it notes what it is told."""

    def __init__(self, cores: int = 2, unable: tuple[str, ...] = ()) -> None:
        self.flags: list[str] = []
        self.networks: list[int] = []
        self.config = types.SimpleNamespace(
            set_flag=self.flags.append, clear_flag=lambda flag: None,
            add_optimization_profile=lambda profile: 0,
            can_run_on_DLA=lambda layer: layer.name not in unable,
        )  # fmt: skip
        layers = [types.SimpleNamespace(name=name) for name in ("conv", "pool", "flat")]
        network = types.SimpleNamespace(num_layers=3, get_layer=layers.__getitem__)

        def create_network(flags: int) -> Any:
            self.networks.append(flags)
            return network

        made = types.SimpleNamespace(
            create_network=create_network, create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: types.SimpleNamespace(
                set_shape=lambda name, *shapes: None
            ),
            num_DLA_cores=cores,
            build_serialized_network=lambda network, config: b"\0trt",
        )  # fmt: skip
        super().__init__(
            __version__="10.3.0",
            Builder=lambda logger: made,
            OnnxParser=lambda network, logger: types.SimpleNamespace(parse=lambda data: True),
            ILogger=Logger,
            IProgressMonitor=Logger,
            IInt8EntropyCalibrator2=object,
            ProfilingVerbosity=types.SimpleNamespace(DETAILED="detailed"),
            BuilderFlag=types.SimpleNamespace(
                INT8="int8", FP16="fp16", TF32="tf32", GPU_FALLBACK="gpu fallback"
            ),
            DeviceType=types.SimpleNamespace(DLA="dla"),
        )


class Logger:
    """The base class of loggers, and of monitors."""

    Severity = types.SimpleNamespace(ERROR=1, INTERNAL_ERROR=2, WARNING=3)

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("calibration", [CACHE, None])
def test_tensorrt_is_told_to_use_the_dla_and_the_gpu_for_the_rest(
    calibration: bytes | None,
) -> None:
    trt = Recorded(unable=("flat",))
    how = builder.Settings(calibration=calibration, dla=1)
    plan = builder.build_plan(trt, b"", how)
    assert trt.networks == [0]  # not strongly typed
    assert trt.flags == ["fp16", *(["int8"] if calibration else []), "gpu fallback"]
    assert (trt.config.default_device_type, trt.config.DLA_core) == ("dla", 1)
    assert hasattr(trt.config, "int8_calibrator") is (calibration is not None)
    assert (plan.dla, plan.on_gpu) == (2, ("flat",))


def test_a_machine_without_that_core_is_told_before_the_build() -> None:
    with pytest.raises(builder.BuildError, match=r"no DLA core 2: its cores are 0 to 1"):
        builder.build_plan(Recorded(), b"", builder.Settings(dla=2))
    with pytest.raises(builder.BuildError, match=r"no DLA core 0: this machine has none"):
        builder.build_plan(Recorded(cores=0), b"", builder.Settings(dla=0))
    with pytest.raises(builder.BuildError, match="takes none of the layers"):
        builder.build_plan(
            Recorded(unable=("conv", "pool", "flat")), b"", builder.Settings(dla=0)
        )  # fmt: skip


def test_tensorrt_11_refuses_it_with_a_sentence() -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    with pytest.raises(builder.BuildError, match=r"build with TensorRT 10, .* without --dla"):
        builder.build_plan(trt, net().to_onnx().SerializeToString(), builder.Settings(dla=0))


def test_the_engines_passport_says_what_runs_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BuildOptions(batches=(1,), calibration=CACHE)
    engine.bundle(net(), tmp_path / "b.pyz", options=options, dla=1)
    monkeypatch.setitem(sys.modules, "tensorrt", Recorded(unable=("flat",)))
    monkeypatch.setattr(bundle_main, "HERE", tmp_path / "b.pyz")
    monkeypatch.setattr(sys, "argv", ["b.pyz", "-o", str(tmp_path / "e")])
    assert bundle_main.main() == 0
    said = "core 1 of the DLA takes 2 layers; the GPU runs flat"
    assert said in capsys.readouterr().out
    passport = engine.read_passport(tmp_path / "e")
    assert passport.label == "int8+fp16"
    assert (passport.flags.dla, passport.flags.calibration) == (1, "implicit")
    assert passport.notes == (said,)
    assert passport.flags != Flags()


# Run by a Python that has TensorRT 10: what the stand-in has is there.
TEN = """
import tensorrt as trt
for kind, names in {
    trt.BuilderFlag: ("INT8", "FP16", "GPU_FALLBACK"),
    trt.DeviceType: ("DLA", "GPU"),
    trt.IBuilderConfig: ("default_device_type", "DLA_core", "can_run_on_DLA", "int8_calibrator",
                         "set_flag", "clear_flag", "add_optimization_profile"),
    trt.Builder: ("num_DLA_cores", "create_network", "build_serialized_network",
                  "create_optimization_profile", "create_builder_config"),
    trt.INetworkDefinition: ("num_layers", "get_layer"),
    trt.Runtime: ("DLA_core",),
}.items():
    for name in names:
        assert hasattr(kind, name), f"{kind.__name__} has no {name}"
"""


def test_what_a_dla_is_asked_for_is_in_tensorrt_10(tensorrt10: Callable[..., None]) -> None:
    tensorrt10(TEN)
