"""TensorRT's own parser and builder, without a GPU; running an engine needs one."""

from pathlib import Path

import numpy as np
import pytest

from onnxgraft import engine
from onnxgraft.engine.tensorrt_builder import gpu
from onnxgraft.errors import InputError, ModelError
from onnxgraft.model import Model
from tests.conftest import model_of

pytest.importorskip("tensorrt", reason="TensorRT is not installed")


def conv(shape: str) -> Model:
    return model_of(
        f"net (float[{shape}] x) => (float[A, B, C, D] y) {{ c = Conv(x, w)  y = Relu(c) }}",
        {"w": np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)},
    )


def test_a_free_batch_gets_a_profile(tmp_path: Path) -> None:
    passport = engine.build(conv("N, 16, 8, 8"), tmp_path / "e", "tensorrt")
    assert "tensorrt" in passport.versions
    assert (tmp_path / "e").stat().st_size > 1000


def test_other_free_dimensions_have_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give its shape with --shapes"):
        engine.build(conv("N, 16, H, W"), tmp_path / "e", "tensorrt")
    engine.build(conv("N, 16, H, W"), tmp_path / "e", "tensorrt", shapes={"x": (1, 16, 8, 8)})
    assert (tmp_path / "e").is_file()


def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit"):
        engine.build(conv("N, 16, 8, 8"), tmp_path / "e", "tensorrt", shapes={"x": (1, 3, 8, 8)})


def test_parser_errors_name_operator_and_node(tmp_path: Path) -> None:
    model = model_of(
        "net (float[2] x) => (float[2] y) { y = Bernoulli(x) }",
    )
    model.graph.nodes[0].name = "the_culprit"
    with pytest.raises(ModelError, match="Bernoulli 'the_culprit'"):
        engine.build(model, tmp_path / "e", "tensorrt")
    assert not list(tmp_path.iterdir())


def test_loading_says_that_a_gpu_is_needed(tmp_path: Path) -> None:
    engine.build(conv("1, 16, 8, 8"), tmp_path / "e", "tensorrt")
    if gpu() is not None:
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="NVIDIA GPU"):
        engine.load(tmp_path / "e")
