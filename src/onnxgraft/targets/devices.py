"""What engines of a target may run on beside its usual device: OpenVINO's devices, and providers.

A provider is what onnxruntime hands parts of a graph to, each from a package of its own; what it
does not take stays on the CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxgraft.errors import InputError, nearest

__all__ = ["CPU_PROVIDER", "PROVIDERS", "Provider", "find_provider", "on_cpu"]


@dataclass(frozen=True)
class Provider:
    """An execution provider of onnxruntime.

    Attributes:
        name: On the command line, in recipes and passports.
        title: What onnxruntime calls it.
        package: That brings it: a plug-in, or a whole onnxruntime.
        needs: What it runs on.
        key: Its option that names the device; empty where there is no choice.
        usual: The value of that option where none is given.
        values: What the option may be, as a pattern.
        options: That it always gets.
        plugin: The module of a package that brings it to any onnxruntime.
        whole: The package of an onnxruntime that has it built in, where that is another.
        int8: The options that it wants beside for a graph in INT8.
        behind: The provider that gets what it leaves, before the CPU does.
        triton: Whose accelerator it is in Triton's onnxruntime backend: ``gpu``, or ``cpu`` where
            it runs on that; empty where the backend does not have it.
    """

    name: str
    title: str
    package: str
    needs: str
    key: str = ""
    usual: str = ""
    values: str = ""
    options: tuple[tuple[str, str], ...] = ()
    plugin: str = ""
    whole: str = ""
    int8: tuple[tuple[str, str], ...] = ()
    behind: str = ""
    triton: str = ""

    @property
    def examples(self) -> str:
        """How it is given, such as ``cuda`` and ``cuda:1``."""
        other = {"device_id": "1", "device_type": "GPU", "backend_type": "gpu"}.get(self.key)
        return f"`{self.name}`, `{self.name}:{other}`" if other else f"`{self.name}`"


CPU_PROVIDER = Provider("cpu", "CPUExecutionProvider", "onnxruntime", "a CPU")

PROVIDERS: tuple[Provider, ...] = (
    CPU_PROVIDER,
    # Without a word it multiplies float32 in TF32.
    Provider(
        "cuda", "CUDAExecutionProvider", "onnxruntime-gpu",
        "an NVIDIA GPU with its driver, CUDA and cuDNN", "device_id", "0", r"\d+",
        (("use_tf32", "0"),), triton="gpu",
    ),
    Provider(
        "tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu",
        "an NVIDIA GPU with its driver, CUDA and TensorRT", "device_id", "0", r"\d+",
        int8=(("trt_int8_enable", "1"),), behind="cuda", triton="gpu",
    ),
    # Without a word it computes in FP16 on a GPU.
    Provider(
        "openvino", "OpenVINOExecutionProvider", "onnxruntime-ep-openvino",
        "an Intel CPU, GPU or NPU with its driver", "device_type", "CPU",
        r"(CPU|GPU(\.\d+)?|NPU)", (("precision", "ACCURACY"),),
        plugin="onnxruntime_ep_openvino", triton="cpu",
        whole="onnxruntime-openvino",
    ),
    Provider(
        "dml", "DmlExecutionProvider", "onnxruntime-directml",
        "Windows with a GPU for DirectX 12", "device_id", "0", r"\d+",
    ),
    Provider(
        "qnn", "QNNExecutionProvider", "onnxruntime-qnn",
        "a Qualcomm processor with its NPU", "backend_type", "htp", r"(htp|gpu|cpu)",
        plugin="onnxruntime_qnn",
    ),
)  # fmt: skip


def find_provider(given: str) -> tuple[Provider, str]:
    """Return the provider that a text such as ``cuda`` or ``cuda:1`` names, and its device.

    Raises:
        InputError: There is none of that name, or it has no such devices.
    """
    name, _, which = given.partition(":")
    for provider in PROVIDERS:
        if provider.name == name:
            if which and not (provider.key and re.fullmatch(provider.values, which)):
                raise InputError(
                    f"--provider {given}: {which} is no device of {name}; write it as "
                    f"{provider.examples.replace('`', '')}"
                )
            return provider, which or provider.usual
    raise InputError(
        f"--provider {given}: no provider is called {name!r}; "
        f"{nearest(name, [provider.name for provider in PROVIDERS])}"
    )


def on_cpu(device: str | None, provider: str | None) -> bool:
    """Tell whether what an engine answers depends on the processor, as far as is said of it.

    Args:
        device: OpenVINO's; one that is still to be chosen may be the processor.
        provider: onnxruntime's.
    """
    if provider:
        known, which = find_provider(provider)
        return known is CPU_PROVIDER or which in ("CPU", "cpu")
    return not device or device.startswith("AUTO") or "CPU" in re.split("[:,]", device)
