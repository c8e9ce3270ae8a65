"""The list of passes holds every pass that there is, and each has its tests."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from onnxgraft.stages.surgery import PASSES
from onnxgraft.targets import find_target, target_names
from tests.conftest import ROOT

FILES = [
    file
    for file in sorted((ROOT / "surgery/passes").glob("*/*.py"))
    if not file.stem.startswith("_")
]
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
LISTED = {item.apply: item.name for item in PASSES}


@each
def test_a_pass_is_in_the_list_under_its_file_s_name(file: Path) -> None:
    room = f"onnxgraft.stages.surgery.passes.{file.parent.name}"
    apply = importlib.import_module(f"{room}.{file.stem}").apply
    assert LISTED.get(apply) == file.stem, f"{file.stem} has no line in surgery/list.py"


@each
def test_a_pass_in_a_target_s_room_is_one_of_its_lowering(file: Path) -> None:
    room = file.parent.name
    named = room not in target_names() or file.stem in find_target(room).lowering
    assert named, f"{file.stem} is not in the lowering of {room}: it would run for every target"


@each
def test_a_pass_has_its_tests(file: Path) -> None:
    place = ROOT / "tests/surgery" / TOGETHER.get(file.stem, f"test_{file.stem}.py")
    assert place.is_file(), f"{file.stem} has no tests: write {place.relative_to(ROOT)}"
    assert file.stem in place.read_text(), f"no test in {place.name} names {file.stem}"


# Passes whose tests stand in one file, as of pairs that belong together.
TOGETHER = {
    "remove_branch": "test_control.py",
    **dict.fromkeys(
        set(find_target("tensorrt").lowering) - {"lower_nms", "lower_rows"},
        "test_lower_tensorrt.py",
    ),
    **dict.fromkeys(
        "dense_to_conv merge_arithmetic merge_casts merge_duplicates merge_initializers".split(),
        "test_merge.py",
    ),
}
