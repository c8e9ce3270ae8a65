"""The expressions of sizes in a .pt2: PyTorch evaluates them as Python, so only sums are let in."""

from __future__ import annotations

import ast
import re

from onnxgraft.errors import ModelError

__all__ = ["check_expression"]

_LONGEST = 4096
_LARGEST = 1 << 63
# Powers can say large numbers in few words; sizes are polynomials of a low degree.
_POWERS, _EXPONENT = 8, 8
_SYMBOL = re.compile(r"[a-z]+_?\d+")
# What SymPy writes, in both of its ways, and what PyTorch adds.
_CALLS = frozenset({
    "Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Equality", "Float", "FloatTrueDiv",
    "FloorDiv", "FloorToInt", "GreaterThan", "Identity", "IntTrueDiv", "Integer", "LessThan", "Max",
    "Min", "Mod", "ModularIndexing", "Mul", "Not", "Or", "Pow", "PowByNatural", "PythonMod",
    "Rational", "RoundToInt", "StrictGreaterThan", "StrictLessThan", "Symbol", "ToFloat",
    "TruncToFloat", "TruncToInt", "Unequality", "Where", "ceiling", "floor",
})  # fmt: skip
_NAMES = frozenset({"false", "int_oo", "oo", "true"})
_GRAMMAR = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop, ast.Load,
)  # fmt: skip


def check_expression(where: str, text: str) -> None:
    """Raise ModelError if an expression is anything but arithmetic of symbols and numbers."""
    try:
        if len(text) > _LONGEST:
            raise ValueError
        _check(ast.parse(text, mode="eval"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ModelError(
            f"{where}: the size {text[:80]!r} is no sum of symbols and numbers; PyTorch would run "
            "it as a program"
        ) from None


def _check(tree: ast.AST) -> None:
    """Raise ValueError at what is not let in."""
    words: set[ast.AST] = set()  # strings that are symbols' names, and functions' names
    powers = 0
    for node in ast.walk(tree):
        if node in words or isinstance(node, _GRAMMAR):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                powers += _power(node.right)
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name not in _CALLS:
                raise ValueError
            words.add(node.func)
            if name in ("Symbol", "Float") and node.args:
                words.add(_word(node.args[0]))
            if name in ("Pow", "PowByNatural") and len(node.args) == 2:
                powers += _power(node.args[1])
        elif isinstance(node, ast.keyword):
            if not isinstance(node.value, ast.Constant):
                raise ValueError
        elif isinstance(node, ast.Name):
            if node.id not in _NAMES and not _SYMBOL.fullmatch(node.id):
                raise ValueError
        elif not isinstance(node, ast.Constant) or not isinstance(node.value, int | float):
            raise ValueError
        elif abs(node.value) > _LARGEST:
            raise ValueError
    if powers > _POWERS:
        raise ValueError


def _word(node: ast.AST) -> ast.AST:
    """Return a string that holds a symbol's name or a number."""
    if isinstance(node, ast.Constant) and re.fullmatch(r"[\w.+-]{1,64}", str(node.value)):
        return node
    raise ValueError


def _power(node: ast.AST) -> int:
    """Return 1 if an exponent is a small number."""
    if isinstance(node, ast.Call) and len(node.args) == 1:
        node = node.args[0]  # Integer(2)
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        if abs(node.value) <= _EXPONENT:
            return 1
    raise ValueError
