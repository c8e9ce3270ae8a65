"""Mutations by schemas: they change something, and reach what bytes alone would break."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError

from onnxgraft.stages.convert.tflite.survey import UNIONS
from tests.fuzz import flat, messages
from tests.fuzz.readers import CORPUS

MOST = 1 << 14


def test_most_mutants_of_a_message_are_messages_and_each_is_another() -> None:
    data = (CORPUS / "onnx" / "body").read_bytes()
    made = [messages.mutated(data, onnx.ModelProto.DESCRIPTOR, MOST, seed) for seed in range(200)]
    assert made[:20] == [
        messages.mutated(data, onnx.ModelProto.DESCRIPTOR, MOST, seed) for seed in range(20)
    ]
    parsed = 0
    for mutant in filter(None, made):
        try:
            parsed += onnx.ModelProto.FromString(mutant).ByteSize() > 0
        except DecodeError:
            pass
    assert len({*made}) > 150
    assert parsed > 120


def test_a_caffemodel_is_walked_by_what_is_known_of_its_schema() -> None:
    data = (CORPUS / "caffemodel" / "plain").read_bytes()
    tree = messages._read(memoryview(data), messages.caffe_net(), 0)
    names = {kind.name for _, kind in messages._lists(tree, messages.caffe_net())}
    assert names == {"BlobProto", "BlobShape", "LayerParameter", "NetParameter"}


def test_a_flatbuffer_is_walked_by_its_schema() -> None:
    pytest.importorskip("tensorflow")
    data = (CORPUS / "tflite" / "branches").read_bytes()
    places = list(flat._places(data))
    assert {place.what for place in places} == {"length", "number", "offset", "vtable"}
    assert len(places) > 200
    made = [flat.mutated(data, MOST, seed) for seed in range(100)]
    assert len({*made}) > 95
    assert all(mutant is not None and len(mutant) <= len(data) for mutant in made)


def test_a_flatbuffer_cut_off_anywhere_is_still_mutated() -> None:
    pytest.importorskip("tensorflow")
    data = (CORPUS / "tflite" / "branches").read_bytes()
    for end in range(8, len(data), 7):
        places = list(flat._places(data[:end]))
        assert all(place.at + struct.calcsize(place.code) <= end for place in places)


def test_every_union_of_the_schema_is_known() -> None:
    pytest.importorskip("tensorflow")
    source = Path(flat.schema().__file__).read_text()
    found = set(re.findall(r"def (\w+)\(self\):(?:(?!\n    def ).)*?\.Union\(obj", source, re.S))
    assert found == set(UNIONS)
    enumerations: Any = flat.schema()
    assert all(hasattr(enumerations, name) for name in UNIONS.values())
