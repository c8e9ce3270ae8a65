"""The child process of `bench`: holds one engine, answers JSON lines.

The first line names the engine and the batch, each further one how often to run it, to count what
its layers take, or which requests to answer under load. It is started as a file, and not as a
module of its package, whose imports take longer than most engines: what this one needs it imports
itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from dataclasses import asdict
from typing import Any

from onnxgraft.errors import EngineWarning, InputError, OnnxgraftError
from onnxgraft.graph.tensors import Feeds, TensorSpec
from onnxgraft.run.engine import Engine
from onnxgraft.run.feeds import Setting, drawn, fixed_batches
from onnxgraft.run.layers import WARM_UP, LayerTimes
from onnxgraft.run.load import Requests, drive
from onnxgraft.run.workers import end_with_parent


def main() -> None:
    """Serve until standard input ends."""
    end_with_parent()
    # Libraries may print; only our answers go to the parent.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if engine is None:
                began = time.perf_counter()
                if message["cores"]:
                    os.sched_setaffinity(0, message["cores"])
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always", EngineWarning)
                    engine, opened = _open(message), message
                fixed = fixed_batches(engine.inputs)
                if fixed and message["batch"] not in fixed:
                    raise InputError(f"its inputs have a batch of {fixed[0]}")
                feeds = _feeds(engine, message["batch"])
                first = 1000 * (time.perf_counter() - began)
                for _ in range(WARM_UP):
                    engine.infer(feeds)
                answer: dict[str, object] = {
                    "first_ms": first,
                    "warnings": [str(w.message) for w in seen if w.category is EngineWarning],
                }
            elif "load" in message:
                answer = _load(engine, feeds, message["load"])
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


def _load(engine: Engine, feeds: Feeds, told: dict[str, Any]) -> dict[str, object]:
    """Answer requests for a while; return when each was due, and when it was answered."""
    if not told:  # every batch once, so that what a library plans for a shape is planned
        for count in _counts(engine, feeds):
            engine.infer(_some(engine, feeds, count))
        return {}
    begins = told["begins"]
    requests = Requests(
        told["due"], batch=told["batch"], again=told["again"], until=told["until"],
        patience=told["patience"],
    )  # fmt: skip
    joined = {count: _some(engine, feeds, count) for count in _counts(engine, feeds)}
    drive(
        requests, lambda _, count: engine.infer(joined[count]), told["workers"],
        lambda: time.monotonic() - begins,
    )  # fmt: skip
    return {"done": requests.done, "given_up": requests.given_up}


def _counts(engine: Engine, feeds: Feeds) -> range:
    free = [len(feeds[spec.name]) for spec in engine.inputs if _is_free(spec)]
    return range(1, 1 + (max(free) if free else max(fixed_batches(engine.inputs), default=1)))


def _some(engine: Engine, feeds: Feeds, count: int) -> Feeds:
    """Return feeds of so many requests; what has no free batch is fed whole."""
    return {
        spec.name: feeds[spec.name][:count] if _is_free(spec) else feeds[spec.name]
        for spec in engine.inputs
    }


def _is_free(spec: TensorSpec) -> bool:
    return bool(spec.shape) and isinstance(spec.shape[0], str)


def _layers(engine: Engine, opened: dict[str, Any], feeds: Feeds, runs: int) -> LayerTimes:
    """Return what the layers take of an engine, or of a float graph in onnxruntime."""
    if opened["kind"] == "onnx":
        from onnxgraft.graph.model import Model
        from onnxgraft.run.exact import exact_layers

        return exact_layers(Model.load(opened["opened"]["path"]), engine, feeds, runs)
    from onnxgraft.stages.engine import time_layers

    return time_layers(engine, feeds, runs)


def _open(message: dict[str, Any]) -> Engine:
    how = message["opened"]
    if message["kind"] == "engine":
        from onnxgraft.stages.engine import load

        return load(
            how["path"], trust=message["trust"], threads=message["threads"],
            streams=message["streams"],
        )  # fmt: skip
    if message["kind"] == "onnx":
        from onnxgraft.graph.model import Model
        from onnxgraft.run.demand import check_model
        from onnxgraft.run.exact import exact

        model = Model.load(how["path"])
        check_model(model)
        return exact(model)
    from onnxgraft.stages.convert import Original

    return Original.of(**{**how, "values": tuple(how["values"])}).run()


if __name__ == "__main__":
    main()
