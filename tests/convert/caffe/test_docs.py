import re

from onnxgraft.stages.convert.caffe import LAYERS
from tests.conftest import ROOT


def test_the_table_lists_every_layer() -> None:
    page = (ROOT / "docs/caffe.md").read_text()
    table = page[page.index("## Layers") : page.index("## A layer of your own")]
    rows = re.findall(r"^\| ([A-Za-z0-9, ]+) \|", table, re.MULTILINE)
    listed = {name.strip() for row in rows for name in row.split(",")} - {"layer"}
    assert listed == set(LAYERS)
