"""The text of Caffe layers, in the three syntaxes that prototxt has had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

__all__ = ["Syntax", "Word", "layer_text", "prototxt"]

Syntax = Literal["current", "V1", "V0"]

_V1 = {"InnerProduct": "INNER_PRODUCT", "SoftmaxWithLoss": "SOFTMAX_LOSS"}
_V0 = {
    "Convolution": "conv", "ReLU": "relu", "Pooling": "pool", "LRN": "lrn",
    "InnerProduct": "innerproduct", "Dropout": "dropout", "Softmax": "softmax",
    "padding": "padding", "kernel_size": "kernelsize", "bias_term": "biasterm",
}  # fmt: skip


class Word(str):
    """A value that prototxt writes without quotes: a name of an enumeration."""


def prototxt(fields: Mapping[str, Any], indent: str = "") -> str:
    """Return fields as prototxt: a list repeats its field, a mapping is a message."""
    lines = []
    for key, value in fields.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping):
                lines.append(f"{indent}{key} {{\n{prototxt(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        # Both quotes escaped, as protobuf prints them.
        return '"' + value.replace('"', '\\"').replace("'", "\\'") + '"'
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def layer_text(
    syntax: Syntax,
    kind: str,
    name: str,
    bottoms: Sequence[str],
    tops: Sequence[str],
    fields: Mapping[str, Any],
    weighted: int = 0,
) -> str:
    """Return a layer as prototxt.

    Args:
        syntax: V1 has ``layers`` with enumerated types and learning rates, V0 ``layers { layer {
            ... } }`` with the fields of all messages in one.
        kind: The layer's type, as the current syntax has it.
        name: Of the layer.
        bottoms: What it reads.
        tops: What it makes.
        fields: Of its body, besides these, in the current syntax.
        weighted: How many blobs of weights it has.
    """
    ends = {"bottom": bottoms, "top": tops}
    if syntax == "V0":
        flat: dict[str, Any] = {"name": name, "type": _V0[kind]}
        for message in fields.values():
            flat |= {_V0.get(key, key): value for key, value in message.items()}
        return prototxt({"layers": {"layer": flat, **ends}})
    if syntax == "V1":
        rates = {"blobs_lr": [1, 2][:weighted], "weight_decay": [1, 0][:weighted]}
        body = {"name": name, "type": Word(_V1.get(kind, kind.upper())), **rates, **fields}
        return prototxt({"layers": {**ends, **body}})
    return prototxt({"layer": {"name": name, "type": kind, **ends, **fields}})
