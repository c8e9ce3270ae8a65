"""Published networks as Keras makes them, with random weights: for timing, not for accuracy.

    python -m models.keras_networks resnet152 FOLDER

writes a SavedModel. `transformer` is an encoder of twelve layers, written out here.
"""

from __future__ import annotations

import os
import sys
from typing import Any

APPLICATIONS = {
    "resnet152": "ResNet152",
    "inception_v3": "InceptionV3",
    "efficientnet_b0": "EfficientNetB0",
    "convnext_tiny": "ConvNeXtTiny",
}


def transformer(depth: int = 12, width: int = 128, heads: int = 4, length: int = 64) -> Any:
    """Return a pre-norm encoder of ``depth`` layers; about 1,300 nodes as tf2onnx writes it."""
    from keras import Input, Model, layers

    x = inputs = Input((length, width))
    for _ in range(depth):
        a = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(a, a)])
        f = layers.LayerNormalization()(x)
        f = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(f))
        x = layers.Add()([x, f])
    return Model(inputs, layers.LayerNormalization()(x))


def build(name: str) -> Any:
    """Return the network of that name, its weights seeded and no bias zero."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    if name == "transformer":
        model = transformer()
    else:
        model = getattr(keras.applications, APPLICATIONS[name])(weights=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        # What is all 0 or all 1 would be removed as arithmetic that changes nothing.
        layer.set_weights(
            [w + rng.uniform(0.05, 0.2, w.shape).astype(w.dtype) if np.ptp(w) == 0 else w
             for w in weights]
        )  # fmt: skip
    return model


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    network = build(sys.argv[1])
    print(len(network.layers))
    network.export(sys.argv[2], verbose=False)
