"""Which instructions a CPU has, and what follows for its INT8 arithmetic."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.targets.cpu import CPUS, Cpu, find_cpu, this_cpu

# What numpy found by asking the CPU itself, by its own names.
NUMPY = {
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are instructions of x86-64")
@pytest.mark.parametrize("feature", list(NUMPY))
def test_numpy_finds_the_same_instructions(feature: str) -> None:
    found = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
    assert (feature in this_cpu().features) == found[NUMPY[feature]]


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("avx2", False), ("avx512", False), ("avx2-vnni", True), ("avx512-vnni", True),
        ("amx", True), ("arm64", True),
    ],
)  # fmt: skip
def test_without_vnni_products_saturate(name: str, wide: bool) -> None:
    cpu = find_cpu(name)
    assert cpu.wide_sums is wide
    assert ("saturate" in cpu.arithmetic) is not wide


@pytest.mark.parametrize(
    ("limit", "wide", "amx"),
    [
        ("", True, True), ("AVX512_CORE_VNNI", True, False), ("avx512_core", False, False),
        ("AVX2_VNNI", True, False), ("nonsense", True, True),
    ],
)  # fmt: skip
def test_a_limit_takes_instructions_away(limit: str, wide: bool, amx: bool) -> None:
    cpu = CPUS["amx"].limited(limit)
    assert cpu.wide_sums is wide
    assert ("amx_int8" in cpu.features) is amx


def test_a_cpu_comes_back_from_a_passport() -> None:
    cpu = this_cpu()
    assert Cpu.from_json(cpu.to_json()) == cpu
    assert Cpu.from_json({}) == Cpu()


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="avx512-vnni"):
        find_cpu("avx512vnni")
