"""Classifiers with BatchNorm and Scale: ResNet, Inception v3, MobileNet.

Each function returns a prototxt and a caffemodel. Its defaults are the published architecture;
``width`` thins the layers, ``size`` is the image's side.
"""

from __future__ import annotations

from typing import Any, Literal

from models.caffe_builder import Net, Pair, Recipe
from models.caffe_prototxt import Word

__all__ = ["inception_v3", "mobilenet_v1", "mobilenet_v2", "resnet"]

_RESNET: dict[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}
# Outputs and stride of MobileNet v1's blocks.
_MOBILENET_V1 = {
    "conv2_1": (64, 1), "conv2_2": (128, 2), "conv3_1": (128, 1), "conv3_2": (256, 2),
    "conv4_1": (256, 1), "conv4_2": (512, 2), "conv5_1": (512, 1), "conv5_2": (512, 1),
    "conv5_3": (512, 1), "conv5_4": (512, 1), "conv5_5": (512, 1), "conv5_6": (1024, 2),
    "conv6": (1024, 1),
}  # fmt: skip
# Outputs and stride of MobileNet v2's blocks; all but the first widen their input six times.
_MOBILENET_V2 = {
    "conv2_1": (16, 1), "conv2_2": (24, 2), "conv3_1": (24, 1), "conv3_2": (32, 2),
    "conv4_1": (32, 1), "conv4_2": (32, 1), "conv4_3": (64, 2), "conv4_4": (64, 1),
    "conv4_5": (64, 1), "conv4_6": (64, 1), "conv4_7": (96, 1), "conv5_1": (96, 1),
    "conv5_2": (96, 1), "conv5_3": (160, 2), "conv6_1": (160, 1), "conv6_2": (160, 1),
    "conv6_3": (320, 1),
}  # fmt: skip


