"""Segmentation: FCN-8s, SegNet, ENet, PSPNet.

Each function returns a prototxt and a caffemodel. Its defaults are the published architecture;
``width`` thins the layers, ``size`` is the image's side, or its height and width. The layers of
forks (BN, Upsample, Python) have an option that replaces them, where other layers compute the
same: the weights stay.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from models.caffe_builder import Net, Recipe

__all__ = ["enet", "fcn8s", "fcn_vgg16", "pspnet", "segnet_basic"]

# Kind and parameter of the bottlenecks of ENet's stages two and three.
_ENET = (
    ("regular", 1), ("dilated", 2), ("asymmetric", 5), ("dilated", 4),
    ("regular", 1), ("dilated", 8), ("asymmetric", 5), ("dilated", 16),
)  # fmt: skip


def fcn8s(
    *, width: float = 1, size: int = 500, classes: int = 21, stored_filler: bool = True
) -> Recipe:
    """Return FCN-8s (voc-fcn8s): VGG-16 with a pad of 100, upsampled, cropped and summed.

    Args:
        width: Of the layers.
        size: Of the image.
        classes: How many.
        stored_filler: False leaves the last deconvolution's weights to its bilinear filler.
    """
    net = Net("fcn8s", (3, size, size), source="Input", width=width)
    x, ends = "data", {}
    for block, (convolutions, outputs) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1
    ):
        for number in range(1, convolutions + 1):
            pad = 100 if (block, number) == (1, 1) else 1
            x = net.conv(f"conv{block}_{number}", x, net.wide(outputs), 3, pad=pad)
            net.relu(f"relu{block}_{number}", x)
        x = ends[block] = net.pool(f"pool{block}", x, 2, 2)
    for number, kernel in ((6, 7), (7, 1)):
        x = net.relu(f"relu{number}", net.conv(f"fc{number}", x, net.wide(4096), kernel))
        net.dropout(f"drop{number}", x)
    x = net.deconv("upscore2", net.conv("score_fr", x, classes), classes, 4, 2)
    score = net.conv("score_pool4", ends[4], classes)
    x = net.add("fuse_pool4", x, _crop(net, "score_pool4c", score, x, 5), operation="SUM")
    x = net.deconv("upscore_pool4", x, classes, 4, 2, bilinear=True)
    score = net.conv("score_pool3", ends[3], classes)
    x = net.add("fuse_pool3", x, _crop(net, "score_pool3c", score, x, 9), operation="SUM")
    x = net.deconv("upscore8", x, classes, 16, 8, bilinear=True)
    if not stored_filler:
        net.forget("upscore8")
    _crop(net, "score", x, "data", 31)
    return net.recipe()


def _crop(net: Net, name: str, bottom: str, like: str, offset: int) -> str:
    shape = (net.shapes[bottom][0], *net.shapes[like][1:])
    return net.layer(
        "Crop", name, [bottom, like], shape=shape, crop_param={"axis": 2, "offset": offset}
    )


def fcn_vgg16(
    *, width: float = 1, size: tuple[int, int] = (512, 1024), classes: int = 19
) -> Recipe:
    """Return the street-scene network of NVIDIA's article on fast INT8 inference.

    The article says: a variant of FCN for 512x1024 images, a VGG-16 encoder and two deconvolution
    layers, 19 classes. Here the encoder is VGG-16 without its dense layers, scored after the
    fourth and the fifth pooling as FCN-16s is, upsampled by 2 and by 16.

    Args:
        width: Of the layers.
        size: Height and width of the image, multiples of 32.
        classes: How many.
    """
    net = Net("fcn_vgg16", (3, *size), source="Input", width=width)
    x, ends = "data", {}
    for block, (convolutions, outputs) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1
    ):
        for number in range(1, convolutions + 1):
            x = net.conv(f"conv{block}_{number}", x, net.wide(outputs), 3, pad=1)
            net.relu(f"relu{block}_{number}", x)
        x = ends[block] = net.pool(f"pool{block}", x, 2, 2)
    x = net.deconv("upscore2", net.conv("score_pool5", x, classes), classes, 4, 2, pad=1)
    x = net.add("fuse_pool4", x, net.conv("score_pool4", ends[4], classes), operation="SUM")
    net.deconv("score", x, classes, 32, 16, pad=8)
    return net.recipe()


def segnet_basic(
    *,
    width: float = 1,
    size: tuple[int, int] = (360, 480),
    classes: int = 11,
    fork: bool = True,
) -> Recipe:
    """Return SegNet-Basic: the decoder puts values where the encoder's pooling found them.

    Args:
        width: Of the layers.
        size: Height and width of the image, multiples of eight; an odd eighth is what makes
            ``upsample_h`` needed.
        classes: How many.
        fork: False writes Scale for the fork's BN.
    """
    net = Net("segnet", (3, *size), width=width, filler="msra")
    planes = net.wide(64)
    x = net.lrn("norm", "data")
    sizes: dict[int, tuple[int, ...]] = {}
    for number in range(1, 5):
        x = net.conv(f"conv{number}", x, planes, 7, pad=3)
        x = net.relu(f"relu{number}", net.affine(f"conv{number}_bn", x, top=x, fork=fork))
        sizes[number] = net.shapes[x][1:]
        x = net.pool(f"pool{number}", x, 2, 2, mask=True)
    for number in range(4, 0, -1):
        height, wide = sizes[number]
        odd = {"upsample_w": wide, "upsample_h": height} if number == 4 else {}
        x = net.layer(
            "Upsample", f"upsample{number}", [x, f"pool{number}_mask"],
            shape=(planes, height, wide), spread=0.5, upsample_param={"scale": 2} | odd,
        )  # fmt: skip
        x = net.conv(f"conv_decode{number}", x, planes, 7, pad=3)
        net.affine(f"conv_decode{number}_bn", x, top=x, fork=fork)
    x = net.conv("conv_classifier", x, classes)
    net.layer("Softmax", "prob", x)
    return net.recipe()


def enet(
    *,
    width: float = 1,
    size: tuple[int, int] = (512, 1024),
    classes: int = 19,
    fork: bool = True,
    dropout: bool = True,
) -> Recipe:
    """Return ENet (TimoSaemann/ENet): dilated and asymmetric bottlenecks, PReLU.

    Args:
        width: Of the layers.
        size: Height and width of the image, multiples of eight.
        classes: How many.
        fork: False writes Scale for the fork's BN.
        dropout: Write the Python layers that drop whole channels in training.
    """
    net = Net("ENet", (3, *size), source="Input", width=width)
    add = partial(_bottleneck, net, fork=fork, dropout=dropout)
    pooled = net.pool("pool0_1", "data", 2, 2)
    x = net.conv("conv0_1", "data", 13, 3, stride=2, pad=1)
    x = net.prelu("prelu0_1", net.affine("bn0_1", net.concat("concat0_1", x, pooled), fork=fork))
    x = add(x, "1_0", 64, "down")
    for number in range(1, 5):
        x = add(x, f"1_{number}", 64)
    x = add(x, "2_0", 128, "down")
    for stage in (2, 3):
        for number, (kind, parameter) in enumerate(_ENET, 1):
            x = add(x, f"{stage}_{number}", 128, kind, parameter)
    x = add(x, "4_0", 64, "up")
    for number in (1, 2):
        x = add(x, f"4_{number}", 64, relu=True)
    x = add(x, "5_0", 16, "up")
    x = add(x, "5_1", 16, relu=True)
    net.deconv("deconv6_0_0", x, classes, 2, 2, bias=True)
    return net.recipe()


def _bottleneck(
    net: Net,
    x: str,
    at: str,
    outputs: int,
    kind: str = "regular",
    parameter: int = 1,
    *,
    relu: bool = False,
    fork: bool,
    dropout: bool,
) -> str:
    stage = int(at[0])
    # The last stage puts values where the image's three channels and 13 more were pooled.
    outputs = outputs if stage == 5 else net.wide(outputs)
    inner = max(4, outputs // 4)

    def ended(step: str, top: str) -> str:
        top = net.affine(f"bn{at}_{step}", top, fork=fork)
        return activated(step, top)

    def activated(step: str, top: str) -> str:
        name = f"prelu{at}_{step}"
        return net.layer("ReLU", name, top) if relu or kind == "up" else net.prelu(name, top)

    size = 2 if kind == "down" else 1
    y = ended("0", net.conv(f"conv{at}_0", x, inner, size, stride=size, bias=False))
    if kind == "up":
        y = net.deconv(f"deconv{at}_1", y, inner, 2, 2, bias=True)
    elif kind == "asymmetric":
        # Both pad by one each way: the first loses rows and gains columns, the second the reverse.
        y = net.conv(f"conv{at}_1_a", y, inner, (parameter, 1), pad=1, bias=False)
        y = net.conv(f"conv{at}_1", y, inner, (1, parameter), pad=1)
    else:
        y = net.conv(f"conv{at}_1", y, inner, 3, pad=parameter, dilation=parameter)
    y = net.conv(f"conv{at}_2", ended("1", y), outputs, bias=False)
    y = net.affine(f"bn{at}_2", y, fork=fork)
    if dropout:
        options = f"{{'phase': 'TEST', 'p': '{'0.01' if stage == 1 else '0.1'}'}}"
        layer = {"module": "spatial_dropout", "layer": "SpatialDropoutLayer", "param_str": options}
        y = net.layer("Python", f"drop{at}_3", y, python_param=layer)
    short = x
    if kind == "down":
        short = net.pool(f"pool{at}_4", x, 2, 2, mask=True)
    if kind in ("down", "up"):
        short = net.conv(f"conv{at}_4", short, outputs, bias=False)
        short = net.affine(f"bn{at}_4", short, fork=fork)
    if kind == "up":
        mask = "pool2_0_4_mask" if stage == 4 else "pool1_0_4_mask"
        short = net.layer(
            "Upsample", f"upsample{at}_4", [short, mask], spread=0.5,
            shape=(outputs, *net.shapes[y][1:]), upsample_param={"scale": 2},
        )  # fmt: skip
    return activated("4", net.add(f"eltwise{at}_4", y, short))


def pspnet(
    *,
    width: float = 1,
    size: int = 473,
    classes: int = 150,
    norm: Literal["BN", "BatchNorm"] = "BN",
) -> Recipe:
    """Return PSPNet-50 (pspnet50_ADE20K_473).

    Args:
        width: Of the layers.
        size: Of the image: 8n + 1, where n is a multiple of six, less eight.
        classes: How many.
        norm: BN is the fork's, with four blobs.
    """
    net = Net("pspnet50", (3, size, size), width=width, filler="msra")

    def conv(
        name: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1
    ) -> str:
        top = net.conv(
            name, bottom, net.wide(outputs), kernel, stride=stride, dilation=dilation, bias=False,
            pad=dilation * (kernel // 2),
        )  # fmt: skip
        gain = 0.4 if name.endswith("_increase") else 1
        names = f"{name}/bn", f"{name}/scale"
        return net.batch_norm(top, names, gain=gain, four=norm == "BN")

    def active(top: str) -> str:
        return net.relu(f"{top}/relu", top)

    x = active(conv("conv1_1_3x3_s2", "data", 64, 3, 2))
    x = active(conv("conv1_2_3x3", x, 64, 3))
    x = active(conv("conv1_3_3x3", x, 128, 3))
    x = net.pool("pool1_3x3_s2", x, 3, 2, pad=1)
    for stage, (blocks, dilation) in enumerate(((3, 1), (4, 1), (6, 2), (3, 4)), 2):
        outputs = 32 * 2 ** (stage - 1)
        for block in range(1, blocks + 1):
            at, stride = f"conv{stage}_{block}", 2 if (stage, block) == (3, 1) else 1
            y = active(conv(f"{at}_1x1_reduce", x, outputs, stride=stride))
            y = active(conv(f"{at}_3x3", y, outputs, 3, dilation=dilation))
            y = conv(f"{at}_1x1_increase", y, 4 * outputs)
            short = x
            if block == 1:
                short = conv(f"{at}_1x1_proj", x, 4 * outputs, stride=stride)
            x = net.relu(f"{at}/relu", net.add(at, short, y, operation="SUM"), kept=0.9)
    side = net.shapes[x][-1]
    ends = []
    for bins in (1, 2, 3, 6):
        at = f"conv5_3_pool{bins}"
        y = net.pool(at, x, side // bins, side // bins, method="AVE")
        y = active(conv(f"{at}_conv", y, 512))
        ends.append(_interp(net, f"conv5_3_pool{bins}_interp", y, side, height=side, width=side))
    x = active(conv("conv5_4", net.concat("conv5_3_concat", x, *reversed(ends)), 512, 3))
    net.dropout("conv5_4/dropout", x, 0.1)
    x = net.conv("conv6", x, classes)
    _interp(net, "conv6_interp", x, size, zoom_factor=8)
    return net.recipe()


def _interp(net: Net, name: str, bottom: str, side: int, **options: int) -> str:
    shape = (net.shapes[bottom][0], side, side)
    return net.layer("Interp", name, bottom, shape=shape, interp_param=options)
