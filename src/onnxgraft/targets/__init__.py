"""What a graph can be built for: `TARGETS`, one frozen `Target` each, and nothing that is heavy.

Whatever depends on targets asks here: the choices of the command line, placement, costs, fusions,
what an engine file begins with, which options a build takes.
"""

from __future__ import annotations

from typing import get_args

from onnxgraft.errors import InputError, nearest
from onnxgraft.targets.onnxruntime import ONNXRUNTIME
from onnxgraft.targets.openvino import OPENVINO
from onnxgraft.targets.target import (
    BLOCKS,
    Floats,
    Form,
    Format,
    Fp8,
    Machine,
    Placement,
    Precision,
    Recurrent,
    Storage,
    StorageOp,
    Target,
    Triton,
    WeightType,
)
from onnxgraft.targets.tensorrt import TENSORRT

__all__ = [
    "BLOCKS", "FLOATS", "FORMATS", "TARGETS", "WEIGHT_TYPES", "Floats", "Form", "Format", "Fp8",
    "Machine", "Placement", "Precision", "Recurrent", "Storage", "StorageOp", "Target", "Triton",
    "WeightType", "find_target", "target_names",
]  # fmt: skip

# In the order in which a machine's default is looked for: the first that can run there.
TARGETS: tuple[Target, ...] = (TENSORRT, OPENVINO, ONNXRUNTIME)
# What layers that are not INT8 can run in, for one target or another.
FLOATS: tuple[str, ...] = ("fp32", *dict.fromkeys(kind for t in TARGETS for kind in t.floats))
# What quantized layers can be in, for one target or another.
FORMATS: tuple[Format, ...] = get_args(Format)
# What weights alone can be stored as.
WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)


def target_names() -> list[str]:
    """Return the names of all targets."""
    return [target.name for target in TARGETS]


def find_target(name: str) -> Target:
    """Return the target that is called ``name``.

    Raises:
        InputError: There is none.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    raise InputError(f"no target is called {name!r}; {nearest(name, target_names())}")
