"""The table of layers: nothing that converts is left out, each is tested and in the docs."""

from __future__ import annotations

import importlib
import re
from inspect import isfunction

import pytest

from onnxgraft.stages.convert.caffe.layers.table import LAYERS
from onnxgraft.stages.convert.caffe.running import DEPARTURES
from tests.conftest import ROOT
from tests.convert.caffe.net import every_case

# Not nets of one layer with one output: `test_plumbing` and `test_recurrent` have them.
ELSEWHERE = {"ContinuationIndicator", "DummyData", "Parameter", "Split"}


FAMILIES = [
    importlib.import_module(f"onnxgraft.stages.convert.caffe.layers.{file.stem}")
    for file in sorted((ROOT / "convert/caffe/layers").glob("*.py"))
    if file.stem not in ("__init__", "emitter", "fields", "sides", "table")
]
CONVERTERS = {
    name: value
    for family in FAMILIES
    for name, value in vars(family).items()
    if isfunction(value) and value.__module__ == family.__name__ and not name.startswith("_")
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_converter_has_its_line(name: str) -> None:
    there = CONVERTERS[name] in LAYERS.values()
    assert there, f"{name} has no line in convert/caffe/layers/table.py"


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_held_against_its_definition(kind: str) -> None:
    tried = {case.kind for cases in every_case().values() for case in cases}
    assert kind in tried or kind in ELSEWHERE, f"{kind} has no case in tests/convert/caffe"


def test_the_docs_list_every_layer() -> None:
    page = (ROOT / "docs/caffe.md").read_text()
    table = page[page.index("## Layers") : page.index("## A layer of your own")]
    rows = re.findall(r"^\| ([A-Za-z0-9, ]+) \|", table, re.MULTILINE)
    listed = {name.strip() for row in rows for name in row.split(",")} - {"layer"}
    lacking, beyond = LAYERS.keys() - listed, listed - LAYERS.keys()
    assert not lacking | beyond, f"docs/caffe.md lacks {sorted(lacking)}, and has {sorted(beyond)}"


@pytest.mark.parametrize("kind", DEPARTURES)
def test_the_docs_say_where_opencv_is_not_the_reference(kind: str) -> None:
    page = (ROOT / "docs/caffe.md").read_text()
    section = page[page.index("## Where OpenCV is not the reference") :]
    assert re.search(rf"\b{kind}\b", section), f"{kind} is not named there in docs/caffe.md"
