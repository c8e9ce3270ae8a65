"""Networks in PyTorch with random weights, as ONNX files by either of its exporters.

    python -m models.torch_networks NETWORK FORM FILE

FORM is ``dynamo`` or ``torchscript``. The architectures are those of torchvision and transformers,
and YOLOv5n and YOLOv8n as published, written here; nothing is downloaded.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FORMS", "NETWORKS", "export"]

FORMS = ("dynamo", "torchscript")
# The operators of torchvision, whose compiled part may be of another build than PyTorch.
_SCHEMAS = """
nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor
qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor
roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt
  pooled_width, int sampling_ratio, bool aligned) -> Tensor
_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt
  pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width, int
  sampling_ratio, bool aligned) -> Tensor
roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt
  pooled_width) -> (Tensor, Tensor)
_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt
  pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt
  width) -> Tensor
ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt
  pooled_width, int sampling_ratio) -> (Tensor, Tensor)
_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale,
  SymInt pooled_height, SymInt pooled_width, int sampling_ratio, SymInt batch_size, SymInt
  channels, SymInt height, SymInt width) -> Tensor
ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt
  pooled_width) -> (Tensor, Tensor)
_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale,
  SymInt pooled_height, SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height,
  SymInt width) -> Tensor
deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt
  stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w,
  SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor
_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask,
  Tensor bias, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h,
  SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> (Tensor, Tensor,
  Tensor, Tensor, Tensor)
"""


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the boxes, best first, as if none overlapped: an export does not look at values."""
    return scores.argsort(descending=True)


def _roi_align(
    features: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool
) -> Tensor:
    """Return zeros of the right shape: an export looks at nothing else."""
    return features.new_zeros(rois.shape[0], features.shape[1], height, width)


def _torchvision() -> Any:
    """Import torchvision, with its operators written here where its own can't be loaded."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    _LIBRARIES.append(library)
    for schema in _SCHEMAS.replace("\n  ", " ").strip().splitlines():
        library.define(schema)
    library.impl("nms", _nms, "CPU")
    library.impl("roi_align", _roi_align, "CPU")
    found = importlib.import_module("torchvision")
    for name in ("torchvision.extension", "torchvision.ops.roi_align"):
        sys.modules[name]._has_ops = _has_ops  # type: ignore[attr-defined]
    found.ops.boxes.batched_nms = _batched_nms
    importlib.import_module("torchvision.ops._register_onnx_ops")
    return found


def _batched_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Do as torchvision does, without a look at how many boxes there are: an export can't look."""
    offsets = classes.to(boxes) * 4096.0  # further apart than any image is wide
    return torch.ops.torchvision.nms(boxes + offsets[:, None], scores, threshold)


def _has_ops() -> bool:
    return True


_LIBRARIES: list[Any] = []


