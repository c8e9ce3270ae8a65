"""The child process of `bench`: holds one engine, answers JSON lines.

The first line names the engine and the batch, each further one how often to run it, or to count
what its layers take.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxgraft.commands._opening import open_candidate
from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact_layers
from onnxgraft.run.feeds import Setting, drawn, fixed_batches
from onnxgraft.run.layers import LayerTimes
from onnxgraft.stages.convert import Original
from onnxgraft.stages.engine import load, time_layers
from onnxgraft.stages.engine.passport import passport_path

_WARM_UP = 3


def main() -> None:
    """Serve until standard input ends."""
    # Libraries may print; only our answers go to the parent.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if engine is None:
                engine, opened = _open(message)
                fixed = fixed_batches(engine.inputs)
                if fixed and message["batch"] not in fixed:
                    raise InputError(f"its inputs have a batch of {fixed[0]}")
                feeds = _feeds(engine, message["batch"])
                for _ in range(_WARM_UP):
                    engine.infer(feeds)
                answer: dict[str, object] = {"ready": True}
            elif "layers" in message:
                answer = asdict(_layers(engine, opened, feeds, message["layers"]))
            else:
                times: list[float] = []
                began = time.perf_counter()
                while len(times) < message["run"]:
                    start = time.perf_counter()
                    engine.infer(feeds)
                    times.append(1000 * (time.perf_counter() - start))
                    if time.perf_counter() - began > message["seconds"]:
                        break
                answer = {"ms": times}
        except OnnxgraftError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _feeds(engine: Engine, batch: int) -> Feeds:
    """Return feeds that the engine takes; of a built one nobody knows how large its tables are."""
    for caution in range(1, 4):
        feeds = drawn(engine.inputs, Setting(batch, caution=caution))
        try:
            engine.infer(feeds)
            break
        except OnnxgraftError:
            if caution == 3:
                raise
    return feeds


def _layers(engine: Engine, opened: Original, feeds: Feeds, runs: int) -> LayerTimes:
    """Return what the layers take of an engine, or of a float graph in onnxruntime."""
    file = Path(opened.path)
    if file.suffix == ".onnx" and not passport_path(file).is_file():
        return exact_layers(Model.load(file), engine, feeds, runs)
    return time_layers(engine, feeds, runs)


def _open(message: dict[str, Any]) -> tuple[Engine, Original]:
    how = message["opened"]
    opened = Original.of(**{**how, "values": tuple(how["values"])})
    if message["trust"] or (message["kind"] == "engine" and message["threads"]):
        engine = load(opened.path, trust=message["trust"], threads=message["threads"])
    else:
        engine = opened.run() if message["kind"] == "original" else open_candidate(opened)
    return engine, opened


if __name__ == "__main__":
    main()
