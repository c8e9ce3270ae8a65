"""onnxruntime's execution providers: which are here, how a session gets one, and what it took.

onnxruntime is silent about all of it: where a provider can't start, or takes no node, everything
runs on the CPU. So a session that was to have one is refused without it, and its nodes are asked
where they run.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.targets.devices import CPU_PROVIDER, PROVIDERS, Provider, find_provider

__all__ = ["RECORDED", "Placed", "Running", "Share", "running", "shares"]

# Lets a session tell which node it gave to which provider.
RECORDED = "session.record_ep_graph_assignment_info"


@dataclass(frozen=True)
class Placed:
    """A node of a graph, and what runs it.

    Attributes:
        where: The provider's name, or the device's.
        name: Of the node, or of what it makes.
        operator: It does this.
    """

    where: str
    name: str
    operator: str


@dataclass(frozen=True)
class Share:
    """What of a graph runs in one place.

    Attributes:
        where: The provider's name, or the device's.
        nodes: How many run there, as the library divided the graph.
        operators: How many of them do what.
        multiplications: The part of all of them that is done there; None where that is not known.
    """

    where: str
    nodes: int
    operators: Mapping[str, int] = field(default_factory=dict)
    multiplications: float | None = None

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Share:
        """Return what stands in a passport."""
        part = stored.get("multiplications")
        return cls(
            str(stored["where"]), int(stored["nodes"]),
            {str(name): int(count) for name, count in stored.get("operators", {}).items()},
            None if part is None else float(part),
        )  # fmt: skip

    def __str__(self) -> str:
        """Return it in words: ``cpu: 3 nodes (2 Resize, 1 TopK), 0.0 % of the multiplications``."""
        noun = "node" if self.nodes == 1 else "nodes"
        listed = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        part = self.multiplications
        done = "" if part is None else f", {100 * part:.1f} % of the multiplications"
        return f"{self.where}: {self.nodes} {noun} ({listed}){done}"


def shares(placed: Iterable[Placed], work: Mapping[str, float]) -> tuple[Share, ...]:
    """Return what of a graph runs where; nothing where all of it runs in one place.

    Args:
        placed: Its nodes.
        work: The part of all multiplications that each layer does, by its name and by the names of
            what it makes. onnxruntime gives the copies that it makes of a layer names of its own.
    """
    nodes = list(placed)
    places = list(dict.fromkeys(node.where for node in nodes))
    if len(places) < 2:
        return ()
    done = {place: sum(work.get(_plain(n.name), 0.0) for n in nodes if n.where == place)
            for place in places}  # fmt: skip
    total = sum(done.values())
    return tuple(
        Share(
            place,
            sum(node.where == place for node in nodes),
            dict(Counter(n.operator for n in nodes if n.where == place).most_common()),
            done[place] / total if total else None,
        )
        for place in places
    )


def _plain(name: str) -> str:
    """Return the name of the node that onnxruntime made one of.

    >>> _plain("conv1_token_3"), _plain("dense/MatMulAddFusion"), _plain("conv1")
    ('conv1', 'dense', 'conv1')
    """
    return name.partition("_token_")[0].removesuffix("/MatMulAddFusion")


@dataclass(frozen=True)
class Running:
    """A provider on one of its devices, as sessions are given it.

    Attributes:
        provider: The provider.
        options: Its own.
        devices: Those of a provider that is a plug-in.
    """

    provider: Provider
    options: Mapping[str, str]
    devices: Sequence[Any] = ()

    def configure(self, settings: Any) -> None:
        """Set what a session needs for it."""
        settings.add_session_config_entry(RECORDED, "1")
        if self.provider.name == "dml":  # by its documentation
            settings.enable_mem_pattern = False
        if self.devices:
            settings.add_provider_for_devices(self.devices, dict(self.options))

    def listed(self, available: Sequence[str]) -> list[Any] | None:
        """Return the providers of a session, the first that takes a node has it."""
        if self.devices:
            return None
        found: list[Any] = [(self.provider.title, dict(self.options))]
        if self.provider.behind:  # on the same device
            other, _ = find_provider(self.provider.behind)
            if other.title in available:
                which = self.options[self.provider.key]
                found.append((other.title, {**dict(other.options), other.key: which}))
        return [*found, CPU_PROVIDER.title]

    def check(self, session: Any) -> None:
        """Raise InputError unless a session has the provider, and gave it some of its nodes."""
        title, name = self.provider.title, self.provider.name
        if title not in session.get_providers():
            raise InputError(
                f"onnxruntime has {title}, but it does not start here: {name} needs "
                f"{self.provider.needs}. onnxruntime would run everything on the CPU"
            )
        nodes = self.placed(session)
        if nodes and not any(node.where == name for node in nodes):
            free = [
                entry.name for entry in session.get_inputs()
                if not all(isinstance(dim, int) for dim in entry.shape)
            ]  # fmt: skip
            cure = f"{name} needs {self.provider.needs}"
            if free:
                cure += f", and may need the shape of {free[0]} to be fixed: surgery --inputs"
            raise InputError(
                f"{title} takes none of the graph's {len(nodes)} nodes here, and onnxruntime would "
                f"run everything on the CPU; {cure}"
            )

    def placed(self, session: Any) -> list[Placed]:
        """Return the nodes of a session and where they run; none from an older onnxruntime."""
        ask = getattr(session, "get_provider_graph_assignment_info", None)
        names = {provider.title: provider.name for provider in PROVIDERS}
        return [
            Placed(names.get(part.ep_name, part.ep_name), node.name, node.op_type)
            for part in (ask() if ask is not None else ())
            for node in part.get_nodes()
        ]

    @property
    def versions(self) -> dict[str, str]:
        """The version of a plug-in, by the name of its package."""
        return (
            {self.provider.package: metadata.version(self.provider.package)}
            if (self.devices)
            else {}
        )

    @property
    def device(self) -> str:
        """The device's name, where onnxruntime or the provider tells it."""
        for entry in self.devices:
            about = dict(entry.device.metadata)
            told = about.get("Description") or entry.device.vendor
            return f"{told} {entry.device.type.name}".strip()
        return ""


