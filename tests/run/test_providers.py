"""onnxruntime's providers: one that is not here is refused, and what it leaves is told."""

from __future__ import annotations

import warnings
from typing import Any

import onnxruntime as ort
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run.providers import Placed, Running, Share, running, shares
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.targets.devices import PROVIDERS, Provider, find_provider
from tests.conftest import model_of

# A provider that every onnxruntime of PyPI has, and that takes no node of a network.
AZURE = Provider("azure", "AzureExecutionProvider", "onnxruntime", "the cloud")
HERE = set(ort.get_available_providers())
ABSENT = [p.name for p in PROVIDERS if p.title not in HERE and not p.plugin]


@pytest.fixture
def net() -> Model:
    return model_of("net (float[N, 4] x) => (float[N, 4] y) { r = Relu(x)  y = Erf(r) }")


def test_onnxruntime_knows_every_provider_by_its_title() -> None:
    assert {provider.title for provider in PROVIDERS} <= set(ort.get_all_providers())


@pytest.mark.parametrize("name", ABSENT)
def test_a_provider_that_is_not_installed_is_refused_with_what_installs_it(name: str) -> None:
    provider, _ = find_provider(name)
    with pytest.raises(InputError) as refused:
        running(ort, name)
    assert f"no {provider.title}, but cpu" in str(refused.value)
    assert f"pip install {provider.package}=={ort.__version__}, in place of" in str(refused.value)


def test_a_provider_of_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no provider is called 'cudda'; did you mean cuda\?"):
        running(ort, "cudda")


@pytest.mark.parametrize("given", ["cuda:x", "cpu:0", "openvino:TPU", "qnn:1", "dml:-1"])
def test_a_device_that_a_provider_can_not_have_is_refused(given: str) -> None:
    with pytest.raises(InputError, match=f"--provider {given}: .* is no device of"):
        find_provider(given)


def test_the_providers_own_option_names_the_device() -> None:
    class Everything:
        __version__ = "1"
        get_available_providers = staticmethod(lambda: [p.title for p in PROVIDERS])

    told = {
        given: running(Everything, given).listed(Everything.get_available_providers())  # type: ignore[union-attr]
        for given in ("cuda", "cuda:1", "tensorrt:2", "dml:3")
    }
    assert told["cuda"] == [
        ("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "0"}), "CPUExecutionProvider",
    ]  # fmt: skip
    assert told["cuda:1"][0][1]["device_id"] == "1"  # type: ignore[index]
    assert [entry[0] for entry in told["tensorrt:2"][:2]] == [  # type: ignore[index]
        "TensorrtExecutionProvider", "CUDAExecutionProvider",
    ]  # fmt: skip
    assert [entry[1]["device_id"] for entry in told["tensorrt:2"][:2]] == ["2", "2"]  # type: ignore[index]
    assert told["dml:3"][0] == ("DmlExecutionProvider", {"device_id": "3"})  # type: ignore[index]


def test_the_cpus_own_provider_is_none() -> None:
    assert running(ort, "cpu") is None


@pytest.mark.skipif(
    AZURE.title not in HERE, reason="this onnxruntime has no AzureExecutionProvider"
)
def test_a_provider_that_takes_no_node_is_refused_where_onnxruntime_says_nothing(
    net: Model,
) -> None:
    session = ort.InferenceSession(
        net.to_onnx().SerializeToString(), providers=[AZURE.title, "CPUExecutionProvider"]
    )
    assert AZURE.title in session.get_providers()  # it looks as if it ran there
    with pytest.raises(InputError, match="takes none of the graph's 2 nodes here"):
        OnnxRuntime(net.to_onnx(), provider=Running(AZURE, {}))


def test_a_provider_that_does_not_start_is_refused_where_onnxruntime_goes_on_without(
    net: Model,
) -> None:
    absent = Provider("tpu", "CUDAExecutionProvider", "onnxruntime-gpu", "an NVIDIA GPU")
    if absent.title in HERE:
        pytest.skip("there is a CUDAExecutionProvider")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no such provider
        with pytest.raises(InputError, match="does not start here: tpu needs an NVIDIA GPU"):
            OnnxRuntime(net.to_onnx(), provider=Running(absent, {}))


def test_where_the_nodes_of_a_session_run_is_onnxruntimes_word(net: Model) -> None:
    cpu = Provider("cpu", "CPUExecutionProvider", "onnxruntime", "a CPU")

    class Cpu(Running):
        def listed(self, available: Any) -> list[Any]:
            return ["CPUExecutionProvider"]

    with OnnxRuntime(net.to_onnx(), provider=Cpu(cpu, {})) as session:
        assert [(node.where, node.operator) for node in session.placed()] == [
            ("cpu", "Relu"), ("cpu", "Erf"),
        ]  # fmt: skip


def test_shares_count_nodes_and_multiplications_by_place() -> None:
    nodes = [
        Placed("qnn", "c1_token_1", "Conv"), Placed("qnn", "", "Transpose"),
        Placed("qnn", "fc/MatMulAddFusion", "Gemm"), Placed("cpu", "c2", "Conv"),
        Placed("cpu", "e", "Erf"), Placed("cpu", "f", "Erf"),
    ]  # fmt: skip
    found = shares(nodes, {"c1": 0.5, "c2": 0.25, "fc": 0.25})
    assert found == (
        Share("qnn", 3, {"Conv": 1, "Transpose": 1, "Gemm": 1}, 0.75),
        Share("cpu", 3, {"Erf": 2, "Conv": 1}, 0.25),
    )
    assert str(found[1]) == "cpu: 3 nodes (2 Erf, 1 Conv), 25.0 % of the multiplications"
    assert shares(nodes[:3], {}) == ()  # all in one place
    assert shares(nodes, {})[0].multiplications is None
