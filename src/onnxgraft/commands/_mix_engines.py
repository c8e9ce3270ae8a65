"""The mixes of a search as engines of their target, where it can run here.

A search measures mixes by their exact references. What ships is an engine, so the mix that was
chosen is built, proven and measured once more; how fast mixes are is measured on engines too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxgraft.commands._bench import BenchTarget, measure
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.engine import Engine, Resource
from onnxgraft.run.feeds import fixed_batches
from onnxgraft.stages import engine
from onnxgraft.stages.convert import Original
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.passport import Passport
from onnxgraft.targets import FORMATS, Floats, Precision, find_target
from onnxgraft.targets.cpu import Cpu

__all__ = ["MixEngines"]


class MixEngines(Resource):
    """Builds mixes into engines in a temporary folder, which is removed at the end.

    Args:
        target: Whose engines.
        floats: What the float layers of INT8 graphs run in; a graph without INT8 runs in FP32.
        cpu: That they are for; None is this machine's.
        feeds: Of batch 1, on which they are proven.
        place: The device or provider that they are for.

    Attributes:
        absent: Why no engine can run here; empty where it can.
    """

    def __init__(
        self,
        target: str,
        floats: Floats,
        cpu: Cpu | None,
        feeds: Sequence[Feeds],
        place: BuildOptions,
    ) -> None:
        self._target, self._floats, self._feeds, self._place = target, floats, feeds, place
        aim = find_target(target)
        self.absent = ""
        if not engine.runs_here(target):
            self.absent = f"no {aim.title} engine can run here"
        elif cpu is not None and aim.on_cpu and place.on_cpu and cpu != aim.cpu():
            self.absent = f"the engine is for another processor, {cpu}"
        self._folder = tempfile.TemporaryDirectory(prefix="onnxgraft.")
        self._built: dict[str, tuple[Path, Passport]] = {}

    def close(self) -> None:
        """Remove the engines."""
        self._folder.cleanup()

    def proven(self, model: Model) -> tuple[Engine, Passport]:
        """Return the engine of a mix as it ships, open, and its passport."""
        path, passport = self._engine(model, prove=True)
        return engine.load(path), passport

    def milliseconds(self, models: Mapping[str, Model]) -> dict[str, float]:
        """Return the median time of each graph, in processes of their own that take turns.

        The batch is 1, or the one that the graphs are made for.

        Args:
            models: By what they are called. Those that were proven are timed as they ship.
        """
        targets = []
        for name, model in models.items():
            path, passport = self._engine(model, prove=False)
            targets.append(BenchTarget(name, "engine", Original(str(path)), passport.precision))
        fixed = {batch for model in models.values() for batch in fixed_batches(model.inputs)[:1]}
        timed = measure(targets, batches=tuple(fixed) or (1,))
        return {row.name: row.median_ms for row in timed}

    def _engine(self, model: Model, *, prove: bool) -> tuple[Path, Passport]:
        key = engine.graph_hash(model)
        if key not in self._built:
            path = Path(self._folder.name) / f"{len(self._built)}.engine"
            precision: Precision = "fp32"
            actual = engine.graph_precision(model)
            if actual in FORMATS:
                precision = actual if self._floats == "fp32" else self._floats
            passport = engine.build(
                model, path, self._target, precision=precision, samples=self._feeds, prove=prove,
                options=self._place,
            )  # fmt: skip
            self._built[key] = path, passport
        return self._built[key]
