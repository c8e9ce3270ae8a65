"""OpenVINO's devices: which are here, which of them ``AUTO`` takes, and what runs on which.

``AUTO`` is settled when an engine is built. OpenVINO can't export what it compiles for ``AUTO``,
and that would run on the CPU until another device is ready: what was proven would not be what runs.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.optional import optional
from onnxgraft.run.providers import Placed

__all__ = [
    "AUTO", "HETERO", "candidates", "check_device", "devices_here", "full_names", "openvino",
    "placed", "taken",
]  # fmt: skip

AUTO, HETERO = "AUTO", "HETERO"
_NO_ENGINE = {
    "MULTI": "gives each inference to whichever device is free, so what was proven is not what "
    "answers; build an engine for each",
    "BATCH": "joins what is asked for into batches; bench --batch and export triton do that",
}
_DRIVERS = {
    "GPU": "install the driver of the GPU with its OpenCL",
    "NPU": "install the driver of the NPU",
}


def devices_here() -> dict[str, str]:
    """Return the devices of this machine by what OpenVINO calls them, with their full names."""
    core = openvino().Core()
    return {name: ", ".join(full_names(core, name).values()) for name in core.available_devices}


def check_device(core: Any, given: str) -> None:
    """Raise InputError if a device is not here, or no engine can be for it.

    Args:
        core: OpenVINO's.
        given: As `BuildOptions.device` has it.
    """
    kind, _, rest = given.partition(":")
    if kind in _NO_ENGINE:
        raise InputError(f"--device {given}: {kind} {_NO_ENGINE[kind]}")
    if kind == AUTO:
        candidates(core, given)
        return
    if kind == HETERO and not rest:
        raise InputError(f"--device {given}: name the devices too, such as HETERO:GPU,CPU")
    for name in rest.split(",") if kind == HETERO else [given]:
        if not _is_here(core, name):
            raise InputError(f"--device {given}: {_absent(core, name)}")


def candidates(core: Any, given: str) -> list[str]:
    """Return the devices among which ``AUTO`` chooses, as far as they are here.

    ``AUTO:GPU,CPU`` names them, the first that will do before others, and ``AUTO:-GPU`` leaves one
    out. OpenVINO itself fails where one of them is not here.

    Raises:
        InputError: None is.
    """
    named = [name for name in given.partition(":")[2].split(",") if name]
    without = [name[1:] for name in named if name.startswith("-")]
    wanted = [name for name in named if not name.startswith("-")]
    found = [name for name in wanted or core.available_devices if _is_here(core, name)]
    found = [name for name in found if not any(_is(name, other) for other in without)]
    if not found:
        listed = ", ".join(core.available_devices)
        told = f"; {_absent(core, wanted[0])}" if wanted else ""
        raise InputError(f"--device {given}: none of these devices is here, but {listed}{told}")
    return found


def taken(core: Any, network: Any, among: Sequence[str], hint: str) -> str:
    """Return the device that OpenVINO's ``AUTO`` takes for a model."""
    if len(among) == 1:
        return among[0]
    config = {"PERFORMANCE_HINT": hint.upper(), "ENABLE_STARTUP_FALLBACK": False}
    compiled = core.compile_model(network, f"{AUTO}:{','.join(among)}", config)
    first = str(compiled.get_property("EXECUTION_DEVICES")[0])
    return first.strip("()")


def placed(core: Any, network: Any, device: str) -> list[Placed]:
    """Return a model's operations and where they run, for a ``HETERO`` device."""
    if not device.startswith(HETERO):
        return []
    kinds = {op.get_friendly_name(): op.get_type_name() for op in network.get_ordered_ops()}
    ends = ("Parameter", "Constant", "Result")
    return [
        Placed(where, name, kinds[name])
        for name, where in core.query_model(network, device).items()
        if kinds.get(name, "Constant") not in ends
    ]


def full_names(core: Any, device: str) -> dict[str, str]:
    """Return what OpenVINO calls the devices in full, by their kind: ``cpu``, ``gpu``, ``npu``."""
    found: dict[str, str] = {}
    for name in device.removeprefix(f"{HETERO}:").split(","):
        try:
            told = str(core.get_property(name, "FULL_DEVICE_NAME"))
        except RuntimeError:  # not every driver tells it
            told = name
        kind = name.partition(".")[0].lower()
        found[kind] = f"{found[kind]}, {told}" if kind in found else told
    return found


def _is_here(core: Any, name: str) -> bool:
    return any(_is(known, name) for known in core.available_devices)


def _is(known: str, name: str) -> bool:
    """Tell whether a device is meant by a name: GPU.0 is by GPU, and the only one by GPU.0 too.

    >>> _is("GPU.0", "GPU"), _is("GPU", "GPU.0"), _is("GPU.1", "GPU.0"), _is("CPU", "CPU.0")
    (True, True, False, False)
    """
    alone = name == f"{known}.0" and known != "CPU"  # the CPU takes no number
    return known == name or known.startswith(f"{name}.") or alone


def _absent(core: Any, name: str) -> str:
    """Return that a device is not here, what is, why, and what to do."""
    kind = name.partition(".")[0]
    reason = ""
    try:
        core.get_property(kind, "AVAILABLE_DEVICES")
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if "Cannot load library" in line]
        found = re.search(r'": (\S+?: .+)', lines[-1]) if lines else None
        reason = f" ({found[1].strip()})" if found else ""
    listed = ", ".join(core.available_devices)
    cure = _DRIVERS.get(kind, "write it as OpenVINO does")
    return f"OpenVINO finds no {name} here, but {listed}{reason}; {cure}, or name another device"


def openvino() -> Any:
    """Return the module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    with optional("OpenVINO as a target", "openvino"), _no_telemetry():
        import openvino as module
    return module


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep OpenVINO from telling its makers that it was imported, as it does by itself.

    Where its package for that is missing, it goes without.
    """
    name = "openvino_telemetry"
    missing = name not in sys.modules
    if missing:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if missing:
            del sys.modules[name]
