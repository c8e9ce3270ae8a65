"""Sums of products over named dimensions: a MatMul where they are one, else ONNX's Einsum.

Given   abc,cde->abde      Result   MatMul (a, b, c) (c, d e), reshaped to (a, b, d, e)
Given   aecd,abcd->acbe    Result   MatMul (a, c, e, d) (a, c, d, b), transposed
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from onnx import TensorProto

from onnxgraft.stages.convert.tensorflow.lower.writing import Value, Writer, replace, theirs

__all__ = ["einsum"]

# What onnxruntime multiplies as matrices.
_MULTIPLIED = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32,
    TensorProto.INT64,
)  # fmt: skip


def einsum(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write a MatMul, or Einsum with a letter for each dimension that ``...`` stands for."""
    terms, result = _spelled(
        node.get_attr_value("equation").decode(), map(ctx.get_rank, node.input)
    )
    if len(terms) == 2 and ctx.get_dtype(node.input[0]) in _MULTIPLIED:
        # What is constant multiplies from the right.
        order = [1, 0] if node.inputs[0].is_const() and not node.inputs[1].is_const() else [0, 1]
        sizes = _sizes(ctx, terms, node.input)
        first, second = order
        product = _Product.of(terms[first], terms[second], result)
        if product is not None and product.writable(sizes):
            replace(ctx, node, lambda w, x: product.write(w, x[first], x[second], sizes))
            return
    node.set_attr("equation", f"{','.join(terms)}->{result}")
    theirs(ctx, node)


def _spelled(equation: str, ranks: Any) -> tuple[list[str], str]:
    """Return the terms and the result in small letters, with no ``...`` where ranks are known."""
    equation = equation.replace(" ", "")
    letters = sorted(set(re.sub(r"\W", "", equation)), key=equation.index)
    if len(letters) <= len(string.ascii_lowercase):  # tf2onnx makes all of them small
        small = dict(zip(letters, string.ascii_lowercase, strict=False))
        equation = "".join(small.get(letter, letter) for letter in equation)
        letters = list(small.values())[: len(letters)]
    left, _, result = equation.partition("->")
    terms = left.split(",")
    more = [
        0 if "..." not in term else None if rank is None else rank - len(term) + 3
        for term, rank in zip(terms, ranks, strict=True)
    ]
    known = [count for count in more if count is not None]
    dims = "".join(c for c in string.ascii_lowercase if c not in letters)[: max(known, default=0)]
    if "..." not in equation or len(known) < len(more) or len(dims) < max(known):
        return terms, result
    spelled = [
        term.replace("...", dims[len(dims) - count :])
        for term, count in zip(terms, known, strict=True)
    ]
    return spelled, result.replace("...", dims)


def _sizes(ctx: Any, terms: Sequence[str], inputs: Sequence[str]) -> dict[str, int]:
    """Return how large the dimensions are that are fixed."""
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, inputs, strict=True):
        for letter, size in zip(term, ctx.get_shape(tensor) or (), strict=False):
            if size > 0:
                sizes[letter] = max(size, sizes.get(letter, 0))  # 1 is repeated
    return sizes


@dataclass(frozen=True)
class _Product:
    """Two terms whose product is one of matrices, by the parts of their dimensions.

    Attributes:
        first: The left term.
        second: The right term.
        result: What is left of both.
        batch: Dimensions of all three.
        left: Of the first term and the result.
        right: Of the second term and the result.
        inner: Of both terms, which are summed over.
    """

    first: str
    second: str
    result: str
    batch: str
    left: str
    right: str
    inner: str

    @classmethod
    def of(cls, first: str, second: str, result: str) -> _Product | None:
        """Return the product; None if it is none of matrices."""
        plain = all(len(set(term)) == len(term) and term.isalpha() for term in (first, second))
        both = [letter for letter in first if letter in second]
        batch = "".join(letter for letter in both if letter in result)
        inner = "".join(letter for letter in both if letter not in result)
        left = "".join(letter for letter in first if letter not in both)
        right = "".join(letter for letter in second if letter not in both)
        if not plain or not inner or sorted(result) != sorted(batch + left + right):
            return None
        return cls(first, second, result, batch, left, right, inner)

    def writable(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether the sizes that reshapes need are fixed."""
        if self.batch:
            return max(len(self.left), len(self.right), len(self.inner)) <= 1
        joined = [part for part in (self.inner, self.right) if len(part) > 1]
        return all(letter in sizes for part in joined for letter in part)

    def write(self, w: Writer, a: Value, b: Value, sizes: Mapping[str, int]) -> Value:
        """Write the product of the two values."""
        a = _ordered(a, self.first, self.batch + self.left + self.inner)
        b = _ordered(b, self.second, self.batch + self.inner + self.right)
        given = self.batch + self.left + self.right
        if self.batch:
            a = a if self.left else a.unsqueeze(-2)
            b = b if self.right else b.unsqueeze(-1)
            made = w.op("MatMul", a, b)
            gone = [axis for axis, part in ((-2, self.left), (-1, self.right)) if not part]
            made = made.squeeze(*gone) if gone else made
            return _ordered(made, given, self.result)
        summed = prod(sizes.get(letter, -1) for letter in self.inner)
        if len(self.inner) > 1:
            a = a.reshape(*[0] * len(self.left), summed)
        if len(self.inner) > 1 or len(self.right) > 1:
            b = b.reshape(summed, -1) if self.right else b.reshape(summed)
        made = w.op("MatMul", a, b)
        if len(self.right) > 1:
            made = made.reshape(*[0] * len(self.left), *(sizes[letter] for letter in self.right))
        return _ordered(made, given, self.result)


def _ordered(value: Value, given: str, wanted: str) -> Value:
    """Return a value whose dimensions are ``given`` in the order ``wanted``."""
    if given == wanted:
        return value
    return value.transpose(*(given.index(letter) for letter in wanted))
