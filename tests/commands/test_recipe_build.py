"""``[build]`` of a recipe: what engines are built with, and what is refused before the work."""

import re
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.cli._app import _places
from onnxgraft.commands import deploy, read_recipe
from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import InputError
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.passport import Passport, read_passport
from tests.conftest import model_of, only_ci

pytestmark = pytest.mark.usefixtures("untimed")

HEAD = """model = "net.onnx"
targets = [{targets}]
{body}
[calibrate]
data = "data.npz"
[bench]
rounds = 1
runs = 1
"""


def recipe(folder: Path, body: str = "", *targets: str) -> Path:
    """Write a recipe for the targets; ``body`` is what stands in front of ``[calibrate]``."""
    listed = ", ".join(f'"{target}"' for target in targets or ("tensorrt",))
    file = folder / "recipe.toml"
    file.write_text(HEAD.format(targets=listed, body=body))
    return file


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Make a convolution of pictures of any size, and data of one."""
    rng = np.random.default_rng(0)
    model = model_of(
        "net (float[N, 3, H, W] x) => (float[N, 8, A, B] y) { c = Conv(x, w)  y = Relu(c) }",
        {"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32)},
    )
    model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(8, 3, 16, 16)).astype(np.float32))
    return tmp_path


BOUNDS = """[build.tensorrt]
shapes = { x = [1, 3, 16, 16] }
min_shapes = { x = [1, 3, 8, 8] }
max_shapes = { x = [4, 3, 32, 32] }
workspace = 64
level = 1
timing_cache = "timings.cache"
"""


def deployed(network: Path, body: str, *targets: str) -> Passport:
    report = deploy(recipe(network, body, *targets), network / "out")
    assert report.passed
    return read_passport(network / "out" / f"engine.{targets[0] if targets else 'tensorrt'}")


@only_ci
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_engines_with_dynamic_shapes_come_from_a_recipe(
    network: Path, precision: str
) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    passport = deployed(network, f'{BOUNDS}precision = "{precision}"\n')
    assert passport.label == precision
    assert [dict(profile) for profile in passport.flags.profiles] == [
        {"x": [[1, 3, 8, 8], [1, 3, 16, 16], [4, 3, 32, 32]]}
    ]
    assert (passport.flags.workspace, passport.flags.level) == (64 << 20, 1)
    assert (network / "out" / f"model.{precision}.tensorrt.onnx").is_file()
    assert passport.flags.unchecked == 0


@only_ci
def test_an_fp8_engine_with_float_layers_in_fp16_comes_from_a_recipe(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    rng = np.random.default_rng(0)
    model = model_of(
        "net (float[N, 16, 8, 8] x) => (float[N, 5, 8, 8] y) {"
        " [wide] a = Conv(x, w)  [last] y = Conv(a, v) }",
        {
            "w": rng.normal(size=(32, 16, 1, 1)).astype(np.float32),
            "v": rng.normal(size=(5, 32, 1, 1)).astype(np.float32),
        },
    )
    model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(8, 16, 8, 8)).astype(np.float32))
    body = '[quantize]\nfloat = { tensorrt = "fp16" }\n[build.tensorrt]\nprecision = "fp8"\n'
    report = deploy(recipe(tmp_path, body), tmp_path / "out")
    assert report.passed
    ((target, layer, why),) = report.float_layers
    assert (target, layer) == ("tensorrt", "last")
    assert why.startswith("the target has no FP8 for 5 inputs or outputs; at least 16")
    assert read_passport(tmp_path / "out" / "engine.tensorrt").label == "fp8+fp16"
    assert (tmp_path / "out" / "model.fp8.tensorrt.onnx").is_file()
    assert Ranges.load(tmp_path / "out" / "ranges.json").chosen_for == "tensorrt fp8"


@only_ci
def test_int8_with_float_layers_in_fp16_has_both_in_the_engine(network: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    passport = deployed(network, f'[quantize]\nfloat = {{ tensorrt = "fp16" }}\n{BOUNDS}')
    assert passport.label == "int8+fp16"


def test_a_float_engine_is_held_to_the_noise_of_its_precision(network: Path) -> None:
    pytest.importorskip("openvino")
    report = deploy(recipe(network, '[build]\nprecision = "fp32"\n', "openvino"), network / "out")
    engine = report.candidates[-1]
    assert re.fullmatch(r".* of the range, at most \S+ allowed", engine.verdict)
    assert report.passed
    passport = read_passport(network / "out" / "engine.openvino")
    assert (passport.label, passport.proven) == ("fp32", True)


def test_a_targets_own_precision_comes_before_that_of_all(tmp_path: Path) -> None:
    body = '[build]\nprecision = "fp32"\n[build.tensorrt]\nprecision = "fp16"\n'
    build = read_recipe(recipe(tmp_path, body, "tensorrt", "openvino")).build
    assert [build.precision_of(name) for name in ("tensorrt", "openvino")] == ["fp16", "fp32"]


def test_keys_are_the_options_of_the_command_build(tmp_path: Path) -> None:
    body = "[build.tensorrt]\nbatches = [1, 8]\nversion_compatible = true\nworkspace = 3\n"
    options = read_recipe(recipe(tmp_path, body)).build.options("tensorrt")
    assert options == BuildOptions(batches=(1, 8), version_compatible=True, workspace=3 << 20)
    body = '[build.tensorrt]\ntiming_cache = "timings.cache"\n'
    options = read_recipe(recipe(tmp_path, body)).build.options("tensorrt")
    assert options == BuildOptions(timing_cache=tmp_path / "timings.cache")
    body = '[build.openvino]\nhint = "throughput"\nthreads = 2\nshapes = { "a:0" = [1, 2] }\n'
    options = read_recipe(recipe(tmp_path, body, "openvino")).build.options("openvino")
    assert options == BuildOptions(hint="throughput", threads=2, shapes={"a:0": (1, 2)})


def test_a_device_and_a_provider_are_keys_of_the_targets_that_have_them(tmp_path: Path) -> None:
    body = '[build.openvino]\ndevice = "GPU.1"\n[build.onnxruntime]\nprovider = "cuda:1"\n'
    build = read_recipe(recipe(tmp_path, body, "openvino", "onnxruntime")).build
    assert build.options("openvino") == BuildOptions(device="GPU.1")
    assert build.options("onnxruntime") == BuildOptions(provider="cuda:1")
    # Graphs for them are not made for this machine's processor.
    assert not build.cpu_of("openvino").name
    assert not build.cpu_of("onnxruntime").name


REFUSED = {
    "a_target_that_is_not_built": (
        "[build.openvino]\nthreads = 1\n",
        "line 3: [build.openvino]: the recipe does not build for openvino: add it to targets",
    ),
    "a_key_of_another_target": (
        "[build.tensorrt]\nthreads = 1\n",
        ("line 4: [build.tensorrt] threads: there is no such key; "
        "it is a key of [build.openvino] or [build.onnxruntime]"),
    ),
    "a_precision_of_another_target": (
        '[build.tensorrt]\nprecision = "bf16"\n',
        'precision = "bf16": wants "int8", "fp8", "fp32", "tf32" or "fp16"',
    ),
    "fp8_for_a_target_without_it": (
        '[build.openvino]\nprecision = "fp8"\n',
        'line 4: [build.openvino] precision = "fp8": wants "int8", "fp32", "fp16" or "bf16"',
    ),
    "a_precision_that_one_of_the_targets_lacks": (
        '[build]\nprecision = "bf16"\n',
        "line 4: [build] precision: tensorrt is not built in bf16 here",
    ),
    "a_cpu_for_a_gpu": ('[build]\ncpu = "avx2"\n', "[build] cpu: tensorrt does not run on a CPU"),
    "an_unknown_cpu": ('[build]\ncpu = "avx3"\n', "line 4: [build] cpu: no CPU is called 'avx3'"),
    "float_layers_beside_no_int8": (
        '[build]\nprecision = "fp16"\n[quantize]\nfloat = { tensorrt = "fp16" }\n',
        "line 6: [quantize] float.tensorrt: nothing is in INT8 for tensorrt",
    ),
    "a_budget_without_int8": (
        '[build]\nprecision = "fp16"\n[quantize]\nbudget = "sqnr=30"\n',
        "line 6: [quantize] budget: nothing is in INT8",
    ),
    "an_unknown_provider": (
        '[build.onnxruntime]\nprovider = "cudda"\n', "provider: cudda: no provider is called",
    ),
    "a_timing_cache_anywhere": (
        '[build.tensorrt]\ntiming_cache = "../x.cache"\n',
        "line 4: [build.tensorrt] timing_cache: '../x.cache' is written to",
    ),
    "a_timing_cache_of_another_kind": (
        '[build.tensorrt]\ntiming_cache = "net.onnx"\n', "name a .cache or .timing file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_targets_is_refused_when_it_is_read(
    tmp_path: Path, case: str
) -> None:
    body, told = REFUSED[case]
    with pytest.raises(InputError) as caught:
        read_recipe(recipe(tmp_path, body))
    assert told in str(caught.value)


UNFIT = {
    "an_unknown_input": (
        "shapes = { z = [1, 3, 8, 8] }", "[build.tensorrt]: shapes z: no input has that name",
    ),
    "another_rank": ("shapes = { x = [1, 3] }", "shapes [1, 3] does not fit the input x"),
    "bounds_that_are_none": (
        "shapes = { x = [1, 3, 8, 8] }\nmin_shapes = { x = [2, 3, 8, 8] }",
        "each has to be within the next",
    ),
    "free_sizes_without_shapes": ("level = 1", "give its shape with shapes"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_shapes_that_do_not_fit_the_model_are_refused_before_calibration(
    network: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("it was calibrated")

    monkeypatch.setattr("onnxgraft.commands._deployment.measured", measured)
    keys, told = UNFIT[case]
    with pytest.raises(InputError) as caught:
        deploy(recipe(network, f"[build.tensorrt]\n{keys}\n"), network / "out")
    assert told in str(caught.value)
    assert "recipe.toml, line 3: [build.tensorrt]" in str(caught.value)


def test_the_sandbox_of_deploy_lets_the_timing_cache_be_written(tmp_path: Path) -> None:
    body = '[build.tensorrt]\ntiming_cache = "timings.cache"\n'
    given = {"recipe": recipe(tmp_path, body), "out": tmp_path / "out"}
    assert tmp_path / "timings.cache" in (_places("deploy", given) or ())
    given["recipe"].write_text(body.replace("timings", "../timings"))
    assert tmp_path / "../timings.cache" not in (_places("deploy", given) or ())


def test_a_precision_may_be_given_with_a_model_file_alone(network: Path) -> None:
    data = network / "data.npz"
    with pytest.raises(InputError, match=r"openvino is not built in fp8 here, but in int8, fp32"):
        deploy(
            network / "net.onnx", network / "out", data=data, targets="openvino", precision="fp8"
        )
    file = recipe(network)
    with pytest.raises(InputError, match=r"--precision goes with a model file; write it into"):
        deploy(file, network / "out", precision="fp8")
    assert not (network / "out").exists()
