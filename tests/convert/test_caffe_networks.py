"""Whole Caffe networks, thinned, against OpenCV DNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from models.caffe_batchnorm import inception_v3, mobilenet_v1, mobilenet_v2, resnet
from models.caffe_builder import Recipe
from models.caffe_classifiers import alexnet, caffenet, googlenet, lenet, squeezenet, vgg
from models.caffe_detection import ssd300
from models.caffe_segmentation import enet, fcn8s, pspnet, segnet_basic
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import surgery
from onnxgraft.stages.convert import Original
from tests.conftest import few

# Of an output's range. Both runtimes add in float32, in different orders: some 1e-6 of the largest
# value of each layer, which up to 150 layers carry on. What a converter gets wrong (a divisor, a
# pad, a constant) is off by more than 1e-3.
TOLERANCE = 1e-4

# Why OpenCV runs a net in place of another, with the same weights.
TRAINED = "OpenCV has no data layers, and takes those of two phases for two producers of one blob"
FILLED = "OpenCV wants the weights of every layer in the caffemodel"
BN = "OpenCV has no BN; BatchNorm and Scale, or Scale alone, compute the same"


@dataclass(frozen=True)
class Case:
    """A thin network.

    Attributes:
        name: For people.
        recipe: Returns prototxt and caffemodel.
        image: The shape of an image.
        outputs: The blobs that nothing consumes, as the prototxt has them.
        reference: The recipe that OpenCV runs, where it can't run the network itself.
        why: Why it can't.
        batches: To run.
    """

    name: str
    recipe: Callable[[], Recipe]
    image: tuple[int, ...]
    outputs: tuple[str, ...] = ("prob",)
    reference: Callable[[], Recipe] | None = None
    why: str = ""
    batches: tuple[int, ...] = (1, 3)


def case(
    name: str,
    recipe: Callable[..., Recipe],
    image: int | tuple[int, int],
    outputs: Sequence[str] = ("prob",),
    reference: Mapping[str, Any] | None = None,
    why: str = "",
    batches: tuple[int, ...] = (1, 3),
    **options: Any,
) -> Case:
    """Return a `Case`; ``reference`` are the options that differ in the net that OpenCV runs."""
    size = image if isinstance(image, tuple) else (image, image)
    thin = partial(recipe, **options)
    other = partial(thin, **reference) if reference else None
    shape = (1 if recipe is lenet else 3, *size)
    return Case(name, thin, shape, tuple(outputs), other, why, batches)


SIDES = tuple(f"loss{number}/classifier" for number in (1, 2, 3))
HEADS = ("mbox_loc", "mbox_priorbox", "mbox_conf_flatten")

CASES = [
    case("lenet", lenet, 28, width=0.4),
    case(
        "lenet_train_val", lenet, 28, ["ip2"], {"trained": False}, TRAINED, width=0.4, trained=True
    ),
    case("alexnet", alexnet, 99, width=0.16, size=99, classes=10),
    case(
        "alexnet_train_val", alexnet, 99, ["fc8"], {"trained": False}, TRAINED, width=0.16,
        size=99, classes=10, trained=True,
    ),
    case("caffenet_v0_syntax", caffenet, 99, width=0.16, size=99, classes=10),
    case("googlenet", googlenet, 96, width=0.125, size=96, classes=10),
    case(
        "googlenet_train_val", googlenet, 128, SIDES, {"form": "auxiliary"}, TRAINED, width=0.125,
        size=128, classes=10, form="trained",
    ),
    case("vgg16_v1_syntax", vgg, 64, width=0.125, size=64, classes=10),
    case("vgg19", vgg, 64, depth=19, width=0.125, size=64, classes=10, syntax="current"),
    case("squeezenet", squeezenet, 67, width=0.25, size=67, classes=10),
    case("resnet50", resnet, 64, width=0.125, size=64, classes=10),
    case("resnet152", resnet, 64, depth=152, width=0.125, size=64, classes=10),
    case("mobilenet_v1", mobilenet_v1, 64, width=0.25, size=64, classes=10),
    case("mobilenet_v1_fork", mobilenet_v1, 64, width=0.25, size=64, classes=10, fork=True),
    case("mobilenet_v2", mobilenet_v2, 64, width=0.25, size=64, classes=10),
    case("inception_v3", inception_v3, 107, width=0.125, size=107, classes=10),
    case("fcn8s", fcn8s, 48, ["score"], width=0.125, size=48, classes=5),
    case(
        "fcn8s_bilinear_filler", fcn8s, 48, ["score"], {"stored_filler": True}, FILLED,
        width=0.125, size=48, classes=5, stored_filler=False,
    ),
    case("segnet_basic", segnet_basic, (40, 48), ["prob"], {"fork": False}, BN, width=0.125,
         size=(40, 48)),
    case("enet", enet, (64, 96), ["deconv6_0_0"], {"fork": False}, BN, width=0.25, size=(64, 96),
         dropout=False),
    case("enet_python_layers", enet, (64, 96), ["deconv6_0_0"], {"fork": False, "dropout": False},
         BN, width=0.25, size=(64, 96)),
    case("pspnet50_batchnorm", pspnet, 41, ["conv6_interp"], width=0.125, size=41, classes=6,
         norm="BatchNorm"),
    case("pspnet50", pspnet, 41, ["conv6_interp"], {"norm": "BatchNorm"}, BN, width=0.125,
         size=41, classes=6),
    case("ssd300_heads", ssd300, 300, HEADS, width=0.125, classes=4, detections=False),
    # With more to keep, some would have scores so close that rounding may decide their order.
    case("ssd300", ssd300, 300, ["detection_out"], width=0.125, classes=4, keep=50),
]  # fmt: skip


class Upsample:
    """SegNet's Upsample for OpenCV, which has none; an exception in here would hang OpenCV."""

    def __init__(self, params: Mapping[str, Any], _: Sequence[Array]) -> None:
        self._scale = int(params["scale"])
        self._odd = [int(params[key]) for key in ("upsample_h", "upsample_w") if key in params]

    def getMemoryShapes(self, inputs: Sequence[Sequence[int]]) -> list[list[int]]:
        rows, planes, *size = inputs[0]
        return [[rows, planes, *(self._odd or [self._scale * side for side in size])]]

    def forward(self, inputs: Sequence[Array]) -> list[Array]:
        values, mask = inputs
        (shape,) = self.getMemoryShapes([values.shape])
        out = np.zeros((shape[0] * shape[1], shape[2] * shape[3]), np.float32)
        places = mask.astype(np.int64).reshape(len(out), -1)
        np.put_along_axis(out, places, values.reshape(len(out), -1), axis=1)
        return [out.reshape(shape)]


