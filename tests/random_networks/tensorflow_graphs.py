"""Random TensorFlow graphs, frozen, with the patterns that training code leaves in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.random_networks.choices import Choices

__all__ = ["SHAPE", "tensorflow_graph"]

# Of the input ``x``: batch, height, width, channels.
SHAPE = (None, 9, 10, 3)


class Graph:
    """A graph that grows operator by operator, in TensorFlow's default graph.

    Attributes:
        tensors: What was made so far, in order.
    """

    def __init__(self, choices: Choices, first: Any) -> None:
        self.choices, self.rng = choices, np.random.default_rng(choices.one_of(range(10)))
        self.tensors = [first]

    def pick(self, *options: Any) -> Any:
        return self.choices.one_of(options)

    def normal(self, *shape: int) -> Any:
        import tensorflow as tf

        fan = max(int(np.prod(shape[:-1])), 1)
        return tf.constant(self.rng.normal(size=shape) / np.sqrt(fan), tf.float32)

    def positive(self, *shape: int) -> Any:
        import tensorflow as tf

        return tf.constant(self.rng.uniform(0.5, 1.5, shape), tf.float32)


def _sides(x: Any) -> list[int]:
    return [side for side in x.shape.as_list()[1:] if side is not None]


def convolution(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if len(_sides(x)) != 3:
        return None
    kernel, stride, channels = g.pick(1, 3), g.pick(1, 1, 2), _sides(x)[2]
    how = g.pick("SAME", "SAME", "VALID") if min(_sides(x)[:2]) >= kernel else "SAME"
    if g.pick(True, False, False):
        weights = g.normal(kernel, kernel, channels, g.pick(1, 2))
        return tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], how)
    dilations = g.pick(1, 1, 2) if stride == 1 and how == "SAME" else 1
    weights = g.normal(kernel, kernel, channels, g.pick(2, 4))
    return tf.nn.conv2d(x, weights, stride, how, dilations=dilations)


def transposed_convolution(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if len(_sides(x)) != 3 or max(_sides(x)) > 10:
        return None
    height, width, channels = _sides(x)
    to = tf.stack([tf.shape(x)[0], 2 * height, 2 * width, 3])
    return tf.nn.conv2d_transpose(x, g.normal(3, 3, 3, channels), to, 2, "SAME")


def batch_norm(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    channels = x.shape[-1]
    scale, shift, mean = (
        g.positive(channels),
        g.normal(channels, 1)[:, 0],
        g.normal(channels, 1)[:, 0],
    )
    variance = g.positive(channels)
    if len(_sides(x)) == 3 and g.pick(True, False):
        return tf.compat.v1.nn.fused_batch_norm(x, scale, shift, mean, variance, is_training=False)[
            0
        ]
    if g.pick(True, False):
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, 1e-3)
    return (x - mean) / tf.sqrt(variance) * scale + shift


def activation(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    kind = g.pick(
        tf.nn.relu, tf.nn.relu, tf.nn.relu6, tf.nn.elu, tf.nn.leaky_relu, tf.sigmoid, tf.tanh,
        tf.nn.swish, tf.nn.softplus, tf.identity, tf.abs,
    )  # fmt: skip
    return kind(x)


def hard_swish(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    return x * tf.nn.relu6(x + 3.0) / 6.0


def pool(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if len(_sides(x)) != 3 or min(_sides(x)[:2]) < 3:
        return None
    kind = g.pick(tf.nn.max_pool2d, tf.nn.avg_pool2d)
    return kind(x, g.pick(2, 3), g.pick(1, 2), g.pick("SAME", "VALID"))


def pad(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if len(_sides(x)) != 3:
        return None
    low, high = g.pick(0, 1), g.pick(0, 1, 2)
    how = g.pick("CONSTANT", "CONSTANT", "REFLECT") if min(_sides(x)[:2]) > 2 else "CONSTANT"
    return tf.pad(x, [[0, 0], [low, high], [high, low], [0, 0]], how)


def join(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    other = g.pick(*(t for t in g.tensors if t.shape.as_list() == x.shape.as_list()))
    kind = g.pick("add", "maximum", "multiply", "concat", "concat", "where")
    if kind == "concat":
        return tf.concat([x, other], -1) if x.shape[-1] <= 8 else None
    if kind == "multiply":
        return tf.tanh(x) * other
    if kind == "where":
        return tf.where(tf.constant(g.pick(True, False)), x, other)
    return getattr(tf, kind)(x, other)


def arithmetic(g: Graph, x: Any) -> Any:
    by = g.positive(*g.pick((), (1,), (x.shape[-1],)))
    return g.pick(lambda: x + by, lambda: x * by, lambda: by - x, lambda: x / by)()


def squeeze_and_excite(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if len(_sides(x)) != 3:
        return None
    means = tf.reduce_mean(x, [1, 2], keepdims=g.pick(True, False))
    gate = tf.sigmoid(tf.reshape(means, [-1, x.shape[-1]]) @ g.normal(x.shape[-1], x.shape[-1]))
    return x * tf.reshape(gate, [-1, 1, 1, x.shape[-1]])


def resize(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if len(_sides(x)) != 3 or max(_sides(x)) > 12:
        return None
    height, width = (2 * side for side in _sides(x)[:2])
    if g.pick(True, False):
        return tf.image.resize(x, [height, width], g.pick("bilinear", "nearest"))
    corners = g.pick(True, False)
    return tf.compat.v1.image.resize_bilinear(x, [height, width], align_corners=corners)


def split(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if x.shape[-1] % 2:
        return None
    if g.pick(True, False):
        one, two = tf.split(x, 2, -1)
    else:
        half = x.shape[-1] // 2
        one, two = x[..., :half], x[..., half:]
    return tf.concat([two, one], -1)


def there_and_back(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    if len(_sides(x)) != 3:
        return None
    first = tf.transpose(x, [0, 3, 1, 2])
    moved = g.pick(tf.nn.relu, tf.tanh, lambda t: t + 0.5)(first)
    return tf.transpose(moved, [0, 2, 3, 1])


def softmax_chain(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    rows = tf.reshape(x, tf.stack([-1, tf.shape(x)[-1]]))
    return tf.reshape(tf.nn.softmax(rows), tf.shape(x))


def training_flag(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    return tf.cond(tf.constant(False), lambda: x * 2.0, lambda: tf.nn.relu(x))


def dense(g: Graph, x: Any) -> Any:
    import tensorflow as tf

    features = int(np.prod(_sides(x)))
    rows = tf.reshape(x, tf.stack([tf.shape(x)[0], features])) if len(_sides(x)) > 1 else x
    made = rows @ g.normal(features, 4)
    return tf.nn.bias_add(made, g.normal(4, 1)[:, 0]) if g.pick(True, False) else made


STEPS: tuple[Callable[[Graph, Any], Any], ...] = (
    convolution, convolution, convolution, convolution, transposed_convolution, batch_norm,
    batch_norm, activation, activation, activation, hard_swish, pool, pad, join, join, arithmetic,
    arithmetic, squeeze_and_excite, resize, split, there_and_back, softmax_chain, training_flag,
    dense,
)  # fmt: skip


def tensorflow_graph(choices: Choices) -> bytes:
    """Return a GraphDef with the input ``x`` of `SHAPE` and the output ``y``."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        g = Graph(choices, tf.compat.v1.placeholder(tf.float32, SHAPE, "x"))
        for number in range(choices.one_of(range(3, 10))):
            later = number and choices.one_of(range(4)) == 0
            x = g.pick(*g.tensors) if later else g.tensors[-1]
            made = g.pick(*STEPS)(g, x)
            if made is not None:
                made.set_shape([None, *made.shape.as_list()[1:]])
                g.tensors.append(made)
        tf.identity(g.tensors[-1], "y")
    return bytes(graph.as_graph_def().SerializeToString())
