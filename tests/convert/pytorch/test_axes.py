"""Operators along axes, pools and distances that are written here, held against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.tensors import Array
from tests.convert.pytorch.comparing import both, module, of_program

torch = pytest.importorskip("torch")
nn: Any = torch.nn.functional

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 5, 11)).astype(np.float32)
# Equal ones, both infinities, and 0 with its sign; without NaN.
TIES = np.array([[3, 3, -np.inf, 3, np.inf, 0, np.inf], [0, -0.0, 0, 1, 1, -1, 0]], np.float32)
NAN = np.array([[1, np.nan, 3, 2, np.nan, 9, 0], [2, 1, 0, 1, 2, 3, 4]], np.float32)
WHOLE = rng.integers(-4, 5, (3, 7))


def same(call: Callable[..., Any], *feeds: Array, tolerance: float = 0.0) -> None:
    """Hold outputs against PyTorch's: the same types and shapes, and the same numbers."""
    wanted, found = both(call, *feeds)
    assert len(wanted) == len(found)
    for right, made in zip(wanted, found, strict=True):
        assert (made.dtype, made.shape) == (right.dtype, right.shape)
        np.testing.assert_allclose(made, right, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("x", [X, TIES, NAN, WHOLE], ids=["normal", "ties", "nan", "whole"])
@pytest.mark.parametrize("kind", ["cummax", "cummin"])
def test_the_most_so_far_and_the_last_place_that_has_it(kind: str, x: Array) -> None:
    same(
        lambda x, y: [
            part for axis in (-1, x.ndim - 1) for part in getattr(torch, kind)(x, axis)
        ],
        x, x,
    )  # fmt: skip


def test_products_of_all_before_are_pytorch_s() -> None:
    same(lambda x, y: [x.cumprod(2), x.cumprod(-2)], X, X, tolerance=1e-6)
    same(lambda x, y: [x.cumprod(1), (x > 0).cumprod(1), x.int().cumprod(1)], WHOLE, WHOLE)


def test_products_overflow_where_pytorch_s_do_and_nowhere_else() -> None:
    x = np.float32([[1e-30, 1e30, 1e30, 1e-30, 1e-30, 0, 2], [1e30, 1e30, 1e-38, 1, 0, 3, -1]])
    same(lambda x, y: x.cumprod(1), x, x, tolerance=1e-6)


@pytest.mark.parametrize("kind", ["cumprod", "cummax", "cummin"])
def test_what_goes_along_an_axis_of_any_size_is_refused(kind: str) -> None:
    # The first axis is free where a module is converted with examples.
    net = module(lambda x, y: [*getattr(x, kind)(0)] if kind != "cumprod" else x.cumprod(0))
    with pytest.raises(ModelError, match="an axis of any size; export it with a fixed one"):
        commands.convert((net, (torch.ones(2, 5),) * 2))


@pytest.mark.parametrize("x", [X, TIES, WHOLE[:, :6].copy()], ids=["odd", "ties", "even and whole"])
def test_medians_and_kth_values_are_pytorch_s(x: Array) -> None:
    same(
        lambda x, y: [
            x.median(), x.median(-1).values, x.median(0, keepdim=True).values,
            x.kthvalue(2, -1).values, x.kthvalue(1, 0, keepdim=True).values,
        ],
        x, x,
    )  # fmt: skip


def test_the_median_of_a_row_with_nan_is_nan() -> None:
    same(lambda x, y: [x.median(), *x.median(1), x.median(0).values], NAN, NAN)


def test_nan_is_larger_than_all_that_are_counted() -> None:
    same(lambda x, y: [part for k in (1, 3, 6, 7) for part in x.kthvalue(k, 1)], NAN[:1], NAN)


def test_where_a_median_is_is_told() -> None:
    same(lambda x, y: [x.median(1).indices, x.kthvalue(3, 2, keepdim=True).indices], X, X)


def test_a_mask_selects_of_what_both_make_together() -> None:
    same(
        lambda x, y: [
            x.masked_select(x > 0), x.masked_select(y[0] > 0), x[:, :1].masked_select(y > 1),
            (x > y).masked_select(x > 0),
        ],
        X, X[::-1].copy(),
    )  # fmt: skip


@pytest.mark.parametrize("right", [False, True])
def test_places_in_sorted_rows_are_pytorch_s(right: bool) -> None:
    rows = np.sort(np.float32([[-1, 0, 0, 2], [3, 3, 3, 9], [0, 1, 2, 3]]))
    values = np.float32([[0, 2, -5, 10, np.nan], [3, 9, 4, np.inf, 0], [3, 3.5, 0, -0.0, 1]])
    same(
        lambda x, y: [
            torch.searchsorted(x.sort().values, y, right=right),
            torch.searchsorted(torch.tensor([-1.0, 0, 0, 2]), y, right=right),
            torch.searchsorted(
                x.sort().values, y, out_int32=True, side="right" if right else "left"
            ),
        ],
        rows, values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "picture"),
    [((5, 3), (13, 14)), ((1, 4), (7, 10)), ((3, 5), (2, 3)), ((7, 7), (14, 14))],
    ids=["overlapping", "one row", "more than there are", "dividing"],
)
def test_adaptive_pools_are_pytorch_s(size: tuple[int, ...], picture: tuple[int, ...]) -> None:
    x = rng.standard_normal((2, 3, *picture)).astype(np.float32)
    same(lambda x, y: nn.adaptive_max_pool2d(x, size), x, x)
    same(lambda x, y: list(nn.adaptive_max_pool2d(x, size, return_indices=True)), x, x)
    same(lambda x, y: nn.adaptive_max_pool1d(x[0], size[0]), x, x)
    same(lambda x, y: nn.adaptive_avg_pool3d(x, (2, *size)), x, x, tolerance=1e-6)
    same(lambda x, y: nn.adaptive_avg_pool3d(x[None], (None, *size)), x, x, tolerance=1e-6)
    same(lambda x, y: list(nn.adaptive_max_pool3d(x[None], (2, *size), return_indices=True)), x, x)


