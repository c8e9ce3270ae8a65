"""The classifiers that Caffe's model zoo began with: LeNet to VGG, without batch normalization.

Each function returns a prototxt and a caffemodel. Its defaults are the published architecture;
``width`` thins the layers, ``size`` is the image's side. ``trained`` gives the net as its
``train_val.prototxt`` has it, with the same weights: data layers, losses, accuracies, fillers.
"""

from __future__ import annotations

from typing import Literal

from models.caffe_builder import Net, Recipe, Source
from models.caffe_prototxt import Syntax

__all__ = ["alexnet", "caffenet", "googlenet", "lenet", "squeezenet", "vgg"]

# Of GoogLeNet's modules: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# Convolutions in each of VGG's five blocks.
_VGG: dict[int, tuple[int, ...]] = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def lenet(*, width: float = 1, trained: bool = False) -> Recipe:
    """Return LeNet for MNIST (examples/mnist/lenet.prototxt, lenet_train_test.prototxt)."""
    net = Net(
        "LeNet", (1, 28, 28), source="Data" if trained else "Input", batch=64, width=width,
        filler="xavier" if trained else "",
    )  # fmt: skip
    x = net.pool("pool1", net.conv("conv1", "data", net.wide(20), 5), 2, 2)
    x = net.pool("pool2", net.conv("conv2", x, net.wide(50), 5), 2, 2)
    x = net.relu("relu1", net.dense("ip1", x, net.wide(500)))
    net.classify(net.dense("ip2", x, 10, gain=2))
    return net.recipe()


def alexnet(
    *, width: float = 1, size: int = 227, classes: int = 1000, trained: bool = False
) -> Recipe:
    """Return AlexNet (bvlc_alexnet): two groups, LRN before each overlapping pooling."""
    net = Net(
        "AlexNet", (3, size, size), source="Data" if trained else "Input", batch=10, width=width,
        filler="gaussian" if trained else "",
    )  # fmt: skip
    x = net.relu("relu1", net.conv("conv1", "data", net.wide(96), 11, stride=4, gain=100))
    x = net.pool("pool1", net.lrn("norm1", x), 3, 2)
    x = net.relu("relu2", net.conv("conv2", x, net.wide(256), 5, pad=2, group=2, gain=100))
    x = net.pool("pool2", net.lrn("norm2", x), 3, 2)
    return _alexnet_end(net, x, classes)


def caffenet(
    *, width: float = 1, size: int = 227, classes: int = 1000, syntax: Syntax = "V0"
) -> Recipe:
    """Return CaffeNet: AlexNet with each pooling before its LRN, by default in its first syntax."""
    net = Net("CaffeNet", (3, size, size), batch=10, width=width, syntax=syntax)
    x = net.relu("relu1", net.conv("conv1", "data", net.wide(96), 11, stride=4, gain=100))
    x = net.lrn("norm1", net.pool("pool1", x, 3, 2))
    x = net.relu("relu2", net.conv("conv2", x, net.wide(256), 5, pad=2, group=2, gain=100))
    x = net.lrn("norm2", net.pool("pool2", x, 3, 2))
    return _alexnet_end(net, x, classes)


def _alexnet_end(net: Net, x: str, classes: int) -> Recipe:
    x = net.relu("relu3", net.conv("conv3", x, net.wide(384), 3, pad=1))
    x = net.relu("relu4", net.conv("conv4", x, net.wide(384), 3, pad=1, group=2))
    x = net.relu("relu5", net.conv("conv5", x, net.wide(256), 3, pad=1, group=2))
    x = net.pool("pool5", x, 3, 2)
    for number in (6, 7):
        x = net.relu(f"relu{number}", net.dense(f"fc{number}", x, net.wide(4096)))
        net.dropout(f"drop{number}", x)
    net.classify(net.dense("fc8", x, classes, gain=2))
    return net.recipe()


