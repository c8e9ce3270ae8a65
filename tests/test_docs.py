"""What the docs list is what there is."""

import pytest
from docs import tables

from tests.conftest import ROOT


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_is_as_the_code_says(name: str) -> None:
    there, wanted = tables.text_of(name)
    assert there == wanted, f"run make docs: the table {name} in docs/{tables.TABLES[name][0]}"


def test_every_caffe_layer_is_in_its_table() -> None:
    from onnxgraft.stages.convert.caffe.layers.table import LAYERS

    page = (ROOT / "docs/caffe.md").read_text(encoding="utf-8")
    assert not [name for name in LAYERS if f"`{name}`" not in page and name not in page]
