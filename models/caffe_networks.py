"""The classic Caffe networks by name, with random weights.

    python -m models.caffe_networks NAME FOLDER

writes ``NAME.prototxt`` and ``NAME.caffemodel`` into FOLDER, in the published size. They show how
such a network is converted and how fast it runs, not what it recognizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from models.caffe_batchnorm import inception_v3, mobilenet_v1, mobilenet_v2, resnet
from models.caffe_builder import Recipe
from models.caffe_classifiers import alexnet, caffenet, googlenet, lenet, squeezenet, vgg
from models.caffe_detection import ssd300
from models.caffe_segmentation import enet, fcn8s, fcn_vgg16, pspnet, segnet_basic

__all__ = ["NETWORKS"]

NETWORKS: dict[str, Callable[[], Recipe]] = {
    "alexnet": alexnet,
    "caffenet": caffenet,
    "enet": enet,
    "fcn8s": fcn8s,
    "fcn_vgg16": fcn_vgg16,
    "googlenet": googlenet,
    "inception_v3": inception_v3,
    "lenet": lenet,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "pspnet50": pspnet,
    "resnet50": resnet,
    "resnet152": lambda: resnet(152),
    "segnet_basic": segnet_basic,
    "squeezenet": squeezenet,
    "ssd300": ssd300,
    "vgg16": vgg,
    "vgg19": lambda: vgg(19, syntax="current"),
}


def main() -> None:
    """Write a network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    text, weights = NETWORKS[options.name]()
    path = options.folder / options.name
    path.with_suffix(".prototxt").write_text(text)
    path.with_suffix(".caffemodel").write_bytes(weights)
    print(f"{path}.prototxt and .caffemodel: {len(weights) / 1e6:.1f} MB of random weights")


if __name__ == "__main__":
    main()