@pytest.fixture(autouse=True)
def upsample() -> Iterator[None]:
    """Let OpenCV know the layer."""
    cv2.dnn_registerLayer("Upsample", Upsample)
    yield
    cv2.dnn_unregisterLayer("Upsample")


def opencv(recipe: Recipe, outputs: Sequence[str], images: Array) -> dict[str, Array]:
    """Return what OpenCV computes."""
    text, weights = recipe
    net = cv2.dnn.readNetFromCaffe(
        np.frombuffer(text.encode(), np.uint8), np.frombuffer(weights, np.uint8)
    )
    net.enableWinograd(False)  # its rounding is a hundred times that of a plain convolution
    net.setInput(images)
    return {
        name: np.array(value) for name, value in zip(outputs, net.forward(outputs), strict=True)
    }


def by_label(rows: Array) -> Array:
    """Sort detections by image, label and score, as Caffe writes them.

    Where there are more than may be kept, OpenCV writes them by score.
    """
    image, label, score = rows[0, 0, :, :3].T
    return rows[:, :, np.lexsort((-score, label, image))]


def images(case: Case, batch: int) -> Array:
    return np.random.default_rng(1).standard_normal((batch, *case.image)).astype(np.float32)


@pytest.fixture(params=few(CASES, 9), ids=lambda case: case.name)
def network(request: pytest.FixtureRequest) -> Case:
    """Return each network."""
    return request.param


def test_the_reference_says_something(network: Case) -> None:
    """Outputs that are infinite, or the same for each image and place, would prove nothing."""
    expected = opencv((network.reference or network.recipe)(), network.outputs, images(network, 2))
    for name, value in expected.items():
        assert np.isfinite(value).all()
        assert np.ptp(value) > 1e-2, name
        if len(value) == 2:
            assert np.abs(value[0] - value[1]).max() > 1e-3 * np.ptp(value), name


def test_a_network_computes_what_it_does_in_opencv(network: Case, tmp_path: Path) -> None:
    text, weights = network.recipe()
    file, blobs = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    file.write_text(text)
    blobs.write_bytes(weights)
    channels, height, width = network.image
    shape = f"data[1,{channels},{height},{width}]" if 'type: "Data"' in text else None
    model, _ = Original.of(file, weights=blobs, inputs=shape).lower()
    onnx.checker.check_model(model.to_onnx(), full_check=True)  # with strict shape inference
    cleaned, report = surgery.run(model, verify=True)
    assert report.passed
    onnx.checker.check_model(cleaned.to_onnx(), full_check=True)
    assert not {"BatchNormalization", "Identity", "Dropout"} & set(cleaned.operators())
    reference = network.reference() if network.reference else (text, weights)
    with OnnxRuntime(model.to_onnx()) as session:
        assert [spec.name for spec in session.inputs] == ["data"]
        for batch in network.batches:
            feed = images(network, batch)
            actual = session.infer({"data": feed})
            assert list(actual) == list(network.outputs)
            for name, value in opencv(reference, network.outputs, feed).items():
                assert actual[name].shape == value.shape, name
                if name == "detection_out":
                    value = by_label(value)
                atol = TOLERANCE * float(np.ptp(value))
                np.testing.assert_allclose(actual[name], value, rtol=0, atol=atol, err_msg=name)
