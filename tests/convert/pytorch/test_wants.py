"""What a PyTorch program says of its inputs, and that every row of its tables is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxgraft import commands
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.wanted import Indices, Wants
from onnxgraft.stages.convert import Original

torch: Any = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

Build = Callable[[Any, Any], Any]
ROWS, FROM_ITS_END = (Indices(0, 2),), (Indices(-1, 2),)


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Path]:
    """Return what exports a function of some inputs and a table of (3, 4)."""

    def written(build: Build, *inputs: Any, **options: Any) -> Path:
        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.table = torch.nn.Parameter(torch.randn(3, 4))

            def forward(self, *given: Any) -> Any:
                return build(self.table, *given)

        program = torch.export.export(Net().eval(), inputs, strict=False, **options)
        torch.export.save(program, tmp_path / "net.pt2")
        return tmp_path / "net.pt2"

    return written


def wants(path: Path) -> Wants:
    original = Original.of(path)
    with original.run() as running:
        return original.wants(running)


def ids(dtype: Any = None) -> Any:
    return torch.tensor([[0, 1, 2, 0]], dtype=dtype or torch.int64)


@pytest.mark.parametrize(
    ("lookup", "expected"),
    [
        (lambda t, x: torch.nn.functional.embedding(x, t), ROWS),
        (lambda t, x: torch.nn.functional.embedding_bag(x, t), ROWS),
        (lambda t, x: torch.index_select(t, 0, x.reshape(-1)), ROWS),
        (lambda t, x: torch.gather(t, 0, x), ROWS),
        (lambda t, x: t.scatter(0, x, 1.0), ROWS),
        (lambda t, x: t[x], FROM_ITS_END),
        (lambda t, x: t[:, x[:, :2].clamp(max=9)], None),
        (lambda t, x: t.T[:, x], FROM_ITS_END),
        (lambda t, x: torch.nn.functional.one_hot(x, 3), ROWS),
        (lambda t, x: t[x.flatten().unsqueeze(1).to(torch.int32)], FROM_ITS_END),
        (lambda t, x: t[torch.cat([x, x])], FROM_ITS_END),
        (lambda t, x: t[x.chunk(2, 1)[1]], FROM_ITS_END),
        (lambda t, x: t[torch.where(x > 1, x, 0)], FROM_ITS_END),
    ],
    ids=[
        "embedding", "embedding bag", "index_select", "gather", "scatter", "indices",
        "a number that is changed", "indices of axis 1", "one_hot", "reshaped and cast",
        "joined", "split", "chosen",
    ],
)  # fmt: skip
def test_the_rows_of_a_table_are_found(
    exported: Callable[..., Path], lookup: Build, expected: tuple[Indices, ...] | None
) -> None:
    assert wants(exported(lookup, ids())).indices.get("given_0") == expected


def test_the_size_of_a_free_axis_limits_what_indexes_it(exported: Callable[..., Path]) -> None:
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}
    path = exported(
        lambda t, data, x: data[:, x], torch.zeros(2, 5, 4), torch.tensor([0, 1, 2]),
        dynamic_shapes={"given": (free, None)},
    )  # fmt: skip
    assert wants(path).indices == {"given_1": (Indices(-1, -1, "given_0.1"),)}


def test_masks_and_what_is_compared_are_found(exported: Callable[..., Path]) -> None:
    found = wants(exported(
        lambda t, a, b, c: (a.bool(), (1 - b) * 9, c == 7, c != 3.0, c == float("inf")),
        ids(), ids(torch.float32), ids(),
    ))  # fmt: skip
    assert found.masks == {"given_0", "given_1"}
    assert found.special == {"given_2": (3, 7)}


def test_a_number_beyond_its_type_is_compared_with(exported: Callable[..., Path]) -> None:
    assert commands.convert(exported(lambda t, x: (x == 1e300, x != -1e300), ids())).passed


def test_a_last_row_that_is_left_out_is_seen(
    exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(lambda t, x: torch.nn.functional.one_hot(x, 3).float(), ids())
    assert commands.convert(path).passed
    graph = """<ir_version: 8, opset_import: ["" : 18]>
        g (int64[1,4] given_0) => (float[1,4,3] output)
        <int64 d = {2}, float[2] v = {0,1}, int64[6] p = {0,0,0,0,0,1}>
        { two = OneHot(given_0, d, v) output = Pad(two, p) }"""
    made = Model.from_onnx(onnx.parser.parse_model(graph), Source("g", "onnx", ""))
    monkeypatch.setattr(Original, "lower", lambda *_, **__: (made, []))
    assert not commands.convert(path).passed
