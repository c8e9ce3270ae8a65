"""What a target is stands in one object; everything else follows from `TARGETS`."""

import ast
import importlib
import tomllib
from dataclasses import fields

import pytest
from packaging.requirements import Requirement

from onnxgraft.errors import InputError
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.surgery import PASSES
from onnxgraft.targets import FLOATS, TARGETS, Target, find_target, target_names
from tests.conftest import ROOT
from tests.sources import parsed

each = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def test_names_are_told_apart() -> None:
    assert len(set(target_names())) == len(TARGETS)
    assert all(find_target(name).name == name for name in target_names())


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(InputError, match="no target is called 'openvin'; did you mean openvino"):
        find_target("openvin")


FILES = [file.stem for file in (ROOT / "src/onnxgraft/targets").glob("[!_]*.py")]


@pytest.mark.parametrize("file", sorted(FILES))
def test_every_target_has_its_place_in_the_list(file: str) -> None:
    module = importlib.import_module(f"onnxgraft.targets.{file}")
    for value in vars(module).values():
        if isinstance(value, Target):
            assert value in TARGETS, f"{value.name} is not in TARGETS (targets/__init__.py)"
            assert value.name == file


@each
def test_its_package_is_asked_for(target: Target) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"].get(target.package, [])
    names = {Requirement(text).name for text in (*project["dependencies"], *extra)}
    assert target.package in names, f"pyproject.toml has no extra {target.package}"


@each
def test_placement_says_whose_it_is(target: Target) -> None:
    assert target.placement.target == target.name


@each
def test_the_machine_has_a_rate_for_every_precision(target: Target) -> None:
    assert {"fp32", "int8", *(kind for kind in target.floats if kind != "tf32")} <= set(
        target.machine.macs
    )


@each
def test_options_are_fields_of_the_build(target: Target) -> None:
    assert target.options <= {field.name for field in fields(BuildOptions)}
    assert ("floats" in target.options) == bool(target.floats)


@each
def test_lowering_passes_are_in_the_list(target: Target) -> None:
    assert set(target.lowering) <= {item.name for item in PASSES}


@each
def test_the_backend_has_what_engines_need(target: Target) -> None:
    module = importlib.import_module(target.backend)
    assert all(callable(getattr(module, name)) for name in ("build", "load", "runs_here"))


def test_floats_are_those_of_all_targets() -> None:
    assert set(FLOATS) == {"fp32", *(kind for target in TARGETS for kind in target.floats)}


def test_nothing_else_lists_the_targets() -> None:
    """A second list of names would stay behind when a target is added."""
    names = set(target_names())
    found = []
    for file, tree in parsed("|".join(sorted(names))):
        for node in ast.walk(tree):
            inside = {
                child.value
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.Constant) and isinstance(child.value, str)
            }
            if (
                isinstance(node, ast.Dict | ast.List | ast.Set | ast.Tuple)
                and len(inside & names) > 1
            ):
                found.append(f"{file}:{node.lineno}")
            if isinstance(node, ast.Compare) and inside & names:
                found.append(f"{file}:{node.lineno}")
    assert not [place for place in found if not place.startswith(LISTS)]


# Versions of installed packages, which happen to be called as targets are.
LISTS = ("validate/report.py", "quantize/measure/checkpoint.py")