class Outputs(nn.Module):
    """A network that returns a tuple of tensors, whatever it returns."""

    def __init__(self, network: nn.Module, *names: str) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the names say, or what a list holds for its first image."""
        made = self.network(*inputs)
        made = made[0] if isinstance(made, list) else made
        return tuple(made[name] for name in self.names)


class Detector(nn.Module):
    """A detector of torchvision, which wants a list of images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes, scores and classes in an image (3, H, W)."""
        found = self.network([image])[0]
        return found["boxes"], found["scores"], found["labels"]


# YOLOv5 and YOLOv8, as yolov5n and yolov8n of https://github.com/ultralytics --------------------


class Conv(nn.Module):
    """A convolution, a batch normalization and SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        if kernel == 6:
            self.conv.padding = (2, 2)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, shortcut: bool, kernels: tuple[int, int]) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, kernels[0])
        self.cv2 = Conv(channels, channels, kernels[1])
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, or the convolutions alone."""
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3(nn.Module):
    """YOLOv5's block: bottlenecks beside a convolution."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2 = Conv(inputs, half), Conv(inputs, half)
        self.cv3 = Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut, (1, 3)) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """Return both, joined."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    """YOLOv8's block: what each bottleneck made, joined."""

    def __init__(self, inputs: int, outputs: int, count: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2 = Conv(inputs, 2 * half), Conv((2 + count) * half, outputs)
        self.m = nn.ModuleList(Bottleneck(half, shortcut, (3, 3)) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """Return all of them, joined."""
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Poolings after each other, joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels // 2), Conv(channels * 2, channels)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and three poolings."""
        x = self.cv1(x)
        one = self.m(x)
        two = self.m(one)
        return self.cv2(torch.cat((x, one, two, self.m(two)), 1))


class Detect5(nn.Module):
    """YOLOv5's head: boxes by anchors of three sizes on three grids."""

    anchors = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))
    strides = (8, 16, 32)

    def __init__(self, channels: Sequence[int], classes: int = 80) -> None:
        super().__init__()
        self.no = classes + 5
        self.nc = classes
        self.m = nn.ModuleList(nn.Conv2d(width, 3 * self.no, 1) for width in channels)

    def forward(self, *features: Tensor) -> Tensor:
        """Return (N, boxes, 85)."""
        made = []
        for x, layer, anchors, stride in zip(
            features, self.m, self.anchors, self.strides, strict=True
        ):
            x = layer(x)
            n, _, h, w = x.shape
            x = x.view(n, 3, self.no, h, w).permute(0, 1, 3, 4, 2).contiguous()
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack((columns, rows), 2).expand(1, 3, h, w, 2).float() - 0.5
            size = torch.tensor(anchors).float().view(1, 3, 1, 1, 2).expand(1, 3, h, w, 2)
            xy, wh, conf = x.sigmoid().split((2, 2, self.nc + 1), 4)
            xy = (xy * 2 + grid) * stride
            wh = (wh * 2) ** 2 * size
            made.append(torch.cat((xy, wh, conf), 4).view(n, 3 * h * w, self.no))
        return torch.cat(made, 1)


class Detect8(nn.Module):
    """YOLOv8's head: distances to the four sides as the means of distributions."""

    strides = (8, 16, 32)

    def __init__(self, channels: Sequence[int], classes: int = 80) -> None:
        super().__init__()
        self.nc, self.bins = classes, 16
        box, label = max(16, channels[0] // 4, 64), max(channels[0], min(classes, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(width, box, 3), Conv(box, box, 3), nn.Conv2d(box, 64, 1))
            for width in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(
                Conv(width, label, 3), Conv(label, label, 3), nn.Conv2d(label, classes, 1)
            )
            for width in channels
        )
        self.dfl = nn.Conv2d(self.bins, 1, 1, bias=False)
        self.dfl.weight.data[:] = torch.arange(self.bins).float().view(1, self.bins, 1, 1)

    def forward(self, *features: Tensor) -> Tensor:
        """Return (N, 84, boxes)."""
        x = [torch.cat((self.cv2[i](f), self.cv3[i](f)), 1) for i, f in enumerate(features)]
        points, steps = [], []
        for f, stride in zip(x, self.strides, strict=True):
            h, w = f.shape[2:]
            rows, columns = torch.meshgrid(
                torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij"
            )
            points.append(torch.stack((columns, rows), -1).view(-1, 2))
            steps.append(torch.full((h * w, 1), float(stride)))
        anchors = torch.cat(points).transpose(0, 1).unsqueeze(0)
        stride = torch.cat(steps).transpose(0, 1)
        n = x[0].shape[0]
        joined = torch.cat([f.view(n, self.nc + 64, -1) for f in x], 2)
        box, label = joined.split((64, self.nc), 1)
        sides = self.dfl(box.view(n, 4, self.bins, -1).transpose(2, 1).softmax(1)).view(n, 4, -1)
        low, high = sides.chunk(2, 1)
        first, last = anchors - low, anchors + high
        box = torch.cat(((first + last) / 2, last - first), 1) * stride
        return torch.cat((box, label.sigmoid()), 1)