def running(ort: Any, given: str, *, int8: bool = False) -> Running | None:
    """Return the provider that a text names, as it is here; None for the CPU's own.

    Args:
        ort: The module.
        given: Such as ``cuda:1``.
        int8: Whether it is for a graph in INT8.

    Raises:
        InputError: It is not here.
    """
    provider, which = find_provider(given)
    if provider is CPU_PROVIDER:
        return None
    options = dict(provider.options) | (dict(provider.int8) if int8 else {})
    available = ort.get_available_providers()
    # Once a plug-in is registered, it is among those that are available too.
    plugin = provider.plugin and importlib.util.find_spec(provider.plugin) is not None
    if provider.title in available and not plugin:
        return Running(provider, {**options, provider.key: which})
    if not plugin:
        here = [known.name for known in PROVIDERS if known.title in available]
        raise InputError(
            f"--provider {given}: the onnxruntime that is installed has no {provider.title}, but "
            f"{' and '.join(here)}; {_install(provider, ort.__version__)}"
        )
    devices = _devices(ort, provider)
    if provider.key == "device_type":
        kind, _, number = which.partition(".")
        alike = [entry for entry in devices if entry.device.type.name == kind]
        devices = alike[int(number or 0) :][:1]
    else:
        devices, options[provider.key] = devices[:1], which
    if not devices:
        raise InputError(
            f"--provider {given}: {provider.package} is installed, and finds no {which} here that "
            f"it runs on; it needs {provider.needs}"
        )
    return Running(provider, options, devices)


def _install(provider: Provider, version: str) -> str:
    if provider.plugin:
        return f"pip install {provider.package}"
    return f"pip install {provider.package}=={version}, in place of onnxruntime"


def _devices(ort: Any, provider: Provider) -> list[Any]:
    """Return the devices of a plug-in, which is registered when it is first asked for."""

    def found() -> list[Any]:
        return [entry for entry in ort.get_ep_devices() if entry.ep_name == provider.title]

    if not found():
        library = importlib.import_module(provider.plugin).get_library_path()
        try:
            ort.register_execution_provider_library(provider.title, library)
        except Exception as error:  # its exceptions have no common base
            if "already registered" not in str(error):
                raise InputError(
                    f"onnxruntime {ort.__version__} can't load {provider.package}: "
                    f"{str(error).splitlines()[0]}"
                ) from error
    return found()
