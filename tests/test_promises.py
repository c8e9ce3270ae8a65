"""The faults that `make broken-promises` plants are still those of the code."""

from __future__ import annotations

import ast

import pytest

from tests.conftest import ROOT
from tests.promises import PROMISES, Promise


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.words)
def test_a_promise_has_a_test_and_one_place_where_it_is_kept(promise: Promise) -> None:
    text = (ROOT / promise.file).read_text()
    assert text.count(promise.kept) == 1
    broken = text.replace(promise.kept, promise.broken)
    if promise.file.endswith(".py"):
        ast.parse(broken)
    assert broken != text
    file, _, name = promise.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()
