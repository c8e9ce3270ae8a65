"""Every option of a build at every target: it is taken, or refused by its name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnxgraft.errors import OnnxgraftError
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.options import Built
from onnxgraft.stages.engine.passport import Flags
from onnxgraft.targets import find_target, target_names
from tests.conftest import model_of

SHAPES: dict[str, Any] = {"shapes": {"x": (2, 4)}}
# What is given, the words that name it when it is refused, and the targets that it means something
# to. Written by hand: what it is held against is derived. A target that is in none of the sets
# takes what it says.
OPTIONS: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "shapes": (SHAPES, "--shapes", {"tensorrt", "openvino"}),
    "smallest": ({**SHAPES, "smallest": {"x": (1, 4)}}, "--min-shapes", {"tensorrt"}),
    "largest": ({**SHAPES, "largest": {"x": (8, 4)}}, "--max-shapes", {"tensorrt"}),
    "batches": ({"batches": (1, 4)}, "--batches", {"tensorrt"}),
    "hint": ({"hint": "throughput"}, "--hint", {"openvino"}),
    "threads": ({"threads": 2}, "--threads", {"openvino", "onnxruntime"}),
    "workspace": ({"workspace": 1 << 20}, "--workspace", {"tensorrt"}),
    "level": ({"level": 3}, "--level", {"tensorrt"}),
    "level_0": ({"level": 0}, "--level", {"tensorrt"}),
    "timing_cache": ({"timing_cache": Path("kept")}, "--timing-cache", {"tensorrt"}),
    "version_compatible": ({"version_compatible": True}, "--version-compatible", {"tensorrt"}),
    "calibration": ({"calibration": b"TRT-1"}, "--calibration", {"tensorrt"}),
    "device": ({"device": "CPU"}, "--device", {"openvino"}),
    "provider": ({"provider": "cpu"}, "--provider", {"onnxruntime"}),
    "floats_tf32": ({"floats": "tf32"}, "tf32", {"tensorrt"}),
    "floats_fp16": ({"floats": "fp16"}, "fp16", {"tensorrt", "openvino"}),
    "floats_bf16": ({"floats": "bf16"}, "bf16", {"openvino"}),
}
BY_HAND = set().union(*(takes for _, _, takes in OPTIONS.values()))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[BuildOptions]:
    """Let nothing be built; return the list of the options that came to a target."""
    found: list[BuildOptions] = []

    def build(model: object, path: Path, options: BuildOptions) -> Built:
        found.append(options)
        path.write_bytes(b"engine")
        return Built({}, Flags(), {})

    backend = SimpleNamespace(build=build, runs_here=lambda: False)
    monkeypatch.setattr("onnxgraft.stages.engine.building.backend_of", lambda target: backend)
    return found


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_taken_or_refused_by_its_name(
    option: str, target: str, built: list[BuildOptions], tmp_path: Path
) -> None:
    given, words, takes = OPTIONS[option]
    net = model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    options = BuildOptions(**given)
    if target not in BY_HAND:
        aim = find_target(target)
        taken = given.keys() <= aim.options and given.get("floats", "fp32") in ("fp32", *aim.floats)
        takes = {target} if taken else set()
    if target in takes:
        engine.build(net, tmp_path / "e", target, options=options)
        assert built == [options]
        return
    # The shapes that --min-shapes wants beside it are refused first where they are, too.
    flags = {words, "--shapes"} if "shapes" in given else {words}
    with pytest.raises(OnnxgraftError) as refused:
        engine.build(net, tmp_path / "e", target, options=options)
    assert any(flag in str(refused.value).lower() for flag in flags)
    assert target in str(refused.value).lower()
    assert not built
    assert not list(tmp_path.iterdir())


def test_every_option_is_tried() -> None:
    tried = {name for given, _, _ in OPTIONS.values() for name in given}
    assert tried == {field.name for field in fields(BuildOptions)}