class Yolo(nn.Module):
    """The backbone and the neck that both have, with their own blocks and head."""

    def __init__(
        self, block: Callable[..., nn.Module], stem: int, head: Any, between: bool
    ) -> None:
        super().__init__()
        w = (16, 32, 64, 128, 256)
        self.between = between  # YOLOv5 narrows before it goes up
        self.stem = Conv(3, w[0], stem, 2)
        self.down = nn.ModuleList(Conv(a, b, 3, 2) for a, b in itertools.pairwise(w))
        depths = (1, 2, 3 if between else 2, 1)
        self.blocks = nn.ModuleList(
            block(c, c, n, True) for c, n in zip(w[1:], depths, strict=True)
        )
        self.sppf = SPPF(w[4])
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.narrow = nn.ModuleList([Conv(256, 128), Conv(128, 64)] if between else [])
        self.top = nn.ModuleList(
            [block(256, 128, 1, False), block(128, 64, 1, False)]
            if between
            else [block(384, 128, 1, False), block(192, 64, 1, False)]
        )
        self.back = nn.ModuleList([Conv(64, 64, 3, 2), Conv(128, 128, 3, 2)])
        self.out = nn.ModuleList(
            [block(128 if between else 192, 128, 1, False),
             block(256 if between else 384, 256, 1, False)]
        )  # fmt: skip
        self.head = head((64, 128, 256))

    def forward(self, x: Tensor) -> Tensor:
        """Return the boxes with their classes."""
        x, kept = self.stem(x), []
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(down(x))
            kept.append(x)
        x, beside = self.sppf(x), []
        for i, feature in enumerate((kept[2], kept[1])):
            x = self.narrow[i](x) if self.between else x
            beside.append(x)
            x = self.top[i](torch.cat((self.up(x), feature), 1))
        found = [x]
        for i in range(2):
            x = self.out[i](torch.cat((self.back[i](x), beside[1 - i]), 1))
            found.append(x)
        return self.head(*found)


# --------------------------------------------------------------------------------------------------


def _vision(name: str, size: int = 224) -> tuple[nn.Module, tuple[Tensor, ...]]:
    models = _torchvision().models
    return getattr(models, name)(weights=None), (torch.rand(1, 3, size, size),)


def _detector(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    detection = _torchvision().models.detection
    network = getattr(detection, name)(weights=None, weights_backbone=None)
    return Detector(network), (torch.rand(3, 320, 320),)


def _bert() -> tuple[nn.Module, tuple[Tensor, ...]]:
    import transformers

    config = transformers.BertConfig(num_hidden_layers=4, attn_implementation="eager")
    network = Outputs(transformers.BertModel(config), "last_hidden_state", "pooler_output")
    return network, (torch.randint(0, 1000, (1, 16)), torch.ones(1, 16, dtype=torch.long))


def _detr() -> tuple[nn.Module, tuple[Tensor, ...]]:
    import transformers

    backbone = transformers.ResNetConfig(
        depths=[1, 1, 1, 1], out_features=["stage4"], layer_type="bottleneck"
    )
    config = transformers.DetrConfig(
        encoder_layers=2, decoder_layers=2, backbone_config=backbone, use_timm_backbone=False,
        use_pretrained_backbone=False, backbone=None, attn_implementation="eager",
    )  # fmt: skip
    network = Outputs(transformers.DetrForObjectDetection(config), "logits", "pred_boxes")
    return network, (torch.rand(1, 3, 224, 224),)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "vit_b_16": lambda: _vision("vit_b_16"),
    "swin_t": lambda: _vision("swin_t"),
    "bert": _bert,
    "detr": _detr,
    "yolov5n": lambda: (Yolo(C3, 6, Detect5, True), (torch.rand(1, 3, 320, 320),)),
    "yolov8n": lambda: (Yolo(C2f, 3, Detect8, False), (torch.rand(1, 3, 320, 320),)),
    "efficientnet_b0": lambda: _vision("efficientnet_b0"),
    "convnext_tiny": lambda: _vision("convnext_tiny"),
    "ssdlite": lambda: _detector("ssdlite320_mobilenet_v3_large"),
    "fasterrcnn": lambda: _detector("fasterrcnn_mobilenet_v3_large_320_fpn"),
}


def export(name: str, form: str, path: str) -> None:
    """Write a network as an ONNX file of one piece, as PyTorch's exporter does by default."""
    torch.manual_seed(0)
    network, example = NETWORKS[name]()
    network.eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for weight in network.parameters():
            if weight.ndim > 1 and not weight.any():  # a head that shows nothing of the rest
                weight.normal_(std=0.02)
    dynamo = form == "dynamo"
    torch.onnx.export(
        network, example, path, dynamo=dynamo, verbose=False,
        **({"external_data": False} if dynamo else {}),
    )  # type: ignore[arg-type]  # fmt: skip


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    export(*sys.argv[1:])
