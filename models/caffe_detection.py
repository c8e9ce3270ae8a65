"""Detection: SSD300 on VGG-16.

The function returns a prototxt and a caffemodel. Its defaults are the published architecture.
"""

from __future__ import annotations

from math import prod

from models.caffe_builder import Net, Recipe
from models.caffe_prototxt import Word

__all__ = ["ssd300"]

# Of each feature map: smallest and largest box of an image of 300, aspect ratios, step.
_BOXES: dict[str, tuple[float, float, tuple[float, ...], float]] = {
    "conv4_3_norm": (30, 60, (2,), 8),
    "fc7": (60, 111, (2, 3), 16),
    "conv6_2": (111, 162, (2, 3), 32),
    "conv7_2": (162, 213, (2, 3), 64),
    "conv8_2": (213, 264, (2,), 100),
    "conv9_2": (264, 315, (2,), 300),
}


def ssd300(
    *, width: float = 1, classes: int = 21, detections: bool = True, keep: int = 200
) -> Recipe:
    """Return SSD300 (weiliu89/caffe).

    The image's side is 300 in thin versions too: the last feature maps have 3 and 1 places.

    Args:
        width: Of the layers.
        classes: How many, with the background.
        detections: False ends the net before DetectionOutput, with boxes, scores and priors.
        keep: How many detections an image may have.
    """
    net = Net("VGG_VOC0712_SSD_300x300_deploy", (3, 300, 300), source="input_shape", width=width)
    for name in _features(net):
        _heads(net, name, classes)
    ends = {
        kind: [f"{name}_mbox_{kind}{flat}" for name in _BOXES]
        for kind, flat in (("loc", "_flat"), ("conf", "_flat"), ("priorbox", ""))
    }
    for kind in ("loc", "conf"):
        total = sum(net.shapes[end][0] for end in ends[kind])
        net.layer("Concat", f"mbox_{kind}", ends[kind], shape=(total,), concat_param={"axis": 1})
    priors = sum(net.shapes[end][1] for end in ends["priorbox"])
    net.layer(
        "Concat", "mbox_priorbox", ends["priorbox"], shape=(2, priors), concat_param={"axis": 2}
    )
    net.layer(
        "Reshape", "mbox_conf_reshape", "mbox_conf", shape=(priors // 4, classes),
        reshape_param={"shape": {"dim": [0, -1, classes]}},
    )  # fmt: skip
    net.layer("Softmax", "mbox_conf_softmax", "mbox_conf_reshape", softmax_param={"axis": 2})
    net.layer(
        "Flatten", "mbox_conf_flatten", "mbox_conf_softmax", shape=(priors // 4 * classes,),
        flatten_param={"axis": 1},
    )  # fmt: skip
    if detections:
        options = {
            "num_classes": classes,
            "share_location": True,
            "background_label_id": 0,
            "nms_param": {"nms_threshold": 0.45, "top_k": 400},
            "save_output_param": {"label_map_file": "data/VOC0712/labelmap_voc.prototxt"},
            "code_type": Word("CENTER_SIZE"),
            "keep_top_k": keep,
            "confidence_threshold": 0.01,
        }
        net.layer(
            "DetectionOutput", "detection_out", ["mbox_loc", "mbox_conf_flatten", "mbox_priorbox"],
            shape=(1, keep, 7), include={"phase": Word("TEST")}, detection_output_param=options,
        )  # fmt: skip
    return net.recipe()


def _features(net: Net) -> list[str]:
    """Write the trunk; return the names of the feature maps, which `_BOXES` has too."""
    x = "data"
    for block, (convolutions, outputs) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1
    ):
        for number in range(1, convolutions + 1):
            x = net.conv(f"conv{block}_{number}", x, net.wide(outputs), 3, pad=1)
            net.relu(f"relu{block}_{number}", x)
        x = net.pool("pool5", x, 3, 1, pad=1) if block == 5 else net.pool(f"pool{block}", x, 2, 2)
    x = net.relu("relu6", net.conv("fc6", x, net.wide(1024), 3, pad=6, dilation=6))
    x = net.relu("relu7", net.conv("fc7", x, net.wide(1024)))
    # The last two have no pad: 5 -> 3 -> 1 places.
    for number, (inner, outputs, stride) in enumerate(
        ((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)), 6
    ):
        x = net.conv(f"conv{number}_1", x, net.wide(inner))
        x = net.relu(f"conv{number}_1_relu", x)
        pad = 1 if stride == 2 else 0
        x = net.conv(f"conv{number}_2", x, net.wide(outputs), 3, stride=stride, pad=pad)
        net.relu(f"conv{number}_2_relu", x)
    channels = net.shapes["conv4_3"][0]
    # A vector of unit length over the channels, scaled by about 20.
    net.layer(
        "Normalize", "conv4_3_norm", "conv4_3", spread=20 / channels**0.5,
        blobs=[net.draw(15, 25, channels)],
        norm_param={
            "across_spatial": False,
            "scale_filler": {"type": "constant", "value": 20},
            "channel_shared": False,
        },
    )  # fmt: skip
    return list(_BOXES)


def _heads(net: Net, name: str, classes: int) -> None:
    smallest, largest, ratios, step = _BOXES[name]
    boxes = 2 + 2 * len(ratios)
    for kind, values in (("loc", 4), ("conf", classes)):
        at = f"{name}_mbox_{kind}"
        x = net.conv(at, name, boxes * values, 3, pad=1)
        channels, height, wide = net.shapes[x]
        x = net.layer(
            "Permute", f"{at}_perm", x, shape=(height, wide, channels),
            permute_param={"order": [0, 2, 3, 1]},
        )  # fmt: skip
        size = prod(net.shapes[x])
        net.layer("Flatten", f"{at}_flat", x, shape=(size,), flatten_param={"axis": 1})
    places = prod(net.shapes[name][1:])
    options = {
        "min_size": smallest, "max_size": largest, "aspect_ratio": list(ratios), "flip": True,
        "clip": False, "variance": [0.1, 0.1, 0.2, 0.2], "step": step, "offset": 0.5,
    }  # fmt: skip
    net.layer(
        "PriorBox", f"{name}_mbox_priorbox", [name, "data"], shape=(2, 4 * boxes * places),
        prior_box_param=options,
    )  # fmt: skip
