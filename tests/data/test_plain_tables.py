"""Tables of recipes are read without pydantic as pydantic reads them."""

import json
import subprocess
import sys
from typing import Any

import pytest

from onnxgraft.data.boxes import BoxForm
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.presets import PRESETS

TABLES = {"BoxForm": BoxForm, "Preprocess": Preprocess, "Postprocess": Postprocess}
# What a key may be given, right and wrong; each is tried at each key.
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 255, 256, -1, 0.5, 1.0, 1.5, 3.0, 1e9, "input", "auto", "bgr",
    "rgb", "camvid", "yolov5", "boxes", "bilinear", "keras", "no such thing", "f.py:f", "", [], [1],
    [1, 2], [1.0, 2.0], [1.5, 2], [0, 0, 1, 1], [-1, 0, 1, 1], [True, 2], [1, 2, 3], ["a", "b"],
    [[1, 2]], [[1, 2], [3, 4]], [[1, 2], [3, 4], [5, 6]], [[0, 1]], [[1]], [None], {}, {"a": 1},
    {"name": "f.py:f", "sha256": "0"},
]  # fmt: skip
TOGETHER = [
    ("Preprocess", {"letterbox": True}),
    ("Preprocess", {"letterbox": True, "resize": [4, 4]}),
    ("Preprocess", {"resize": [4, 4], "shorter_side": 4}),
    ("Preprocess", {"crop": [0, 0, 1, 1], "center_crop": [1, 1]}),
    ("Preprocess", {"antialias": True, "interpolation": "area"}),
    ("Preprocess", {"function": "f.py:f", "mean": 1}),
    ("Preprocess", {"function": "f.py:f", "color": "bgr"}),
    ("Preprocess", {"preset": "torch-imagenet", "resize": [8, 8], "mean": [1, 2, 3]}),
    ("Preprocess", {"no_such_key": 1}),
    ("Postprocess", {"names": ["a"], "classes": "camvid"}),
    ("Postprocess", {"strides": [8], "anchors": [[1, 2]]}),
    ("Postprocess", {"strides": [8, 8], "anchors": [[1, 2], [3, 4]]}),
    *(("Preprocess", {"preset": name}) for name in PRESETS),
    *(("Preprocess", Preprocess(preset=name).model_dump(mode="json")) for name in PRESETS),
    ("Postprocess", Postprocess(names=("a",), score=0.5).model_dump(mode="json")),
]  # fmt: skip
CASES = [
    *TOGETHER,
    *((n, {k: v}) for n, t in TABLES.items() for k in t.model_fields for v in VALUES),
]
READ = """
def read(tables, cases):
    made = []
    for name, given in cases:
        try:
            table = tables[name].model_validate(given)
        except ValueError:
            made.append(None)
            continue
        values = {key: repr(getattr(table, key)) for key in tables[name].__annotations__}
        made.append([values, sorted(table.model_fields_set)])
    return made
"""
WITHOUT = f"""
import json, sys
sys.modules["pydantic"] = sys.modules["pydantic_core"] = None
from onnxgraft.data.boxes import BoxForm
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
{READ}
tables = {{table.__name__: table for table in (BoxForm, Preprocess, Postprocess)}}
print(json.dumps(read(tables, json.load(sys.stdin))))
"""


def test_both_readings_take_and_refuse_the_same() -> None:
    here: dict[str, Any] = {}
    exec(READ, here)
    wanted = here["read"](TABLES, CASES)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], input=json.dumps(CASES), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    differ = [(case, a, b) for case, a, b in zip(CASES, wanted, made, strict=True) if a != b]
    assert not differ, differ[:5]
    taken = sum(table is not None for table in wanted)
    assert 200 < taken < len(CASES) - 500  # both kinds were met


@pytest.mark.parametrize("name", TABLES)
def test_every_key_is_tried(name: str) -> None:
    assert {key for n, given in CASES for key in given if n == name} >= set(
        TABLES[name].model_fields
    )