def test_a_pool_of_the_whole_picture_takes_any_size(tmp_path: Path) -> None:
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("rows", min=2)}
    net = module(
        lambda x, y: [nn.adaptive_avg_pool3d(x[:, :, None], 1), *nn.adaptive_max_pool2d(x, 1, True)]
    )
    x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    program = torch.export.export(
        net, (torch.from_numpy(x),) * 2, dynamic_shapes=[free, free], strict=False
    )
    wanted, found = of_program(program, tmp_path / "net.pt2", x, x)
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_allclose(made, right, rtol=1e-6)


def test_an_infinite_value_is_in_its_own_windows_alone() -> None:
    x = rng.standard_normal((1, 2, 7, 9, 8)).astype(np.float64)
    x[0, 0, 3, 4, 4], x[0, 1, 0, 0, 0] = np.inf, np.nan
    same(lambda x, y: nn.adaptive_avg_pool3d(x, (3, 4, 3)), x, x, tolerance=1e-12)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.5, float("inf")])
def test_distances_of_rows_are_pytorch_s(p: float) -> None:
    many = rng.standard_normal((2, 30, 4)).astype(np.float32)
    other = rng.standard_normal((2, 5, 4)).astype(np.float32)
    # Of many rows PyTorch's, too, are a small difference of large sums.
    same(lambda x, y: torch.cdist(x, y, p), many, other, tolerance=2e-6 if p != 2 else 2e-5)
    same(lambda x, y: torch.cdist(x[:, :3], y[:1], p), many, other, tolerance=2e-6)


def test_numbers_that_are_none_are_told_of_whole_ones_too() -> None:
    same(lambda x, y: [x.isnan(), x.isinf(), x.isfinite(), x.half().isfinite()], TIES, NAN)
    same(lambda x, y: [y.isnan(), y.isinf(), y.isfinite(), y.double().isinf()], TIES, NAN)
    same(lambda x, y: [x.isnan(), x.isinf(), x.isfinite(), (x > 0).isnan()], WHOLE, WHOLE)


def test_angles_are_pytorch_s() -> None:
    same(lambda x, y: [x.angle(), y.angle(), y.half().angle()], TIES, NAN, tolerance=1e-7)
    same(lambda x, y: [x.angle(), x.int().angle(), (x > 0).angle()], WHOLE, WHOLE, tolerance=1e-7)


def test_a_softmax_of_another_type_is_computed_in_it() -> None:
    same(
        lambda x, y: [
            x.softmax(1, dtype=torch.float32), x.log_softmax(0, dtype=torch.float64),
            y.float().softmax(-1), y.float().log_softmax(0), y[0, 0].float().softmax(0),
            y.half().softmax(-1, dtype=torch.float32),
        ],
        WHOLE, WHOLE,
        tolerance=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_a_size_that_is_computed_of_another_is_refused_by_it(
    twice: bool, trust: bool, tmp_path: Path
) -> None:
    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return torch.cat([x, x]) + y if twice else x + y[1:]

    size = torch.export.Dim("size", min=2, max=64)
    rows = 2 * size if twice else size + 1
    example = torch.zeros(3, 4), torch.zeros(6 if twice else 4, 4)
    program = torch.export.export(Net(), example, dynamic_shapes=({0: size}, {0: rows}))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(NotSupportedError, match=r"size of an input is (2\*s\d+|s\d+ \+ 1), comp"):
        commands.convert(tmp_path / "net.pt2", trust=trust)
