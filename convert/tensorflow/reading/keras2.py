"""What Keras 2 wrote, read by ``tf_keras`` in a process of its own.

TensorFlow takes either Keras when it is imported, so both can't be had in one process. Run as a
module, this file is that process: it freezes a model into a folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxgraft.errors import MissingDependencyError, ModelError, OnnxgraftError
from onnxgraft.stages.convert.tensorflow.reading.graphdef import Public
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["freeze_keras2"]

_GRAPH, _NAMES, _ERROR = "graph.pb", "names.json", "error.txt"


def freeze_keras2(file: Path, trust: bool) -> tuple[Any, Public]:
    """Return the GraphDef of a model that Keras 2 wrote, and its own names.

    Raises:
        MissingDependencyError: ``tf_keras`` is not installed.
        ModelError: It can't load the model.
    """
    if importlib.util.find_spec("tf_keras") is None:
        raise MissingDependencyError(
            f"{file} was written by Keras 2; reading it needs tf_keras: "
            "pip install 'onnxgraft[keras2]'"
        )
    graph_def = tensorflow().compat.v1.GraphDef()
    with tempfile.TemporaryDirectory(prefix="onnxgraft.") as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                __spec__.name,
                file,
                folder,
                str(int(trust)),
            ],
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
            capture_output=True,
            check=False,
        )
        error = Path(folder, _ERROR)
        if done.returncode or error.exists():
            told = error.read_text() if error.exists() else f"{file}: tf_keras crashed on the model"
            raise ModelError(told)
        graph_def.ParseFromString(Path(folder, _GRAPH).read_bytes())
        return graph_def, Public(**json.loads(Path(folder, _NAMES).read_text()))


def main(file: str, folder: str, trust: str) -> None:
    """Freeze ``file`` into ``folder``."""
    from onnxgraft.stages.convert.tensorflow.reading.functions import freeze_keras

    tensorflow()
    import tf_keras

    try:
        graph_def, public = freeze_keras(tf_keras, Path(file), bool(int(trust)))
    except OnnxgraftError as error:
        Path(folder, _ERROR).write_text(str(error))
        return
    Path(folder, _GRAPH).write_bytes(graph_def.SerializeToString())
    Path(folder, _NAMES).write_text(json.dumps(asdict(public)))


if __name__ == "__main__":
    main(*sys.argv[1:])
