"""Operators that are written here and not by PyTorch's exporter, held against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.pytorch import exporting
from onnxgraft.stages.convert.pytorch.operators import operators
from tests.convert.pytorch.comparing import both, module, of_program

torch = pytest.importorskip("torch")

MAGNITUDES = [1e-30, 1e-10, 1e-5, 0.1, 0.3, 0.5, 0.7, 1, 2.5, 3, 20, 87, 100, 1e4, 1e8]
WIDE = np.array([0, *MAGNITUDES, *(-v for v in MAGNITUDES), np.inf, -np.inf], np.float32)
# Beyond what float32 counts, and nearly the lowest of all.
WHOLE = np.array([
    0,
    1,
    -1,
    7,
    -7,
    2**24 + 1,
    -(2**24) - 1,
    2**30 + 1,
    -(2**30) - 1,
    2**31 - 1,
    1 - 2**31,
])


def pairs(values: Array, others: Array) -> tuple[Array, Array]:
    first, second = np.meshgrid(values, others)
    return first.ravel(), second.ravel()


def test_functions_of_one_value_are_pytorch_s_near_0_and_far_away() -> None:
    nn = torch.nn.functional
    wanted, found = both(
        lambda x, y: [
            torch.log1p(x), torch.expm1(x), nn.logsigmoid(x), x % 3, x % -0.7, 5 % x, x // 0.3,
            nn.binary_cross_entropy_with_logits(x, (y > 0).float(), reduction="none"),
        ],
        WIDE, WIDE,
    )  # fmt: skip
    for number, (right, made) in enumerate(zip(wanted, found, strict=True)):
        # Relative, so that small values near 0 count.
        np.testing.assert_allclose(made, right, rtol=2e-6, atol=1e-37, err_msg=str(number))


def test_functions_of_two_values_are_pytorch_s_near_0_and_far_away() -> None:
    x, y = pairs(np.append(WIDE, np.float32(-0.0)), WIDE)
    wanted, found = both(
        lambda x, y: [
            torch.logaddexp(x, y), torch.logaddexp2(x, y), torch.atan2(x, y),
            torch.remainder(x, y), torch.div(x, y, rounding_mode="floor"), torch.floor_divide(x, y),
            torch.div(x, y, rounding_mode="trunc"), torch.div(x, y, rounding_mode=None),
        ],
        x, y,
    )  # fmt: skip
    for number, (right, made) in enumerate(zip(wanted, found, strict=True)):
        # A log of a sum of about 1 is a small difference of two numbers, in PyTorch too.
        absolute = 1e-6 if number < 2 else 1e-37
        np.testing.assert_allclose(made, right, rtol=2e-6, atol=absolute, err_msg=str(number))


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_whole_numbers_are_divided_as_whole_numbers(kind: str) -> None:
    x, y = pairs(WHOLE, np.array([2, 3, -3, 7, -(2**24)]))
    wanted, found = both(
        lambda x, y: [
            torch.div(x, y, rounding_mode="floor"), torch.div(x, y, rounding_mode="trunc"),
            x // y, x // 3, torch.remainder(x, y), torch.div(x, 3, rounding_mode="floor"),
            x.floor(), x.ceil(), x.round(), x.trunc(), x.amax(), x.amin(0, keepdim=True),
        ],
        x.astype(kind), y.astype(kind),
    )  # fmt: skip
    for number, (right, made) in enumerate(zip(wanted, found, strict=True)):
        assert made.dtype == right.dtype
        np.testing.assert_array_equal(made, right, err_msg=str(number))


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64"])
def test_bits_are_shifted_as_pytorch_shifts_them(kind: str) -> None:
    limits = np.iinfo(kind)
    values = np.array([limits.min, limits.min + 1, -1, 0, 1, 3, 100, limits.max], np.int64)
    x, y = pairs(values.astype(kind), np.array([0, 1, 3, 7, 8, 31, 63, 64, 100]).astype(kind))
    wanted, found = both(
        lambda x, y: [x >> 1, x << 1, x >> y, x << y, (x >> 4) * 3, (x << 2).float(), x >> 70],
        x, y,
    )  # fmt: skip
    for number, (right, made) in enumerate(zip(wanted, found, strict=True)):
        assert made.dtype == right.dtype
        np.testing.assert_array_equal(made, right, err_msg=str(number))


def test_a_result_of_another_type_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # What PyTorch's exporter itself makes of a shift of uint8 is int8.
    monkeypatch.setattr(exporting, "operators", dict)
    values = torch.arange(6, dtype=torch.uint8)
    done = commands.convert((module(lambda x, y: x >> 1), (values, values)))
    assert not done.passed
    assert done.verdicts[0].note == "output is uint8 in the original and int8 in the candidate"


def test_a_network_that_draws_random_numbers_is_told() -> None:
    values = torch.arange(6.0)
    net = module(lambda x, y: [x + torch.rand_like(x), x * y])
    done = commands.convert((net, (values, values)))
    (note,) = [note for note in done.notes if "random numbers" in note]
    assert note.startswith("output.0: the original itself gives other values")
    assert done.passed


def test_an_output_that_is_constant_has_an_output_s_name() -> None:
    values = np.arange(6, dtype=np.float32)
    wanted, found = both(
        lambda x, y: [x + y, torch.arange(3), torch.full_like(x, 3.0), torch.arange(3)],
        values, values,
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)


def test_two_pairs_of_limits_of_one_tensor_are_kept_apart() -> None:
    def call(x: Any, y: Any) -> Any:
        limits = [(-1.0, 1.0), (-2.0, 3.0), (-1.0, 4.0)]
        return [
            torch.minimum(torch.maximum(x, torch.tensor(low)), torch.tensor(high)) + y
            for low, high in limits
        ]

    values = np.linspace(-5, 5, 41, dtype=np.float32)
    wanted, found = both(call, values, np.zeros_like(values))
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)


def test_sizes_and_signs_are_pytorch_s_near_0_and_far_away() -> None:
    x, y = pairs(np.append(WIDE, np.float32(-0.0)), WIDE)
    x[::7] = np.nan
    wanted, found = both(
        lambda x, y: [
            torch.fmax(x, y), torch.fmin(y, x), torch.copysign(x, y), torch.copysign(x, -0.0),
            torch.hypot(torch.nan_to_num(x, 0, np.inf, -np.inf), y),
        ],
        x, y,
    )  # fmt: skip
    for number, (right, made) in enumerate(zip(wanted, found, strict=True)):
        np.testing.assert_allclose(
            made, right, rtol=2e-6 if number == 4 else 0, err_msg=str(number)
        )
        if number in (2, 3):
            numbers = ~np.isnan(right)
            np.testing.assert_array_equal(np.signbit(made[numbers]), np.signbit(right[numbers]))


def test_a_number_is_put_where_indices_say() -> None:
    wanted, found = both(
        lambda x, y: [x.scatter(1, y, 2.5), x.scatter(-1, y, -1), x[0].scatter(0, y[0, 0], 9)],
        np.arange(12, dtype=np.float32).reshape(3, 4), np.array([[0, 2], [1, 1], [2, 0]]),
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)


def test_matrices_of_whole_numbers_are_multiplied_and_added() -> None:
    x = np.arange(-6, 6).reshape(3, 4)
    wanted, found = both(
        lambda x, y: [
            torch.addmm(y, x, x.T), torch.addmm(y[0], x, x.T, beta=2, alpha=-3),
            torch.addmm(y.float(), x.float(), x.T.float(), alpha=0.5),
        ],
        x, np.arange(9).reshape(3, 3),
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)


def test_a_pool_has_the_divisor_that_it_is_given() -> None:
    pool2d, pool3d = torch.nn.functional.avg_pool2d, torch.nn.functional.avg_pool3d
    wanted, found = both(
        lambda x, y: [
            pool2d(x, 3, 2, 1, divisor_override=4), pool2d(x, (2, 3), divisor_override=5),
            pool2d(x, 3, 2, 1, count_include_pad=False), pool2d(x, 3),
            pool3d(x, 2, 1, divisor_override=3) + y[0, 0, 0, 0],
        ],
        *np.random.default_rng(2).standard_normal((2, 2, 3, 8, 9)).astype(np.float32),
    )  # fmt: skip
    for number, (right, made) in enumerate(zip(wanted, found, strict=True)):
        np.testing.assert_allclose(made, right, rtol=1e-5, atol=1e-6, err_msg=str(number))


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_the_mean_of_what_is_put_to_a_place(kind: str) -> None:
    def call(x: Any, y: Any) -> Any:
        index = torch.tensor([[0, 1, 3], [0, 1, 3], [0, 1, 1], [0, 0, 0]])
        return [
            x.scatter_reduce(0, index, y, how, include_self=own)
            for how in ("mean", "amax")
            for own in (True, False)
        ]

    x, y = (np.random.default_rng(n).integers(-9, 9, (4, 3)).astype(kind) for n in (1, 2))
    wanted, found = both(call, x, y)
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_allclose(made, right, rtol=1e-6)


def test_roundings_and_the_largest_are_pytorch_s() -> None:
    values = np.array([[-2.5, -1.5, -0.5, -0.4, 0.5, 1.5], [2.5, 3.7, -3.7, 0, 7, -8]], np.float32)
    wanted, found = both(
        lambda x, y: [
            x.floor(), x.ceil(), x.round(), x.trunc(), x.amax(), x.amin(), x.amax(1),
            x.amin((0, 1), keepdim=True), x.amax(-1, keepdim=True),
        ],
        values, values,
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)


def test_equal_values_are_sorted_in_their_order() -> None:
    values = np.array([[1, 1, 0, 1, 2, 2, 0, 1], [3, 3, 3, 3, 3, 3, 3, 3]], np.float32)
    wanted, found = both(
        lambda x, y: [
            *torch.sort(x, stable=True), *torch.sort(x, stable=True, descending=True, dim=0),
            torch.argsort(x, stable=True, descending=True), *torch.sort(y, stable=True),
        ],
        values, values.astype(np.int64) + 2**24,
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)


@pytest.mark.parametrize("dim", [0, 1, -2])
def test_sums_of_exponentials_up_to_each_place_do_not_overflow(dim: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 3)).astype(np.float32) * 100
    wanted, found = both(lambda x, y: torch.logcumsumexp(x, dim) + y, values, values)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5)


def test_less_may_be_scattered_than_there_is() -> None:
    rng = np.random.default_rng(0)
    into, source = (rng.normal(size=(4, 6)).astype(np.float32) for _ in "ab")
    index = torch.stack([torch.randperm(6)[:2] for _ in range(3)])
    wanted, found = both(lambda x, y: x.scatter(1, index, y), into, source)
    np.testing.assert_array_equal(found[0], wanted[0])


def test_what_a_mask_hides_whole_attends_to_nothing() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    shown = np.array([[True, False, True], [False] * 3, [True] * 3])
    added = np.where(shown, rng.normal(size=(3, 3)), -np.inf).astype(np.float32)
    attention = torch.nn.functional.scaled_dot_product_attention
    for mask in (shown, added):
        wanted, found = both(lambda x, m: attention(x, x + 1, 2 * x, attn_mask=m), values, mask)
        assert not wanted[0][:, :, 1].any()
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5)


def test_int32_is_an_index_too() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 6, 3)).astype(np.float32)
    wanted, found = both(
        lambda x, y: [x[y], x[:, y], x[y, y], x[torch.tensor([[0, 1]]), y], x[x[:, 0, 0] > 0]],
        values, np.array([2, -1], np.int32),
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)


@pytest.mark.parametrize("name", ["erfcx", "log_ndtr"])
def test_what_would_overflow_is_refused_by_its_name(name: str) -> None:
    call = getattr(torch.special, name)
    with pytest.raises(NotSupportedError, match=f"ONNX has no aten.special_{name}"):
        both(lambda x, y: call(x) + y, WIDE, WIDE)


def test_doubles_are_computed_as_doubles() -> None:
    nn, values = (
        torch.nn.functional,
        np.array([0, *MAGNITUDES[:-1], *(-v for v in MAGNITUDES[:-1])]),
    )
    wanted, found = both(
        lambda x, y: [
            torch.log1p(x.abs()), torch.log1p(x.clamp(-0.5, 0.5)), nn.logsigmoid(x),
            torch.expm1(-x.abs()), torch.logaddexp(x, y), x % 0.7, x // 0.3, x * 0.7,
        ],
        values, values[::-1].copy(),
    )  # fmt: skip
    for number, (right, made) in enumerate(zip(wanted, found, strict=True)):
        assert made.dtype == right.dtype == np.float64
        np.testing.assert_allclose(made, right, rtol=1e-12, atol=1e-300, err_msg=str(number))


def test_whole_numbers_beside_a_fraction_are_floats() -> None:
    values = np.arange(-9, 9)
    wanted, found = both(
        lambda x, y: [x // 0.7, x % 0.7, torch.div(x, 0.7, rounding_mode="floor"), x / 3, y + 0.5],
        values, values.astype(np.int32),
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        assert made.dtype == right.dtype
        np.testing.assert_allclose(made, right, rtol=1e-6, atol=1e-6)


def test_sums_of_halves_are_halves() -> None:
    values = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
    wanted, found = both(
        lambda x, y: [x.sum(1), x.cumsum(0), x.prod(), x.amax(1), x.sum(1, keepdim=True) + y],
        values, values,
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        assert made.dtype == right.dtype == np.float16
        np.testing.assert_allclose(made, right, rtol=2e-3, atol=1e-3)


def test_half_precision_is_kept() -> None:
    values = np.linspace(-9, 9, 40).astype(np.float16)
    wanted, found = both(
        lambda x, y: [torch.log1p(x * x), torch.nn.functional.logsigmoid(x), x // 2, x % 3, x + y],
        values, values,
    )  # fmt: skip
    for right, made in zip(wanted, found, strict=True):
        assert made.dtype == right.dtype == np.float16
        np.testing.assert_allclose(made, right, rtol=4e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own decompositions
@pytest.mark.parametrize("decomposed", [False, True])
def test_what_is_changed_in_place_is_returned_as_it_is_then(
    decomposed: bool, tmp_path: Path
) -> None:
    def call(x: Any, y: Any) -> list[Any]:
        part, more, boxes = x * 2, y + 1, y.clone()
        part[:, 1:3] = 0
        more[0] += part[1]
        boxes[..., :2] -= boxes[..., 2:] / 2
        return [part, more, boxes]

    feeds = [np.arange(12, dtype=np.float32).reshape(3, 4) - n for n in (5, 7)]
    net = module(call)
    program = torch.export.export(net, tuple(map(torch.from_numpy, feeds)))
    program = program.run_decompositions() if decomposed else program
    wanted, found = of_program(program, tmp_path / "net.pt2", *feeds)
    for right, made in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(made, right)
    # The original itself, which `convert` compares with, and `validate` too.
    for outputs in (None, "output.0,output.1,output.2"):
        with Original.of(tmp_path / "net.pt2", outputs=outputs).run() as original:
            answers = original.infer(dict(zip("xy", feeds, strict=True)))
        for right, made in zip(wanted, answers.values(), strict=True):
            np.testing.assert_array_equal(made, right)


def test_no_layer_is_named_where_an_output_is_changed_in_place(tmp_path: Path) -> None:
    def call(x: Any, y: Any) -> Any:
        part = x * y
        more = torch.relu(part)
        part[:, 1:3] = 0
        return [part, more]

    feeds = [np.arange(12, dtype=np.float32).reshape(3, 4) - n for n in (5, 7)]
    program = torch.export.export(module(call), tuple(map(torch.from_numpy, feeds)))
    torch.export.save(program, tmp_path / "net.pt2")
    commands.convert(tmp_path / "net.pt2").model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=feeds[0][None], y=feeds[1][None])
    report = commands.validate(
        tmp_path / "net.pt2", tmp_path / "net.onnx", tmp_path / "data.npz", bisect=True
    )
    assert report.passed
    assert not [note for note in report.notes if "difference at" in note]


def test_what_pytorch_can_not_take_apart_is_a_sentence(tmp_path: Path) -> None:
    """What changes a tensor in place is looked at in another form of the program."""

    def call(x: Any, y: Any) -> Any:
        rounded = torch.fake_quantize_per_tensor_affine(x, 0.1, 3, -128, 127)
        return rounded.add_(y)

    file = tmp_path / "net.pt2"
    example = (torch.zeros(2, 3), torch.zeros(2, 3))
    torch.export.save(torch.export.export(module(call), example), file)
    with pytest.raises(
        ModelError, match=r"net\.pt2: PyTorch can't export the network: .*fake_quan"
    ):
        commands.convert(file)


def test_pytorch_has_these_operators() -> None:
    """A name that it no longer has would raise in every export."""
    assert len(operators()) == 69
