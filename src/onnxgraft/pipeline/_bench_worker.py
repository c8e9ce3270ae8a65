"""The child process of `bench`: holds one engine, answers JSON lines.

The first line names the engine and the batch, each further one how often to run it.
"""

from __future__ import annotations

import json
import os
import sys
import time

from onnxgraft.errors import OnnxgraftError
from onnxgraft.pipeline._validate import open_engine
from onnxgraft.reference import random_feeds
from onnxgraft.runtime import Engine

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
                engine = open_engine(
                    message["path"], original=message["kind"] == "original", **message["how"]
                )
                feeds = random_feeds(engine.inputs, message["batch"])
                for _ in range(_WARM_UP):
                    engine.infer(feeds)
                answer: dict[str, object] = {"ready": True}
            else:
                times = []
                for _ in range(message["run"]):
                    start = time.perf_counter()
                    engine.infer(feeds)
                    times.append(1000 * (time.perf_counter() - start))
                answer = {"ms": times}
        except OnnxgraftError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
