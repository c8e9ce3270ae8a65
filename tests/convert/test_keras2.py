"""What Keras 2 wrote, through ``tf_keras`` in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgraft import commands
from onnxgraft.errors import InputError, MissingDependencyError
from onnxgraft.stages.convert import Original
from tests.conftest import few, once, only_ci

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tf_keras") is None, reason="tf_keras is not installed"
)

WRITE = """
import sys
import tf_keras as keras
keras.utils.set_random_seed(0)
image, extra = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name="extra")
x = keras.layers.Conv2D(4, 3, padding="same")(image)
x = keras.layers.BatchNormalization()(x)
x = keras.layers.ReLU()(keras.layers.DepthwiseConv2D(3)(x))
x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
first = keras.layers.Dense(5, name="zeta")(keras.layers.Concatenate()([x, extra]))
second = keras.layers.Dense(2, name="alpha")(x)
model = keras.Model([image, extra], [first, second])
model.save(f"{sys.argv[1]}/functional.h5")
model.save(f"{sys.argv[1]}/functional.keras")
keras.Sequential([keras.layers.LSTM(6, input_shape=(7, 3)), keras.layers.Dense(2, name="y")]).save(
    f"{sys.argv[1]}/lstm.h5")
keras.Sequential([keras.layers.Lambda(lambda t: t * 2, input_shape=(3,))]).save(
    f"{sys.argv[1]}/lambda.h5")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of files that Keras 2 wrote."""

    def make(folder: Path) -> None:
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", WRITE, folder],
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"}, check=True, capture_output=True,
        )  # fmt: skip

    return once(tmp_path_factory, "keras2", make)


@pytest.mark.parametrize("name", few(["functional.keras", "functional.h5"], 0, 1))
def test_names_and_their_order_are_the_model_s_own(files: Path, name: str) -> None:
    done = commands.convert(files / name)
    assert done.passed
    assert done.verdicts
    assert [spec.name for spec in done.model.inputs] == ["image", "extra"]
    assert [spec.name for spec in done.model.outputs] == ["zeta", "alpha"]
    assert "BatchNormalization" not in done.model.operators()


@only_ci
def test_a_layer_that_keras_3_can_not_read_is_converted(files: Path) -> None:
    done = commands.convert(files / "lstm.h5")  # its time_major is unknown to Keras 3
    assert done.passed
    assert done.verdicts


def test_a_lambda_of_keras_2_is_refused(files: Path) -> None:
    with pytest.raises(InputError, match=r"Lambda layer .* --trust allows it"):
        Original.of(files / "lambda.h5").lower()


def test_without_tf_keras_the_install_line_is_told(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxgraft\[keras2\]'"):
        Original.of(files / "functional.h5").lower()
