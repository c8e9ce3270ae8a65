"""Which engines run on this machine, and an engine from its file: with numpy and its library alone.

What builds engines stands in `building`, which needs all of onnxgraft.
"""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path

from onnxgraft.errors import (
    EngineWarning,
    InputError,
    MissingDependencyError,
    NotSupportedError,
)  # fmt: skip
from onnxgraft.files import existing_file
from onnxgraft.graph.source import Source
from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.engine import Engine, Writing
from onnxgraft.run.layers import Layer, LayerTimes, Timing
from onnxgraft.stages.engine.options import Backend
from onnxgraft.stages.engine.passport import Passport, own_passport, passport_path, pinned
from onnxgraft.stages.engine.unknown import target_of
from onnxgraft.targets import TARGETS, find_target
from onnxgraft.targets.cpu import CPUS, Cpu
from onnxgraft.targets.devices import CPU_PROVIDER, find_provider

__all__ = ["backend_of", "check_layers", "default_target", "layers", "load", "runs_here"]


def default_target() -> str:
    """Return the target of this machine: the first that can run here."""
    for target in TARGETS:
        if backend_of(target.name).runs_here():
            return target.name
    raise MissingDependencyError(
        "no target can run here: pip install 'onnxgraft[openvino]', or name one with --target"
    )


def runs_here(target: str) -> bool:
    """Tell whether engines of ``target`` can run on this machine."""
    return backend_of(target).runs_here()


def backend_of(name: str) -> Backend:
    """Return the module of a target, by its name."""
    module: Backend = importlib.import_module(find_target(name).backend)
    return module


def load(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    threads: int | None = None,
    streams: int | None = None,
) -> Writing:
    """Return the engine at ``path``, ready to infer.

    Loading an engine runs native code: only a file that its own passport describes is loaded.

    Args:
        path: Of the engine.
        trust: Load an engine that has no passport, too.
        threads: Of the CPU; None takes what the engine was built for.
        streams: Inferences that run at once, where the library plans for a number (OpenVINO).

    Raises:
        InputError: There is no passport, or the file is not the one that it describes, or it
            was built for another library or GPU.
        MissingDependencyError: Its library is not installed.
    """
    file = existing_file(path, "the engine")
    if threads is not None and threads < 1:
        raise InputError(f"threads are whole numbers from 1 on, not {threads}")
    if streams is not None and streams < 1:
        raise InputError(f"streams are whole numbers from 1 on, not {streams}")
    if trust and not passport_path(file).exists():
        passport = Passport(
            target_of(file).name, "", "", Source(str(file), "unknown", ""), (), (), {}
        )
    else:
        passport = own_passport(file)
        for told in (*_other_cpu(file, passport), *_wrong(file, passport)):
            warnings.warn(told, EngineWarning, stacklevel=2)
    try:
        return backend_of(passport.target).load(file, passport, threads, streams)
    except MissingDependencyError as error:
        aim = find_target(passport.target)
        raise MissingDependencyError(
            f"{file}: is an engine for {aim.title}, which is not installed: "
            f"pip install {pinned(passport, aim.package)}"
        ) from error


def _other_cpu(file: Path, passport: Passport) -> list[str]:
    """Return what to say of an engine that was built for another CPU."""
    here = find_target(passport.target).cpu()
    if not passport.cpu.name or passport.cpu == here:
        return []
    if passport.cpu.features == here.features:
        if passport.cpu.name in CPUS:  # a kind, and no machine
            return []
        told = (
            f"{file}: was built for {passport.cpu.name}, and this is {here.name}, which has the "
            "same instructions: it computes the same, but the latency in its passport is not of "
            "this machine"
        )
        return [told]
    told = (
        f"{file}: was built for {passport.cpu}, and this is {here}: it may compute something else "
        f"here. {_measured(passport, passport.cpu)}; {_measured(passport, here)}. Build it again "
        "here, or validate it"
    )
    return [told]


def _wrong(file: Path, passport: Passport) -> list[str]:
    """Return what to say of an engine that is known not to compute what its graph says."""
    return [
        f"{file}: does not compute what its graph says; {proof}"
        for proof in passport.proof
        if not proof.passed
    ]


def _measured(passport: Passport, cpu: Cpu) -> str:
    found = passport.accuracy_on.get(str(cpu), {})
    listed = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name != "samples")
    return f"on {cpu.name} it was measured: {listed}" if listed else f"not validated on {cpu.name}"


def layers(engine: Engine) -> list[Layer]:
    """Return the layers of an engine as its library fused them.

    Raises:
        NotSupportedError: Its library does not say.
    """
    ask = getattr(engine, "layers", None)
    if ask is None:
        raise NotSupportedError(f"{engine.name} does not report its layers")
    found: list[Layer] = ask()
    return found


def time_layers(engine: Engine, feeds: Feeds, runs: int = 10) -> LayerTimes:
    """Return what the layers of an engine take, as its library counts it.

    Args:
        engine: Running.
        feeds: By name; each inference has the same.
        runs: How many are counted, after a few that warm up.

    Raises:
        NotSupportedError: Its library does not say.
    """
    if not isinstance(engine, Timing):
        raise NotSupportedError(f"{engine.name} does not report what its layers take")
    return engine.time_layers(feeds, runs)


def check_layers(target: str, provider: str | None = None) -> None:
    """Raise InputError if an engine for ``target`` could not report its layers on this machine.

    Args:
        target: Its name.
        provider: That onnxruntime gives nodes to, if any.
    """
    if provider is not None and find_provider(provider)[0] is not CPU_PROVIDER:
        raise InputError(
            f"--layers: onnxruntime does not tell what the provider {provider} makes of the nodes "
            "that it takes; leave it out"
        )
    if not backend_of(target).runs_here():
        aim = find_target(target)
        raise InputError(
            f"--layers: a {aim.title} engine reports its layers where there is {aim.needs} and "
            f"{aim.package} is installed, and that is not so here; leave it out"
        )
