"""Published networks as Keras makes them, with random weights: for timing, not for accuracy.

    python -m models.keras_networks resnet152 FOLDER [SEEN.npz]

writes a SavedModel. `transformer` is an encoder of twelve layers, written out here, and
`text_encoder` one of four that reads token ids. `mobilenet_v2.96.1` is a backbone for images of
96x96, with the seed 1 and not 0. Batch normalizations have the statistics of what
the network makes of the images in an ``.npz``, where there is one.
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
# Without their classifiers: features of 224x224 images, if no other size is said.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet121": ("DenseNet121", {}),
    "efficientnet": ("EfficientNetB0", {}),
    "efficientnet_v2": ("EfficientNetV2B0", {"include_preprocessing": False}),
    "inception": ("InceptionV3", {}),
    "mobilenet": ("MobileNet", {}),
    "mobilenet_v2": ("MobileNetV2", {}),
    "mobilenet_v3": ("MobileNetV3Large", {"include_preprocessing": False}),
    "mobilenet_v3_small": ("MobileNetV3Small", {"include_preprocessing": False}),
    "resnet50": ("ResNet50", {}),
    "resnet50_v2": ("ResNet50V2", {}),
    "vgg16": ("VGG16", {}),
    "xception": ("Xception", {}),
}


def transformer(depth: int = 12, width: int = 128, heads: int = 4, length: int = 64) -> Any:
    """Return a pre-norm encoder of ``depth`` layers; about 1,300 nodes as tf2onnx writes it."""
    from keras import Input, Model

    inputs = Input((length, width))
    return Model(inputs, encoded(inputs, depth, width, heads))


def text_encoder(
    depth: int = 4, width: int = 256, heads: int = 4, length: int = 64, kinds: int = 1000
) -> Any:
    """Return the same behind embeddings of ``length`` token ids and of their positions."""
    from keras import Input, Model, initializers, layers, ops

    inputs = Input((length,), dtype="int32")
    spread = initializers.RandomNormal(stddev=1.0)
    places = layers.Embedding(length, width, embeddings_initializer=spread)(ops.arange(length))
    x = layers.Embedding(kinds, width, embeddings_initializer=spread)(inputs) + places
    return Model(inputs, encoded(x, depth, width, heads))


def encoded(x: Any, depth: int, width: int, heads: int) -> Any:
    """Return what ``depth`` pre-norm layers of attention and GELU make of (N, length, width)."""
    from keras import layers

    for _ in range(depth):
        a = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(a, a)])
        f = layers.LayerNormalization()(x)
        f = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(f))
        x = layers.Add()([x, f])
    return layers.LayerNormalization()(x)


ENCODERS = {"transformer": transformer, "text_encoder": text_encoder}


def build(name: str) -> Any:
    """Return the network of that name, its weights seeded and no bias zero."""
    import keras
    import numpy as np

    name, size, seed = [*name.split("."), "224", "0"][:3]
    keras.utils.set_random_seed(int(seed))
    if name in ENCODERS:
        model = ENCODERS[name]()
    elif name in BACKBONES:
        kind, options = BACKBONES[name]
        model = getattr(keras.applications, kind)(
            weights=None, include_top=False, input_shape=(int(size), int(size), 3), **options
        )
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


def settle(model: Any, seen: Any) -> None:
    """Give batch normalizations the statistics of what the network makes of images.

    Kernels are made to smooth: those of random signs pick out noise, and layer after layer of them
    leaves no signal.
    """
    import numpy as np
    from keras import layers

    for layer in model.layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([np.abs(value) for value in layer.get_weights()])
        elif isinstance(layer, layers.Conv2D):
            kernel, *bias = layer.get_weights()
            mean = kernel.mean((0, 1), keepdims=True)
            layer.set_weights([mean + (kernel - mean) / 5, *bias])
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(seen, training=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    network = build(sys.argv[1])
    if len(sys.argv) > 3:
        import numpy as np

        (images,) = np.load(sys.argv[3]).values()
        settle(network, images)
    print(len(network.layers))
    network.export(sys.argv[2], verbose=False)
