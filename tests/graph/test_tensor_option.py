"""The tensor lists and values of the command line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.errors import InputError
from onnxgraft.graph.tensor_option import TensorOption, parse_tensors, parse_values

# What a tensor may be called: TensorFlow's scopes, output numbers, ONNX's dots and dashes.
NAMES = st.text("abcXYZ019_/.:-*", min_size=1, max_size=12)
SHAPES = st.none() | st.lists(st.integers(-1, 4096), max_size=5).map(tuple)
OPTIONS = st.lists(st.builds(TensorOption, NAMES, SHAPES), min_size=1, max_size=4)


def written(option: TensorOption, free: str = "-1", space: str = "") -> str:
    """Return the option as a user writes it."""
    if option.shape is None:
        return option.name
    dims = f",{space}".join(free if dim == -1 else str(dim) for dim in option.shape)
    return f"{option.name}[{dims}]"


@given(OPTIONS)
def test_a_written_list_is_read_back(options: list[TensorOption]) -> None:
    assert parse_tensors(",".join(map(written, options))) == tuple(options)


@given(OPTIONS)
def test_spaces_and_question_marks_make_no_difference(options: list[TensorOption]) -> None:
    text = " , ".join(written(option, free="?", space=" ") for option in options)
    assert parse_tensors(f" {text} ") == tuple(options)


def test_no_list_is_no_tensors() -> None:
    assert parse_tensors(None) == ()


@pytest.mark.parametrize(
    "text",
    ["", ",", "a,,b", "a,", "a[1,2", "a]1[", "a[x]", "a[1.5]", "a b", "[1,2]", "a[1][2]", "a[1-2]"],
    ids=repr,
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"not a tensor|not a list of whole numbers"):
        parse_tensors(text)


@pytest.mark.parametrize("text", ["a[-2]", "a[1,-7]"])
def test_a_negative_size_other_than_minus_one_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_tensors(text)


@pytest.mark.parametrize("text", ["a[1,,2]", "a[,]", "a[,1]"])
def test_a_dimension_left_out_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_tensors(text)


@given(
    st.dictionaries(
        st.text("abc_/", min_size=1, max_size=6),
        st.booleans() | st.integers() | st.floats(allow_nan=False),
    )
)
def test_written_values_are_read_back_with_their_type(
    values: dict[str, bool | int | float],
) -> None:
    parsed = parse_values(f"{name}={value}" for name, value in values.items())
    assert parsed == values
    assert {k: type(v) for k, v in parsed.items()} == {k: type(v) for k, v in values.items()}


@pytest.mark.parametrize("word", ["true", "True", "TRUE", " true "])
def test_true_is_read_in_any_case(word: str) -> None:
    assert parse_values([f"is_training={word}"]) == {"is_training": True}


def test_the_output_number_of_a_placeholder_may_be_written() -> None:
    assert parse_values(["is_training:0=false"]) == {"is_training": False}


def test_an_infinity_is_a_number() -> None:
    assert parse_values(["limit=-inf"]) == {"limit": -math.inf}


@pytest.mark.parametrize("item", ["", "a", "=1", "a=", "a=yes", "a=1,2", "a==1"], ids=repr)
def test_what_is_no_value_is_refused_with_the_form(item: str) -> None:
    with pytest.raises(InputError, match="write NAME=VALUE with true, false or a number"):
        parse_values([item])
