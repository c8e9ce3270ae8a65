"""A process that holds one engine and times it: it answers JSON lines.

The first line has what opens the engine, pickled, and the batch, each further one how often to run
it. So it imports what its engine needs, and nothing of what started it.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import time

from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.engine import Engine
from onnxgraft.run.feeds import Setting, drawn, fixed_batches

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
                engine = pickle.loads(base64.b64decode(message["open"]))()
                assert engine is not None
                fixed = fixed_batches(engine.inputs)
                if fixed and message["batch"] not in fixed:
                    raise InputError(f"its inputs have a batch of {fixed[0]}")
                feeds = _feeds(engine, message["batch"])
                for _ in range(_WARM_UP):
                    engine.infer(feeds)
                answer: dict[str, object] = {"ready": True}
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


if __name__ == "__main__":
    main()
