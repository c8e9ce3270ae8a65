"""From a framework's model to an engine in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxgraft.commands._assumed import assumed
from onnxgraft.commands._evidence import evidence, work_of
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.commands._opening import ModelGiven, Place
from onnxgraft.commands._served import Hook, feeds_of
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Data, Samples, open_samples
from onnxgraft.data.streams import is_data
from onnxgraft.errors import InputError, nearest
from onnxgraft.files.trust import Trust
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run.engine import Resource
from onnxgraft.stages import engine, quantize, surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.targets import Precision, find_target
from onnxgraft.targets.cpu import Cpu

__all__ = ["LiteEngine"]


class LiteEngine(Resource):
    """An engine made of a Caffe, TensorFlow or ONNX model, with hooks before and after it.

    What TensorRT 3 had as ``tensorrt.lite.Engine``: the model is converted, cleaned, calibrated
    and quantized if INT8 is asked for, built, and loaded.

    Args:
        model: Whatever `convert` reads.
        target: The engine's library; None takes TensorRT where it is, else OpenVINO.
        precision: ``int8`` needs ``calibration``.
        calibration: Representative data: a folder, a list file or an ``.npz``.
        images: How many of them; None takes all.
        preprocess: The recipe of the calibration's images.
        preprocessors: Input -> a function of one sample, (C, H, W) or as the input is.
        postprocessors: Output -> a function of one sample's output.
        options: Of the build.
        path: Where to keep the engine and its passport; None keeps them in memory alone.
        weights: The weights of a Caffe network.
        inputs: Where to cut the graph's beginning.
        outputs: Where to cut its end.
        values: Placeholders and constants to set.
        trust: Load a Keras file or a .pt2 that brings code.

    Raises:
        InputError: INT8 without data, or a hook of an unknown name, or what each stage refuses.
    """

    def __init__(
        self,
        model: ModelGiven,
        *,
        target: str | None = None,
        precision: Precision = "fp32",
        calibration: Data = None,
        images: int | None = None,
        preprocess: Preprocess | None = None,
        preprocessors: Mapping[str, Hook] | None = None,
        postprocessors: Mapping[str, Hook] | None = None,
        options: BuildOptions | None = None,
        path: Place | None = None,
        weights: Place | None = None,
        inputs: str | None = None,
        outputs: str | None = None,
        values: Sequence[str] = (),
        trust: Trust = False,
    ) -> None:
        target = target or engine.default_target()
        original = Original.of(
            model, weights=weights, inputs=inputs, outputs=outputs, values=values, trust=trust
        )
        lowered, self.notes = original.lower(
            oldest=quantize.OLDEST_OPSET if precision == "int8" else 0
        )
        original.forget()
        graph, _ = surgery.run(lowered)
        self._before, self._after = dict(preprocessors or {}), dict(postprocessors or {})
        _check("preprocessors", self._before, graph.inputs)
        _check("postprocessors", self._after, graph.outputs)
        feeds: Iterable[Feeds] = ()
        known: Place | Samples | None = None
        options = options or BuildOptions()
        cpu = find_target(target).cpu() if options.on_cpu else Cpu()
        if precision == "int8":
            if calibration is None:
                raise InputError("INT8 needs representative data: name it with calibration")
            preprocess, told = assumed(preprocess, calibration, lowered.metadata, graph.inputs)
            samples = open_samples(calibration, graph.inputs, preprocess, images=images)
            self.notes += [told] if told else []
            feeds = (sample.feeds for sample in samples)
            known = samples if is_data(calibration) else calibration
            made = int8_graph(
                graph, quantize.calibrate(graph, samples),
                QuantizeOptions(
                    table=quantize.placement(target, cpu),
                    improvements=quantize.IMPROVEMENTS,
                    calibration=samples,
                ),
            )  # fmt: skip
            graph = made.model
            self.notes += [*samples.notes, *made.notes]
        used = evidence(
            data=known,
            tables=None if preprocess is None else (preprocess, Postprocess()),
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "engine" if path is None else Path(path)
            self.passport = engine.build(
                graph, file, target, precision=precision, options=options,
                evidence=used, samples=feeds, work=work_of(graph, options),
            )  # fmt: skip
            self.notes += self.passport.notes
            self._engine = engine.load(file)
        self.name = self._engine.name
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

    def infer(self, feeds: Array | Mapping[str, Array]) -> Outputs:
        """Return the outputs, by name, after the hooks.

        Args:
            feeds: By input name, or one array where there is one input; samples along axis 0, or
                a single sample without it.
        """
        given = feeds_of(self.name, self.inputs, feeds, self._before)
        answers = self._engine.infer(given)
        return {name: _each(self._after.get(name), value) for name, value in answers.items()}

    def close(self) -> None:
        """Give back what the engine holds."""
        self._engine.close()


def _each(hook: Hook | None, samples: Array) -> Array:
    return samples if hook is None else np.stack([hook(sample) for sample in samples])


def _check(what: str, hooks: Mapping[str, Hook], specs: tuple[TensorSpec, ...]) -> None:
    known = [spec.name for spec in specs]
    for name in hooks:
        if name not in known:
            raise InputError(f"{what}: {name!r} is not there; {nearest(name, known)}")
