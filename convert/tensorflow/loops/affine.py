"""Affine forms: what a recurrent loop's body computes, as matrices.

What is linear - products with constants, splits, slices, concatenations, biases - is computed on
coefficient matrices, and what is not becomes an atom that later forms refer to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxgraft.graph.tensors import Array

__all__ = ["ACTIVATIONS", "ONE", "ZERO", "Atom", "Form", "NotExactError", "atom", "require", "row"]

# What ONNX's recurrent operators have that takes no parameter.
ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"})

ZERO: Array = np.zeros((), np.float32)
ONE: Array = np.ones((), np.float32)


class NotExactError(Exception):
    """The loop is no cell that ONNX has an operator for."""


def require(condition: bool) -> None:
    """Raise NotExactError unless ``condition`` holds."""
    if not condition:
        raise NotExactError


@dataclass(frozen=True, eq=False)
class Atom:
    """What is not linear in a loop's body, and what enters it.

    Attributes:
        kind: ``x``, ``state``, ``concat``, ``product``, ``clip``, or an activation's operator.
        parts: The forms that it is made of.
        values: The number of a state; the limits of a clip.
    """

    kind: str
    parts: tuple[Form, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Form:
    """The sum of atoms, each a row (batch, n), times a matrix, and a bias.

    Attributes:
        terms: For each atom its matrix (n, m), or a scalar that stands for a multiple of 1.
        bias: (m,), or a scalar; of a form without terms the constant itself, of any shape.
    """

    terms: dict[Atom, Array] = field(default_factory=dict)
    bias: Array = field(default_factory=lambda: ZERO)

    def times(self, factor: Array) -> Form:
        """Return the form times a scalar or a row, element by element."""
        require(factor.ndim == 0 or all(matrix.ndim == 2 for matrix in self.terms.values()))
        return Form({a: m * factor for a, m in self.terms.items()}, self.bias * factor)

    def plus(self, other: Form) -> Form:
        """Return the sum of two forms."""
        terms = dict(self.terms)
        for atom, matrix in other.terms.items():
            if atom in terms:
                require(matrix.ndim == terms[atom].ndim)
                matrix = terms[atom] + matrix
            terms[atom] = matrix
        return Form(terms, self.bias + other.bias)

    def matmul(self, kernel: Array) -> Form:
        """Return the form times a matrix of (width, outputs)."""
        require(kernel.ndim == 2)
        terms = {a: m * kernel if m.ndim == 0 else m @ kernel for a, m in self.terms.items()}
        return Form(terms, row(self.bias, kernel.shape[0]) @ kernel)

    def columns(self, start: int, stop: int | None) -> Form:
        """Return the columns from ``start`` to ``stop``."""
        atom, scale = self.single()
        if atom is not None and scale.ndim == 0 and atom.kind in (*ACTIVATIONS, "clip"):
            parts = tuple(part.columns(start, stop) for part in atom.parts)
            return Form({Atom(atom.kind, parts, atom.values): scale})
        require(all(matrix.ndim == 2 for matrix in self.terms.values()))
        terms = {a: m[:, start:stop] for a, m in self.terms.items()}
        return Form(terms, self.bias[start:stop] if self.bias.ndim else self.bias)

    def width(self) -> int:
        """Return how many values the form has."""
        sizes = {m.shape[1] for m in self.terms.values() if m.ndim == 2}
        atom, scale = self.single()
        if atom is not None and scale.ndim == 0 and atom.kind in (*ACTIVATIONS, "clip"):
            return atom.parts[0].width()
        require(len(sizes) == 1)
        return int(sizes.pop())

    def single(self) -> tuple[Atom | None, Array]:
        """Return the only atom and its factor, if there is no bias."""
        if len(self.terms) == 1 and not np.any(self.bias):
            return next(iter(self.terms.items()))
        return None, ZERO

    def equals(self, other: Form) -> bool:
        """Tell whether two forms are the same numbers."""
        return self.terms.keys() == other.terms.keys() and all(
            np.array_equal(mine, theirs)
            for mine, theirs in [
                (self.bias, other.bias),
                *((matrix, other.terms[atom]) for atom, matrix in self.terms.items()),
            ]
        )


def row(bias: Array, size: int) -> Array:
    """Return a bias as a row of ``size`` values."""
    require(bias.ndim <= 1 or bias.shape[:-1] == (1,) * (bias.ndim - 1))
    return np.broadcast_to(bias.reshape(-1) if bias.ndim else bias, (size,))


def atom(kind: str, *parts: Form, values: tuple[float, ...] = ()) -> Form:
    """Return a form of one atom: what is computed of ``parts`` and is not affine."""
    return Form({Atom(kind, parts, values): ONE})
