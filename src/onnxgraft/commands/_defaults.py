"""Which target is meant where none is named: the graph's own, or what this machine has."""

from __future__ import annotations

from onnxgraft.commands._int8 import PRECISION_KEY
from onnxgraft.commands._recipe import DEFAULT_TARGETS
from onnxgraft.errors import InputError
from onnxgraft.files import parse_json
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine as stage
from onnxgraft.targets import find_target, target_names

__all__ = ["deployed_targets", "only_target", "target_of_graph"]


def target_of_graph(model: Model) -> tuple[str, str]:
    """Return the target to build a graph for, and in a sentence why.

    It is the one that `quantize` made the graph for; of any other graph, the first that can run
    here.
    """
    made_for = _made_for(model)
    if made_for is not None:
        return made_for, f"for {find_target(made_for).title}, which the graph was made for"
    name = stage.default_target()
    others = [find_target(other).title for other in _here() if other != name]
    which = f"rather than {' or '.join(others)}" if others else "the only runtime that is here"
    return name, f"for {find_target(name).title}, {which}; --target names another"


def only_target() -> str:
    """Return the target that can run here, if there is just one.

    Raises:
        InputError: There are several, or none.
    """
    here = _here()
    if len(here) != 1:
        there = f"here can run: {', '.join(here)}" if here else "none can run here"
        raise InputError(
            f"no target was named, and {there}; name one with --target: {', '.join(target_names())}"
        )
    return here[0]


def deployed_targets() -> tuple[str, ...]:
    """Return what `deploy` builds for: the CPU targets that are installed, or all of them."""
    return tuple(name for name in DEFAULT_TARGETS if stage.runs_here(name)) or DEFAULT_TARGETS


def _here() -> list[str]:
    return [name for name in target_names() if stage.runs_here(name)]


def _made_for(model: Model) -> str | None:
    """Return what the graph says; None of a graph that says nothing, or what is not known here."""
    try:
        told = parse_json(model.metadata.get(PRECISION_KEY, "{}")).get("target")
    except (ValueError, AttributeError):
        return None
    return told if told in target_names() else None
