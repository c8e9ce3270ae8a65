"""OpenVINO's devices: what is not here is refused, and `AUTO` is settled when an engine is built.

No GPU and no NPU is here: what is said to them is tried on a core that has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.commands._evidence import engine_row
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.devices import (
    candidates,
    check_device,
    devices_here,
    full_names,
    placed,
    taken,
)
from onnxgraft.stages.engine.openvino import _check_able, _known, config_of
from onnxgraft.stages.engine.passport import Flags, read_passport
from onnxgraft.stages.validate.views.text import _proven
from onnxgraft.targets.cpu import CPUS
from tests.conftest import Cli, model_of, outputs_of

openvino = pytest.importorskip("openvino")

DEVICES = list(openvino.Core().available_devices)
alone = pytest.mark.skipif(DEVICES != ["CPU"], reason="there are other devices than the CPU")


class Core:
    """A core with a CPU, two GPUs and an NPU, which says of them what their plug-ins say."""

    available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")
    able: Mapping[str, list[str]] = {
        "CPU": ["FP32", "BF16", "INT8"], "GPU": ["FP32", "FP16", "INT8"], "NPU": ["FP16", "INT8"],
    }  # fmt: skip
    known: Mapping[str, list[str]] = {
        "GPU": ["PERFORMANCE_HINT", "INFERENCE_PRECISION_HINT", "NUM_STREAMS"],
        "NPU": ["PERFORMANCE_HINT"],
    }

    def get_property(self, device: str, name: str) -> Any:
        kind = device.partition(".")[0]
        if name == "FULL_DEVICE_NAME":
            return f"Intel {device}"
        return {"OPTIMIZATION_CAPABILITIES": self.able, "SUPPORTED_PROPERTIES": self.known}[name][
            kind
        ]


@pytest.fixture
def net() -> Model:
    rng = np.random.default_rng(0)
    return model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {"
        " c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c) }",
        {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32) / 5},
    )


@alone
@pytest.mark.parametrize("given", ["AUTO", "AUTO:CPU", "AUTO:GPU,CPU", "AUTO:-GPU"])
def test_auto_is_the_device_that_is_here_and_the_passport_says_so(
    given: str, net: Model, tmp_path: Path
) -> None:
    passport = engine.build(net, tmp_path / "e", "openvino", options=BuildOptions(device=given))
    assert passport.proven
    assert (passport.flags.chosen, passport.flags.device) == (given, "")
    assert passport.cpu.name  # its answers depend on the processor
    with engine.load(tmp_path / "e") as built:
        answers = built.infer(random_feeds(built.inputs, 2))
    np.testing.assert_allclose(answers["y"], outputs_of(net)["y"], rtol=0, atol=1e-5)


def test_hetero_is_exported_proven_and_loaded(net: Model, tmp_path: Path) -> None:
    options = BuildOptions(device="HETERO:CPU")
    passport = engine.build(net, tmp_path / "e", "openvino", options=options)
    assert passport.proven
    assert read_passport(tmp_path / "e") == passport
    assert passport.name == "openvino HETERO:CPU fp32"
    assert passport.machine["cpu"] == openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    with engine.load(tmp_path / "e") as built:
        answers = built.infer(random_feeds(built.inputs, 2))
    np.testing.assert_allclose(answers["y"], outputs_of(net)["y"], rtol=0, atol=1e-5)


def test_openvino_tells_what_of_a_graph_runs_where(net: Model) -> None:
    core = openvino.Core()
    network = core.read_model(net.to_onnx().SerializeToString())
    found = placed(core, network, "HETERO:CPU")
    assert {node.operator for node in found} == {"Convolution", "Relu"}
    assert {node.where for node in found} == {"CPU"}
    assert placed(core, network, "CPU") == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("MULTI:CPU", "MULTI gives each inference to whichever device is free"),
        ("BATCH:CPU", "BATCH joins what is asked for into batches"),
        ("HETERO", "name the devices too, such as HETERO:GPU,CPU"),
        ("TPU", "OpenVINO finds no TPU here, but CPU"),
        ("CPU.1", "OpenVINO finds no CPU.1 here, but CPU"),
        ("AUTO:-CPU,-GPU,-NPU", "none of these devices is here, but CPU"),
    ],
)
def test_what_no_engine_can_be_for_is_refused(
    given: str, told: str, net: Model, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        engine.build(net, tmp_path / "e", "openvino", options=BuildOptions(device=given))
    assert str(refused.value).startswith(f"--device {given}: {told}")
    assert not list(tmp_path.iterdir())


@alone
@pytest.mark.parametrize("given", ["GPU", "GPU.1", "NPU", "AUTO:GPU,NPU", "HETERO:GPU,CPU"])
def test_a_device_that_is_not_here_is_refused_with_what_is_and_what_to_install(
    given: str, net: Model, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        engine.build(net, tmp_path / "e", "openvino", options=BuildOptions(device=given))
    assert "here, but CPU" in str(refused.value)
    assert "install the driver of the" in str(refused.value)
    with pytest.raises(InputError, match=f"--device {given}"):
        engine.check(net, "openvino", BuildOptions(device=given))


def test_a_number_is_needed_where_there_are_several_alone() -> None:
    core = Core()
    for given in ("CPU", "GPU", "GPU.1", "NPU", "NPU.0", "HETERO:GPU.1,CPU", "AUTO"):
        check_device(core, given)
    for given in ("GPU.2", "NPU.1", "CPU.0", "HETERO:GPU.2,CPU"):
        with pytest.raises((InputError, KeyError), match=r"GPU.2|NPU.1|CPU.0|AVAILABLE"):
            check_device(core, given)


@pytest.mark.parametrize(
    ("given", "among"),
    [
        ("AUTO", ["CPU", "GPU.0", "GPU.1", "NPU"]),
        ("AUTO:GPU,CPU", ["GPU", "CPU"]),
        ("AUTO:-GPU", ["CPU", "NPU"]),
        ("AUTO:-CPU,-GPU.0", ["GPU.1", "NPU"]),
        ("AUTO:GPU.7,NPU", ["NPU"]),
    ],
)
def test_auto_chooses_among_what_is_named_and_here(given: str, among: list[str]) -> None:
    assert candidates(Core(), given) == among


def test_openvino_itself_chooses_where_there_is_a_choice(net: Model) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Choosing(Core):
        def compile_model(self, network: object, device: str, config: dict[str, Any]) -> Any:
            asked.append((device, config))
            return self

        def get_property(self, device: str, name: str = "") -> Any:
            return ["(GPU.1)"]

    assert taken(Choosing(), net, ["GPU.1", "CPU"], "latency") == "GPU.1"
    # Without that it would begin on the CPU, and say so.
    assert asked == [
        ("AUTO:GPU.1,CPU", {"PERFORMANCE_HINT": "LATENCY", "ENABLE_STARTUP_FALLBACK": False})
    ]


def test_a_device_is_told_the_settings_that_it_knows() -> None:
    whole = config_of(Flags(threads=2))
    assert set(_known(Core(), "GPU.1", whole)) == {"PERFORMANCE_HINT", "INFERENCE_PRECISION_HINT"}
    assert set(_known(Core(), "NPU", whole)) == {"PERFORMANCE_HINT"}
    assert _known(openvino.Core(), "CPU", whole) == whole
    assert _known(Core(), "HETERO:GPU,CPU", whole) == whole


def test_a_precision_that_a_device_lacks_is_refused_with_those_that_it_has() -> None:
    core = Core()
    for device, floats in (("GPU", "fp32"), ("GPU.1", "fp16"), ("NPU", "fp16"), ("CPU", "bf16")):
        _check_able(core, device, BuildOptions(floats=floats))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NPU has no FP32; build it with --precision fp16"):
        _check_able(core, "NPU", BuildOptions())
    with pytest.raises(InputError, match="GPU has no BF16; build it with --precision fp32 or fp16"):
        _check_able(core, "HETERO:GPU,CPU", BuildOptions(floats="bf16"))


def test_threads_are_for_the_cpu() -> None:
    _check_able(Core(), "HETERO:GPU,CPU", BuildOptions(threads=2))
    with pytest.raises(InputError, match="--threads is for the CPU; leave it out for --device GPU"):
        _check_able(Core(), "GPU", BuildOptions(threads=2))


def test_another_processor_is_named_for_engines_of_the_cpu_alone(
    net: Model, tmp_path: Path
) -> None:
    options = BuildOptions(device="GPU")
    with pytest.raises(
        InputError, match="--cpu names another processor, and the engine is for GPU"
    ):
        engine.build(net, tmp_path / "e", "openvino", options=options, cpu=CPUS["avx2"])


def of_device(path: Path, device: str, machine: dict[str, str]) -> None:
    """Write into an engine's passport that it was built for a device."""
    file = path.with_name(f"{path.name}.json")
    told = json.loads(file.read_text())
    told["flags"]["device"], told["machine"] = device, machine
    told["cpu"] = {"name": "", "features": []}
    file.write_text(json.dumps(told))


