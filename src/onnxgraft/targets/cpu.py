"""Which instructions a CPU has: they decide how bytes are multiplied, and what an engine gives.

Without VNNI, x86 kernels add two products of bytes in 16 bits, which saturate: 2 * 255 * 127 is
64,770, and 16 bits hold 32,767 (Intel, Software Developer's Manual, VPMADDUBSW; onnxruntime's
documentation of ``session.x64quantprecision``). With VNNI or AMX the sums have 32 bits. Weights of
seven bits can't saturate: 2 * 255 * 64 is 32,640.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError, nearest

__all__ = ["CPUS", "FEATURES", "Cpu", "find_cpu", "this_cpu"]

# What decides here, in the words of /proc/cpuinfo.
FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "amx_bf16",
    "avx512_fp16",
)  # fmt: skip
# Any of them adds products of bytes in 32 bits.
_WIDE = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
# What oneDNN, and so OpenVINO, may be limited to (oneDNN's documentation of ONEDNN_MAX_CPU_ISA):
# the features that are left.
_LIMITS = {
    "AVX2": {"avx2"},
    "AVX2_VNNI": {"avx2", "avx_vnni"},
    "AVX512_CORE": {"avx2", "avx512f"},
    "AVX512_CORE_VNNI": {"avx2", "avx512f", "avx_vnni", "avx512_vnni"},
    "AVX512_CORE_BF16": {"avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16"},
    "AVX512_CORE_FP16": {
        "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Cpu:
    """A processor, as far as arithmetic depends on it.

    Attributes:
        name: Its model, or what it is called on the command line.
        features: Those of `FEATURES` that it has.
    """

    name: str = ""
    features: frozenset[str] = frozenset()

    @property
    def wide_sums(self) -> bool:
        """Whether products of bytes are added in 32 bits, so that nothing saturates."""
        return bool(self.features & _WIDE) or "x86" not in self.features

    @property
    def arithmetic(self) -> str:
        """How it computes INT8, in words."""
        if "x86" not in self.features:
            return "products of bytes added in 32 bits"
        if self.wide_sums:
            with_ = next(name for name in ("amx_int8", "avx512_vnni", "avx_vnni")
                         if name in self.features)  # fmt: skip
            return f"products of bytes added in 32 bits ({with_})"
        return "pairs of products of bytes added in 16 bits, which saturate (no VNNI)"

    def limited(self, limit: str) -> Cpu:
        """Return what is left of it under a limit in oneDNN's words."""
        allowed = _LIMITS.get(limit.upper())
        if allowed is None:
            return self
        return Cpu(f"{self.name}, limited to {limit}", self.features & (allowed | {"x86"}))

    def to_json(self) -> dict[str, Any]:
        """Return what stands in a passport."""
        return {"name": self.name, "features": sorted(self.features)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Cpu:
        """Return what `to_json` wrote; without a name where there is nothing."""
        return cls(str(stored.get("name", "")), frozenset(map(str, stored.get("features", []))))

    def __str__(self) -> str:
        """Return name and features: ``AMD EPYC (avx2, avx512f, avx512_vnni)``."""
        known = [feature for feature in FEATURES if feature in self.features]
        return f"{self.name} ({', '.join(known)})" if known else self.name


def _cpu(name: str, *features: str) -> Cpu:
    return Cpu(name, frozenset({"x86", *features}))


# What `--cpu` names, for engines that are made for another machine than this one.
CPUS: dict[str, Cpu] = {
    cpu.name: cpu
    for cpu in (
        _cpu("avx2", "avx2"),
        _cpu("avx2-vnni", "avx2", "avx_vnni"),
        _cpu("avx512", "avx2", "avx512f"),
        _cpu("avx512-vnni", "avx2", "avx512f", "avx512_vnni"),
        _cpu("amx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
             "amx_int8", "amx_bf16"),
        Cpu("arm64", frozenset()),
    )
}  # fmt: skip


def find_cpu(name: str) -> Cpu:
    """Return the CPU that ``name`` stands for.

    Raises:
        InputError: There is none of that name.
    """
    if name not in CPUS:
        raise InputError(f"--cpu {name}: no CPU is called so; {nearest(name, CPUS)}")
    return CPUS[name]


@functools.cache
def this_cpu() -> Cpu:
    """Return this machine's processor, as the system has it."""
    name, features = platform.processor() or platform.machine(), set[str]()
    if platform.machine().lower() in ("x86_64", "amd64"):
        features.add("x86")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return Cpu(name, frozenset(features))
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            features.update(feature for feature in FEATURES if feature in value.split())
            break
    return Cpu(name, frozenset(features))
