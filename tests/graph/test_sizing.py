"""Inputs that sizes are computed of, which no large numbers may be fed to."""

import pytest

from onnxgraft.graph.sizing import inputs_that_size
from tests.conftest import model_of


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Reshape(x, n)", {"n"}),
        ("m = Mul(n, n)  y = Expand(x, m)", {"n"}),
        ("f = Cast<to = 1>(n)  g = Floor(f)  m = Cast<to = 7>(g)  y = Tile(x, m)", {"n"}),
        (("y = If (c) <then_branch = a () => (float[M] p) { p = Reshape(x, n) },"
         " else_branch = b () => (float[M] q) { q = Identity(x) }>"), {"c", "n"}),
        ("f = Cast<to = 1>(n)  y = Mul(x, f)", set()),
        ("q = Shape(n)  y = Expand(x, q)", set()),
        ("i = Unsqueeze(n, a)  y = Reshape(x, s)", set()),
    ],
    ids=["shape", "computed", "by way of floats", "before a body", "a factor", "its shape alone",
         "another's shape"],
)  # fmt: skip
def test_inputs_that_size_are_found(body: str, expected: set[str]) -> None:
    model = model_of(
        f"net (float[N] x, int64[1] n, bool c) => (float[M] y)"
        f" <int64[1] a = {{0}}, int64[1] s = {{-1}}> {{ {body} }}"
    )
    assert inputs_that_size(model.graph) == expected
