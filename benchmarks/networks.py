"""The networks of the benchmarks of INT8, each on its way: float graph, data, metric.

Those of street scenes are trained, and judged by their metric. Those of random weights, made by
models/keras_networks.py, have none; their inputs are the same images, or token ids that are drawn
at random. The networks and images are found by what fcn_camvid.toml names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import peers

from onnxgraft import commands
from onnxgraft.commands._calibrate import measured
from onnxgraft.data.labels import Labels, labelled, read_labels
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Sample, Samples, open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Outputs, TensorSpec
from onnxgraft.stages import quantize
from onnxgraft.stages.validate import make_metric
from onnxgraft.stages.validate.metrics import Answered, Metric

__all__ = ["CALIBRATION", "NETWORKS", "RECIPE", "Network", "Road", "chosen"]

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
ROOT = Path(__file__).parent.parent
CALIBRATION, VALIDATION = 100, 101
# On so many images the batch normalizations of random weights see what is usual.
SETTLING = 16


@dataclass(frozen=True)
class Network:
    """A network and how it is judged.

    Attributes:
        name: Of its folder, or of that in models/keras_networks.py.
        file: In its folder; none for random weights.
        metric: ``miou`` or ``map``; none for random weights.
        outputs: Where its graph is cut.
        preprocess: Fields in place of the recipe's.
        tokens: Length and number of kinds of token ids, where it reads such.
        transformer: Whether it is one.
    """

    name: str
    file: str = ""
    metric: str = ""
    outputs: str | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    tokens: tuple[int, int] | None = None
    transformer: bool = False


_RGB = {"color": "rgb", "scale": (1 / 255,), "mean": (0.0,)}
# ImageNet's, near enough: images from -1 to 1.
_SMALL = {**_RGB, "crop": None, "resize": (224, 224), "scale": (1 / 127.5,), "mean": (127.5,)}
NETWORKS = (
    Network("fcn_camvid", "fcn_camvid.pb", "miou", "score:0"),
    Network("mobilenet_camvid", "mobilenet_camvid.pb", "miou", "score:0"),
    Network("segformer_camvid", "segformer_camvid.onnx", "miou", transformer=True),
    Network("yolo_camvid", "yolo_camvid.onnx", "map", preprocess=_RGB),
    Network("resnet50", preprocess=_SMALL),
    Network("mobilenet_v2", preprocess=_SMALL),
    Network("text_encoder", tokens=(64, 1000), transformer=True),
)


def chosen(names: Iterable[str]) -> list[Network]:
    """Return the networks of these names."""
    known = {network.name: network for network in NETWORKS}
    return [known[name] for name in names]


class Road:
    """One network on its way: float graph, data, metric, and what is kept in a folder.

    Attributes:
        network: Which.
        folder: Its own; what an earlier process left there is taken.
        model: The float graph, converted and cleaned.
        calibration: Samples.
        validation: Samples; of random weights, those whose noise is measured.
        labels: By image, where they are in a file.
    """

    def __init__(
        self,
        network: Network,
        folder: Path,
        images: int | None = None,
        calibration: int = CALIBRATION,
    ) -> None:
        """Convert and clean.

        Args:
            network: Which.
            folder: Of all networks.
            images: For validation; all if None.
            calibration: How many images there are for it.
        """
        self.network, self.folder = network, folder / f"{network.name}-{calibration}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._recipe = commands.read_recipe(RECIPE)
        self.preprocess = Preprocess.model_validate({
            **self._recipe.preprocess.model_dump(), **network.preprocess
        })  # fmt: skip
        file = self.folder / "float.onnx"
        if not file.exists():
            source = self._trained() if network.file else self._random()
            whole = commands.convert(source, outputs=network.outputs, verify=False).model
            commands.surgery(whole, file, verify=False)
        self.model = Model.load(file)
        self.calibration = self._samples("calibration", calibration)
        self.validation = self._samples("validation", images)
        self.labels = Labels()
        if network.metric == "map":
            self.labels = read_labels(self._data("validation").with_name("val_boxes.json"))

    def _trained(self) -> Path:
        return Path(self._recipe.model).parent.parent / self.network.name / self.network.file

    def _random(self) -> Path:
        """Make the network; its batch normalizations have seen images."""
        made, seen = self.folder / "saved", self.folder / "seen.npz"
        if self.network.tokens is None:
            assert self.preprocess.resize is not None
            spec = TensorSpec("x", "float32", ("N", *self.preprocess.resize, 3))
            images = open_samples(self._data("calibration"), [spec], self.preprocess)
            np.savez(seen, x=np.concatenate([s.feeds["x"] for s in images.head(SETTLING)]))
        subprocess.run(
            [sys.executable, "-m", "models.keras_networks", self.network.name, made,
             *[seen] * seen.exists()],
            check=True, capture_output=True, cwd=ROOT,
        )  # fmt: skip
        return made

    def _data(self, use: str) -> Path:
        table = self._recipe.calibrate if use == "calibration" else self._recipe.validation
        return Path(table.data)

    def _samples(self, use: str, count: int | None) -> Samples:
        if self.network.tokens is None:
            return open_samples(self._data(use), self.model.inputs, self.preprocess, images=count)
        file, (length, kinds) = self.folder / f"{use}.npz", self.network.tokens
        (spec,) = self.model.inputs
        rng = np.random.default_rng(0 if use == "calibration" else 1)
        ids = rng.integers(
            kinds, size=(CALIBRATION if use == "calibration" else VALIDATION, length)
        )
        np.savez(file, **{spec.name: ids.astype(spec.dtype)})
        return open_samples(file, self.model.inputs, images=count)

    @cached_property
    def ranges(self) -> Ranges:
        """The ranges by what is best for the whole network, as `onnxgraft calibrate` has them."""
        file = self.folder / "ranges.json"
        if not file.exists():
            measured(self.model, self.calibration, quantize.AUTO).save(file)
        return Ranges.load(file, histograms=True)

    def metric(self) -> Metric | None:
        """Return a new metric; None where there is none."""
        how = Postprocess(form="yolov5") if self.network.metric == "map" else None
        classes = "camvid" if self.network.metric == "miou" else None
        return make_metric(self.network.metric, classes, how) if self.network.metric else None

    def add(self, metric: Metric | None, sample: Sample, outputs: Outputs) -> None:
        """Take the answers to a sample into a metric, if there is one."""
        if metric is None:
            return
        if self.labels:
            sample = labelled(sample, self.labels, self.preprocess)
        assert sample.label is not None
        metric.add(Answered(next(iter(outputs.values())), outputs, sample.picture), sample.label)

    def peer(self, name: str) -> tuple[Path, peers.Cost]:
        """Return the file that one of `peers.PEERS` makes of the float graph, and its cost.

        Raises:
            peers.Refused: There is none.
        """
        out = self._out(name)
        cost, data = self.folder / f"{name}.json", self.folder / "feeds.npz"
        if not cost.exists():
            if not data.exists():
                feeds = [sample.feeds for sample in self.calibration]
                np.savez(data, **{n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]})
            found = peers.run(
                name, Path(self.model.file), data, out, transformer=self.network.transformer
            )
            cost.write_text(json.dumps(asdict(found)))
        return out, peers.Cost(**json.loads(cost.read_text()))

    def made(self, name: str) -> Path:
        """Return the file that `peer` has made.

        Raises:
            peers.Refused: It has not made one.
        """
        if not (self.folder / f"{name}.json").exists():
            raise peers.Refused(f"{name} made nothing of {self.network.name}")
        return self._out(name)

    def _out(self, name: str) -> Path:
        return self.folder / f"{name}{peers.PEERS[name].suffix}"
