"""Where a Crop without offsets cuts in the forks that work it out from the net.

In longjon's fork, of which FCN, U-Net and HED of that time are, a Crop aligns its inputs: each
convolution and pooling between them and the blob that they come from maps a place of what it
makes to a place of what it reads, by a factor and a shift. BVLC's Crop cuts at 0 instead. A net
in V1's form is of the fork, as BVLC's V1 has no CROP; of another the text does not say it.

Source: longjon/caffe's crop_layer.cpp and coord_map.hpp; BVLC's coord_map.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from onnxgraft.errors import InputError
from onnxgraft.stages.convert.caffe.reading.net import Layer, Net
from onnxgraft.stages.convert.caffe.reading.prototxt import Message, Scalar

__all__ = ["align_crops"]

# By axis, the factor and the shift that map a place of one blob to a place of another.
Maps = tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]]
# Layers between a Crop and what its inputs come from.
_FARTHEST = 2000
_SAME: Maps = ((Fraction(1), Fraction(0)),) * 2


def align_crops(net: Net) -> None:
    """Give each Crop without offsets those of the geometry in a V1 net, else a note of them."""
    makers = {top: layer for layer in net.layers for top in layer.tops}
    for layer in net.layers:
        if layer.type != "Crop" or layer.parameter("crop_param").has("offset"):
            continue
        offsets = _offsets(layer, makers)
        if offsets is not None and offsets != [0, 0]:
            height, width = offsets
            if net.v1:
                line = layer.message.line
                values: list[Scalar | Message] = [Scalar(str(n), line, 1) for n in offsets]
                layer.message.fields.setdefault("crop_param", []).append(
                    Message(line, {"offset": values})
                )
                net.notes.append(
                    f"{layer}: it is cut at {height}, {width}, as follows from the net"
                )
                continue
            net.notes.append(
                f"{layer}: it has no offset, and is cut at 0 as in BVLC's Caffe; forks that work "
                f"it out from the net (FCN, U-Net, HED) cut at {height}, {width}: if the net is "
                f"of one, write crop_param {{ offset: {height} offset: {width} }}"
            )


def _offsets(layer: Layer, makers: Mapping[str, Layer]) -> list[int] | None:
    """Return the offsets that align the two inputs; None where nothing does."""
    if len(layer.bottoms) != 2:
        return None
    try:
        cropped, sized = (_origins(bottom, makers) for bottom in layer.bottoms)
    except InputError:
        return None  # the layer's converter says why
    shared = next((blob for blob in sized if blob in cropped), None)
    if shared is None:
        return None
    found = []
    for (a, b), (c, d) in zip(cropped[shared], sized[shared], strict=True):
        # y of the cropped blob lies at a y + b of the shared one, y of the other at c y + d.
        offset = (d - b) / a
        if a != c or offset < 0 or offset.denominator != 1:
            return None
        found.append(int(offset))
    return found


def _origins(blob: str, makers: Mapping[str, Layer]) -> dict[str, Maps]:
    """Return the blobs on the way back from ``blob``, and the maps from it to each."""
    maps, found = _SAME, {blob: _SAME}
    while blob in makers and makers[blob].bottoms and len(found) < _FARTHEST:
        step = _step(makers[blob])
        if step is None:
            break
        maps = tuple((a * e, a * f + b) for (e, f), (a, b) in zip(maps, step, strict=True))  # type: ignore[assignment]
        blob = makers[blob].bottoms[0]
        found[blob] = maps
    return found


def _step(layer: Layer) -> Maps | None:
    """Return the map from a layer's result to its input; None for what moves places otherwise."""
    if layer.type == "Crop":
        offsets = (layer.parameter("crop_param").integers("offset") or [0])[-2:]
        first, last = offsets[0], offsets[-1]
        return (Fraction(1), Fraction(first)), (Fraction(1), Fraction(last))
    if "onvolution" not in layer.type and layer.type != "Pooling":
        return _SAME if layer.type in _KEEPING else None
    name = "pooling_param" if layer.type == "Pooling" else "convolution_param"
    settings = layer.parameter(name)

    def pair(field: str, short: str, default: int) -> list[int]:
        both = (settings.integers(field) or [default]) * 2
        return [settings.integer(f"{short}_{side}", both[i]) for i, side in enumerate("hw")]

    kernel, stride = pair("kernel_size", "kernel", 1), pair("stride", "stride", 1)
    pad, dilation = pair("pad", "pad", 0), pair("dilation", "dilation", 1)
    steps = []
    for k, s, p, d in zip(kernel, stride, pad, dilation, strict=True):
        shift = Fraction(d * (k - 1), 2) - p
        if s == 0:
            return None
        forward = (Fraction(s), shift)
        steps.append((1 / forward[0], -shift / s) if "econv" in layer.type else forward)
    return steps[0], steps[1]


# Layers whose result has the places of their first input.
_KEEPING = frozenset(
    {"AbsVal", "BN", "BNLL", "BatchNorm", "Bias", "Concat", "Dropout", "ELU", "Eltwise", "Exp",
     "LRN", "Log", "MVN", "PReLU", "Power", "ReLU", "ReLU6", "Scale", "Sigmoid", "Softmax",
     "Split", "Swish", "TanH", "Threshold"}
)  # fmt: skip