def googlenet(
    *,
    width: float = 1,
    size: int = 224,
    classes: int = 1000,
    form: Literal["deploy", "auxiliary", "trained"] = "deploy",
) -> Recipe:
    """Return GoogLeNet (bvlc_googlenet).

    Args:
        width: Of the layers.
        size: Of the image.
        classes: How many.
        form: ``auxiliary`` has the two side classifiers too, ``trained`` also data and losses;
            the weights of the two are the same.
    """
    net = Net(
        "GoogleNet", (3, size, size), source="Data" if form == "trained" else "input_dim",
        batch=10, width=width, filler="xavier" if form == "trained" else "",
    )  # fmt: skip

    def conv(name: str, bottom: str, outputs: int, kernel: int = 1, gain: float = 1) -> str:
        wide, stride = net.wide(outputs), 2 if kernel == 7 else 1
        top = net.conv(name, bottom, wide, kernel, pad=kernel // 2, stride=stride, gain=gain)
        folder, _, last = name.rpartition("/")
        return net.relu(f"{folder}/relu_{last}", top)

    x = net.pool("pool1/3x3_s2", conv("conv1/7x7_s2", "data", 64, 7, gain=100), 3, 2)
    x = conv("conv2/3x3_reduce", net.lrn("pool1/norm1", x), 64)
    x = net.lrn("conv2/norm2", conv("conv2/3x3", x, 192, 3, gain=100))
    x = net.pool("pool2/3x3_s2", x, 3, 2)
    sides = {"4a": "loss1", "4d": "loss2"} if form != "deploy" else {}
    for name, (single, reduce3, outputs3, reduce5, outputs5, project) in _INCEPTIONS.items():
        at = f"inception_{name}"
        ends = [
            conv(f"{at}/1x1", x, single),
            conv(f"{at}/3x3", conv(f"{at}/3x3_reduce", x, reduce3), outputs3, 3),
            conv(f"{at}/5x5", conv(f"{at}/5x5_reduce", x, reduce5), outputs5, 5),
            conv(f"{at}/pool_proj", net.pool(f"{at}/pool", x, 3, 1, pad=1), project),
        ]
        x = net.concat(f"{at}/output", *ends)
        if name in sides:
            _googlenet_side(net, x, sides[name], classes)
        if name in ("3b", "4e"):
            x = net.pool(f"pool{name[0]}/3x3_s2", x, 3, 2)
    x = net.pool("pool5/7x7_s1", x, net.shapes[x][-1], method="AVE")
    net.dropout("pool5/drop_7x7_s1", x, 0.4)
    x = net.dense("loss3/classifier", x, classes, gain=3)
    if form == "auxiliary":
        net.layer("Softmax", "prob", x)
    else:
        net.classify(x, "3" if form == "trained" else "")
    return net.recipe()


def _googlenet_side(net: Net, x: str, at: str, classes: int) -> None:
    x = net.pool(f"{at}/ave_pool", x, 5, 3, method="AVE")
    x = net.relu(f"{at}/relu_conv", net.conv(f"{at}/conv", x, net.wide(128)))
    x = net.relu(f"{at}/relu_fc", net.dense(f"{at}/fc", x, net.wide(1024)))
    net.dropout(f"{at}/drop_fc", x, 0.7)
    x = net.dense(f"{at}/classifier", x, classes)
    if net.trained:
        net.classify(x, f"_{at}", weight=0.3)


def vgg(
    depth: Literal[16, 19] = 16,
    *,
    width: float = 1,
    size: int = 224,
    classes: int = 1000,
    source: Source = "input_dim",
    syntax: Syntax = "V1",
) -> Recipe:
    """Return VGG-16 or VGG-19, by default in the V1 syntax that they were published in."""
    net = Net(
        f"VGG_ILSVRC_{depth}_layers", (3, size, size), source=source, batch=10, width=width,
        syntax=syntax,
    )  # fmt: skip
    x = "data"
    for block, (convolutions, outputs) in enumerate(
        zip(_VGG[depth], (64, 128, 256, 512, 512), strict=True), 1
    ):
        for number in range(1, convolutions + 1):
            x = net.conv(f"conv{block}_{number}", x, net.wide(outputs), 3, pad=1)
            net.relu(f"relu{block}_{number}", x)
        x = net.pool(f"pool{block}", x, 2, 2)
    for number in (6, 7):
        x = net.relu(f"relu{number}", net.dense(f"fc{number}", x, net.wide(4096)))
        net.dropout(f"drop{number}", x)
    net.classify(net.dense("fc8", x, classes, gain=2))
    return net.recipe()


def squeezenet(*, width: float = 1, size: int = 227, classes: int = 1000) -> Recipe:
    """Return SqueezeNet v1.1: fire modules, and a softmax over the channels of (N, C, 1, 1)."""
    net = Net("SqueezeNet_v1.1", (3, size, size), source="Input", width=width, filler="xavier")
    x = net.relu("relu_conv1", net.conv("conv1", "data", net.wide(64), 3, stride=2))
    x = net.pool("pool1", x, 3, 2)
    for number, outputs in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        at = f"fire{number}"
        squeezed = net.conv(f"{at}/squeeze1x1", x, net.wide(outputs))
        net.relu(f"{at}/relu_squeeze1x1", squeezed)
        ends = []
        for kernel in (1, 3):
            name = f"expand{kernel}x{kernel}"
            end = net.conv(f"{at}/{name}", squeezed, net.wide(4 * outputs), kernel, pad=kernel // 2)
            ends.append(net.relu(f"{at}/relu_{name}", end))
        x = net.concat(f"{at}/concat", *ends)
        if number in (3, 5):
            x = net.pool(f"pool{number}", x, 3, 2)
    net.dropout("drop9", x)
    x = net.relu("relu_conv10", net.conv("conv10", x, classes))
    net.layer("Softmax", "prob", net.pool("pool10", x, method="AVE"))
    return net.recipe()
