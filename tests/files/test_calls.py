"""Functions that call each other are counted before a library writes them out."""

from __future__ import annotations

import pytest

from onnxgraft.errors import ModelError
from onnxgraft.files.calls import check_calls


def doubling(levels: int) -> dict[str, list[str]]:
    return {"f0": ["Relu"]} | {f"f{i}": [f"f{i - 1}"] * 2 for i in range(1, levels)}


def test_functions_that_call_the_one_before_twice_are_counted_as_often_as_they_run() -> None:
    check_calls(["f15"], doubling(16), "x:")
    with pytest.raises(ModelError, match=r"x: has 393,214 nodes, at most 250,000 are read"):
        check_calls(["f17"], doubling(18), "x:")
    with pytest.raises(ModelError, match="nodes, at most 250,000 are read"):
        check_calls(["Relu"], doubling(28), "x:")  # a function that nothing calls, too


def test_a_function_that_calls_itself_is_refused() -> None:
    with pytest.raises(ModelError, match="one of its functions calls itself"):
        check_calls(["a"], {"a": ["b"], "b": ["Relu", "a"]}, "x:")


def test_functions_that_share_another_call_it_without_harm() -> None:
    check_calls(["a", "b"], {"a": ["c"], "b": ["c", "a"], "c": ["Relu"]}, "x:")


def test_a_chain_of_functions_has_a_limit_of_levels() -> None:
    chain = {f"f{i}": [f"f{i + 1}"] for i in range(2000)}
    with pytest.raises(ModelError, match="levels of functions that call each other, at most 100"):
        check_calls(["f0"], chain, "x:")