@alone
def test_an_engine_for_a_device_that_is_not_here_is_not_loaded(net: Model, tmp_path: Path) -> None:
    engine.build(net, tmp_path / "e", "openvino", prove=False)
    of_device(tmp_path / "e", "GPU.1", {"gpu": "Intel Arc"})
    with pytest.raises(InputError) as refused:
        engine.load(tmp_path / "e")
    told = f"{tmp_path / 'e'}: was built for GPU.1 (Intel Arc). --device GPU.1: OpenVINO finds no"
    assert str(refused.value).startswith(told)


def test_an_engine_for_another_gpu_than_is_here_is_not_loaded(
    net: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.build(net, tmp_path / "e", "openvino", prove=False)
    of_device(tmp_path / "e", "GPU.1", {"gpu": "Intel GPU.7"})
    monkeypatch.setattr(openvino, "Core", Core)
    told = "was built for the GPU Intel GPU.7, here is Intel GPU.1; build it again"
    with pytest.raises(InputError, match=told):
        engine.load(tmp_path / "e")


def test_figures_are_kept_by_the_device_that_an_engine_runs_on(net: Model, tmp_path: Path) -> None:
    passport = engine.build(net, tmp_path / "e", "openvino", prove=False)
    assert passport.here() == passport.runs_on == str(passport.cpu)
    of_device(tmp_path / "e", "GPU.1", {"gpu": "Intel Arc"})
    engine.record(tmp_path / "e", accuracy={"top1": 0.5})
    passport = read_passport(tmp_path / "e")
    assert passport.name == "openvino GPU.1 fp32"
    assert passport.accuracy_on == {"GPU.1 (Intel Arc)": {"top1": 0.5}}
    row = engine_row("openvino engine", replace(passport, proof=()), tmp_path / "e")
    assert row.where == "GPU.1 (Intel Arc)"
    assert _proven(row) == "openvino engine: not run when it was built; it is for GPU.1 (Intel Arc)"


def test_devices_of_a_kind_are_all_named() -> None:
    assert full_names(Core(), "HETERO:GPU.0,GPU.1,CPU") == {
        "gpu": "Intel GPU.0, Intel GPU.1", "cpu": "Intel CPU",
    }  # fmt: skip


@alone
def test_the_command_says_which_device_it_took(net: Model, tmp_path: Path, cli: Cli) -> None:
    net.save(tmp_path / "net.onnx")
    done = cli(
        "build", tmp_path / "net.onnx", "-o", tmp_path / "e", "--target", "openvino",
        "--device", "AUTO:GPU,CPU",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "AUTO:GPU,CPU is CPU here" in done.stdout


def test_the_machines_devices_are_part_of_what_a_stage_reads() -> None:
    assert devices_here().keys() == set(DEVICES)
    assert devices_here()["CPU"]
