"""What the docs list is what there is."""

import pytest
from docs import tables


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_is_as_the_code_says(name: str) -> None:
    there, wanted = (page.splitlines() for page in tables.text_of(name))
    lacking = [line for line in wanted if line not in there]
    beyond = [line for line in there if line not in wanted]
    cure = f"run make docs: docs/{tables.TABLES[name][0]} lacks {lacking}, and has {beyond}"
    assert there == wanted, cure