def resnet(
    depth: Literal[50, 152] = 50, *, width: float = 1, size: int = 224, classes: int = 1000
) -> Recipe:
    """Return ResNet-50 or ResNet-152 (KaimingHe/deep-residual-networks)."""
    net = Net(f"ResNet-{depth}", (3, size, size), width=width)

    def conv(at: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        top = net.conv(
            f"res{at}", bottom, outputs, kernel, stride=stride, pad=kernel // 2, bias=False
        )
        # A small end of each branch, so that the sum does not grow with the depth.
        gain = 0.3 if at.endswith("2c") else 1
        return net.batch_norm(top, (f"bn{at}", f"scale{at}"), gain=gain)

    x = net.conv("conv1", "data", net.wide(64), 7, stride=2, pad=3, bias=depth == 50)
    x = net.relu("conv1_relu", net.batch_norm(x, ("bn_conv1", "scale_conv1")))
    x = net.pool("pool1", x, 3, 2)
    for stage, blocks in enumerate(_RESNET[depth], 2):
        outputs = net.wide(32 * 2 ** (stage - 1))
        for block in range(blocks):
            letter = chr(ord("a") + block) if blocks < 7 else f"b{block}" if block else "a"
            at, stride = f"{stage}{letter}", 2 if stage > 2 and not block else 1
            short = conv(f"{at}_branch1", x, 4 * outputs, stride=stride) if not block else x
            x = net.relu(
                f"res{at}_branch2a_relu", conv(f"{at}_branch2a", x, outputs, stride=stride)
            )
            x = net.relu(f"res{at}_branch2b_relu", conv(f"{at}_branch2b", x, outputs, 3))
            x = net.add(f"res{at}", short, conv(f"{at}_branch2c", x, 4 * outputs))
            net.relu(f"res{at}_relu", x, kept=0.9)
    x = net.pool("pool5", x, net.shapes[x][-1], method="AVE")
    net.classify(net.dense(f"fc{classes}", x, classes, gain=3))
    return net.recipe()


def mobilenet_v1(
    *, width: float = 1, size: int = 224, classes: int = 1000, fork: bool = False
) -> Recipe:
    """Return MobileNet v1 (shicai/MobileNet-Caffe).

    Args:
        width: Of the layers.
        size: Of the image.
        classes: How many.
        fork: Use the layers ConvolutionDepthwise and ReLU6 of forks.
    """
    net = Net("MOBILENET", (3, size, size), width=width, filler="msra")
    kind = "ConvolutionDepthwise" if fork else "Convolution"

    def conv(
        name: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1, group: int = 1
    ) -> str:
        top = net.conv(
            name, bottom, outputs, kernel, stride=stride, pad=kernel // 2, group=group, bias=False,
            kind=kind if group > 1 else "Convolution",
        )  # fmt: skip
        # ReLU6 is there to cut: wider values.
        top = net.batch_norm(top, (f"{name}/bn", f"{name}/scale"), gain=4 if fork else 1)
        return net.relu(f"relu{name.removeprefix('conv')}", top, "ReLU6" if fork else "ReLU")

    x = conv("conv1", "data", net.wide(32), 3, 2)
    for name, (outputs, stride) in _MOBILENET_V1.items():
        channels = net.shapes[x][0]
        x = conv(f"{name}/dw", x, channels, 3, stride, channels)
        x = conv(f"{name}/sep", x, net.wide(outputs))
    return _mobilenet_end(net, x, classes)


def mobilenet_v2(*, width: float = 1, size: int = 224, classes: int = 1000) -> Recipe:
    """Return MobileNet v2 (shicai/MobileNet-Caffe): the sums of its blocks have no ReLU."""
    net = Net("MOBILENET_V2", (3, size, size), source="input_shape", width=width)

    def conv(
        name: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1, group: int = 1
    ) -> str:
        options: dict[str, Any] = {"engine": Word("CAFFE")} if group > 1 else {}
        top = net.conv(
            name, bottom, outputs, kernel, stride=stride, pad=kernel // 2, group=group, bias=False,
            **options,
        )  # fmt: skip
        linear = name.endswith("/linear")
        names = f"{name}/bn", f"{name}/scale"
        top = net.batch_norm(top, names, top=names[0], gain=0.5 if linear else 1)
        return top if linear else net.relu(f"relu{name.removeprefix('conv')}", top)

    x = conv("conv1", "data", net.wide(32), 3, 2)
    for name, (outputs, stride) in _MOBILENET_V2.items():
        channels, outputs = net.shapes[x][0], net.wide(outputs)
        expanded = channels * (1 if name == "conv2_1" else 6)
        y = conv(f"{name}/expand", x, expanded)
        y = conv(f"{name}/dwise", y, expanded, 3, stride, expanded)
        y = conv(f"{name}/linear", y, outputs)
        # Thin versions may have equal widths where the published one has not.
        repeated = name not in ("conv2_1", "conv4_7", "conv6_3") and stride == 1
        x = net.add(f"block{name.removeprefix('conv')}", x, y) if repeated else y
    return _mobilenet_end(net, conv("conv6_4", x, net.wide(1280)), classes)


def _mobilenet_end(net: Net, x: str, classes: int) -> Recipe:
    x = net.conv("fc7", net.pool("pool6", x, method="AVE"), classes, gain=2)
    net.layer("Softmax", "prob", x)
    return net.recipe()


def inception_v3(*, width: float = 1, size: int = 299, classes: int = 1000) -> Recipe:
    """Return Inception v3 (soeaver/caffe-model), with asymmetric kernels and eps 0.001."""
    net = Net("Inception_v3", (3, size, size), source="input_shape", width=width, filler="xavier")

    def conv(
        name: str, bottom: str, outputs: int, kernel: Pair = 1, stride: int = 1, pad: bool = True
    ) -> str:
        sides: Pair = 0
        if pad and kernel != 1 and stride == 1:
            sides = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
        top = net.conv(
            name, bottom, net.wide(outputs), kernel, stride=stride, pad=sides, bias=False
        )
        return net.relu(
            f"{name}_relu", net.batch_norm(top, (f"{name}_bn", f"{name}_scale"), eps=0.001)
        )

    def pooled(at: str, bottom: str, method: Literal["MAX", "AVE"] = "AVE") -> str:
        return net.pool(f"{at}_pool", bottom, 3, 1, pad=1, method=method)

    x = conv("conv1_3x3_s2", "data", 32, 3, 2)
    x = conv("conv2_3x3_s1", x, 32, 3, pad=False)
    x = net.pool("pool1_3x3_s2", conv("conv3_3x3_s1", x, 64, 3), 3, 2)
    x = conv("conv4_3x3", conv("conv4_3x3_reduce", x, 80), 192, 3, pad=False)
    x = net.pool("pool2_3x3_s2", x, 3, 2)
    for number, project in enumerate((32, 64, 64), 1):
        at = f"inception_a{number}"
        double = conv(f"{at}_3x3_1", conv(f"{at}_3x3_reduce", x, 64), 96, 3)
        x = net.concat(
            f"{at}_output",
            conv(f"{at}_1x1", x, 64),
            conv(f"{at}_5x5", conv(f"{at}_5x5_reduce", x, 48), 64, 5),
            conv(f"{at}_3x3_2", double, 96, 3),
            conv(f"{at}_pool_proj", pooled(at, x), project),
        )
    double = conv("reduction_a_3x3_2", conv("reduction_a_3x3_2_reduce", x, 64), 96, 3)
    x = net.concat(
        "reduction_a_concat",
        conv("reduction_a_3x3", x, 384, 3, 2),
        conv("reduction_a_3x3_3", double, 96, 3, 2),
        net.pool("reduction_a_pool", x, 3, 2),
    )
    for number, inner in enumerate((128, 160, 160, 192), 1):
        at = f"inception_b{number}"
        single = conv(f"{at}_1x7", conv(f"{at}_1x7_reduce", x, inner), inner, (1, 7))
        double = conv(f"{at}_7x1_reduce", x, inner)
        for step, kernel in (("7x1_2", (7, 1)), ("1x7_2", (1, 7)), ("7x1_3", (7, 1))):
            double = conv(f"{at}_{step}", double, inner, kernel)
        x = net.concat(
            f"{at}_concat",
            conv(f"{at}_1x1_2", x, 192),
            conv(f"{at}_7x1", single, 192, (7, 1)),
            conv(f"{at}_1x7_3", double, 192, (1, 7)),
            conv(f"{at}_pool_proj", pooled(at, x), 192),
        )
    at = "reduction_b"
    double = conv(f"{at}_1x7", conv(f"{at}_1x7_reduce", x, 192), 192, (1, 7))
    double = conv(f"{at}_7x1", double, 192, (7, 1))
    x = net.concat(
        f"{at}_concat",
        conv(f"{at}_3x3", conv(f"{at}_3x3_reduce", x, 192), 320, 3, 2),
        conv(f"{at}_3x3_2", double, 192, 3, 2),
        net.pool(f"{at}_pool", x, 3, 2),
    )
    # The graph of 2015 pools by maximum in its last module.
    methods: tuple[Literal["MAX", "AVE"], ...] = ("AVE", "MAX")
    for number, method in enumerate(methods, 1):
        at = f"inception_c{number}"
        single = conv(f"{at}_3x3_reduce", x, 384)
        double = conv(f"{at}_3x3", conv(f"{at}_3x3_2_reduce", x, 448), 384, 3)
        x = net.concat(
            f"{at}_concat",
            conv(f"{at}_1x1", x, 320),
            conv(f"{at}_1x3", single, 384, (1, 3)),
            conv(f"{at}_3x1", single, 384, (3, 1)),
            conv(f"{at}_1x3_2", double, 384, (1, 3)),
            conv(f"{at}_3x1_2", double, 384, (3, 1)),
            conv(f"{at}_pool_proj", pooled(at, x, method), 192),
        )
    x = net.pool("pool_8x8_s1", x, net.shapes[x][-1], method="AVE")
    net.dropout("pool_8x8_s1_drop", x, 0.2)
    net.classify(net.dense("classifier", x, classes, gain=3))
    return net.recipe()
