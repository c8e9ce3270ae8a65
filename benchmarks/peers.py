"""The INT8 that other tools make of a float graph, each in a Python of its own.

    PYTHON -P benchmarks/peers.py NAME MODEL DATA OUT

is what `run` calls: NAME is one of `PEERS`, DATA an ``.npz`` with the calibration samples of each
input along axis 0. It prints what it cost as JSON. The Python has what the peer needs and nothing
of onnxgraft; ``ONNXGRAFT_MODELOPT``, ``ONNXGRAFT_NNCF`` and ``ONNXGRAFT_NEURAL_COMPRESSOR`` name
those that have ``nvidia-modelopt[onnx]``, ``nncf`` with ``onnxruntime``, and
``onnx-neural-compressor`` with ``onnx<1.17 onnxruntime<1.20 numpy<2 scipy prettytable psutil
py-cpuinfo pydantic``. onnxruntime is that of onnxgraft.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, Any]
# What has weights, and the products of attention.
LAYERS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
# So many samples at a time, where a calibrator keeps every tensor of every sample.
AT_ONCE = 5
SECONDS = 1800


@dataclass(frozen=True)
class Cost:
    """What it cost, without imports and decoding.

    Attributes:
        seconds: Of the call.
        processor: Processor seconds of the process, and of those it started.
        megabytes: The most memory that the process has had.
        version: Of the peer.
    """

    seconds: float
    processor: float
    megabytes: float
    version: str


class Refused(Exception):
    """A peer is not installed, or does not take a network; the message says why."""


@dataclass(frozen=True)
class Job:
    """What a peer gets.

    Attributes:
        model: An ONNX file of its own, into which it may write.
        feeds: The calibration samples.
        out: The file to write.
        transformer: Whether the network is one: some peers want to be told.
    """

    model: str
    feeds: list[Feeds]
    out: str
    transformer: bool


def reader(base: Any, feeds: Iterable[Mapping[str, Any]]) -> Any:
    """Return what calibrators of onnxruntime's kind read samples from.

    Args:
        base: The class that theirs are of.
        feeds: The samples; those of a list can be asked for several times.
    """

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._left = iter(feeds)

        def set_range(self, start_index: int, end_index: int) -> None:
            assert isinstance(feeds, list)
            self._left = iter(feeds[start_index:end_index])

        def __len__(self) -> int:
            assert isinstance(feeds, list)
            return len(feeds)

        def get_next(self) -> Feeds | None:
            found = next(self._left, None)
            return None if found is None else dict(found)

    return Reader()


def onnxruntime(job: Job, method: str, operators: list[str], *, symmetric: bool) -> None:
    """Quantize with `quantize_static`, weights per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    at_once = next(n for n in range(min(AT_ONCE, len(job.feeds)), 0, -1) if not len(job.feeds) % n)
    quantize_static(
        job.model, job.out, reader(CalibrationDataReader, job.feeds), per_channel=True,
        quant_format=QuantFormat.QDQ, calibrate_method=CalibrationMethod[method],
        op_types_to_quantize=operators,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": symmetric, "QuantizeBias": not symmetric,
            "CalibStridedMinMax": at_once,
        },
    )  # fmt: skip


def modelopt(job: Job, method: str) -> None:
    """Quantize with ModelOpt, the rest in float32 as with everyone else."""
    from modelopt.onnx.quantization import quantize

    data = {name: np.concatenate([feeds[name] for feeds in job.feeds]) for name in job.feeds[0]}
    quantize(
        job.model, quantize_mode="int8", calibration_method=method, calibration_data=data,
        calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=job.out,
        log_level="ERROR",
    )  # fmt: skip


def nncf(job: Job, preset: str) -> None:
    """Quantize with NNCF: an ONNX graph, or OpenVINO's model where that is to be written."""
    import nncf
    import onnx

    if job.out.endswith(".xml"):
        import openvino

        given, save = openvino.convert_model(job.model), openvino.save_model
        how: dict[str, Any] = {"compress_to_fp16": False}
    else:
        given, save, how = onnx.load(job.model), onnx.save, {}
    made = nncf.quantize(
        given, nncf.Dataset(job.feeds), subset_size=len(job.feeds),
        preset=nncf.QuantizationPreset[preset],
        model_type=nncf.ModelType.TRANSFORMER if job.transformer else None,
    )  # fmt: skip
    save(made, job.out, **how)


def neural_compressor(job: Job) -> None:
    """Quantize with Neural Compressor, weights per channel."""
    from onnx_neural_compressor import data_reader
    from onnx_neural_compressor.quantization import QuantFormat, config, quantize

    how = config.StaticQuantConfig(
        reader(data_reader.CalibrationDataReader, job.feeds), quant_format=QuantFormat.QDQ,
        per_channel=True, calibration_sampling_size=len(job.feeds),
    )  # fmt: skip
    quantize(job.model, job.out, how)


@dataclass(frozen=True)
class Peer:
    """A tool and how it is asked.

    Attributes:
        title: For people.
        package: Whose version counts.
        variable: Names the Python that has it; empty for this one.
        make: Writes the graph.
        suffix: Of its file.
    """

    title: str
    package: str
    variable: str
    make: Callable[[Job], None]
    suffix: str = ".onnx"


def _onnxruntime(title: str, method: str, operators: list[str], *, symmetric: bool) -> Peer:
    make = partial(onnxruntime, method=method, operators=operators, symmetric=symmetric)
    return Peer(f"onnxruntime, {title}", "onnxruntime", "", make)


def _modelopt(method: str) -> Peer:
    make = partial(modelopt, method=method)
    return Peer(f"ModelOpt, {method}, int8", "nvidia-modelopt", "ONNXGRAFT_MODELOPT", make)


def _nncf(preset: str) -> Peer:
    make = partial(nncf, preset=preset)
    return Peer(f"NNCF, preset {preset.lower()}", "nncf", "ONNXGRAFT_NNCF", make)


PEERS = {
    "onnxruntime": _onnxruntime("minmax, uint8", "MinMax", [], symmetric=False),
    "onnxruntime-layers": _onnxruntime(
        "minmax, uint8, layers alone", "MinMax", LAYERS, symmetric=False
    ),
    "onnxruntime-entropy": _onnxruntime(
        "entropy, int8, layers alone", "Entropy", LAYERS, symmetric=True
    ),
    "onnxruntime-percentile": _onnxruntime(
        "percentile, int8, layers alone", "Percentile", LAYERS, symmetric=True
    ),
    "modelopt-entropy": _modelopt("entropy"),
    "modelopt-max": _modelopt("max"),
    "nncf": _nncf("PERFORMANCE"),
    "nncf-mixed": _nncf("MIXED"),
    "nncf-openvino": replace(_nncf("PERFORMANCE"), suffix=".xml"),
    "neural-compressor": Peer(
        "Neural Compressor, minmax, uint8", "onnx-neural-compressor",
        "ONNXGRAFT_NEURAL_COMPRESSOR", neural_compressor,
    ),
}  # fmt: skip


def run(name: str, model: Path, data: Path, out: Path, *, transformer: bool = False) -> Cost:
    """Let a peer quantize ``model`` into ``out``, in its own Python.

    Raises:
        Refused: It is not installed, fails, or takes too long.
    """
    peer = PEERS[name]
    python = os.environ.get(peer.variable) if peer.variable else sys.executable
    if not python:
        raise Refused(f"not installed ({peer.variable} names no Python)")
    # -P: the other files of this folder have names of packages.
    command = [python, "-P", __file__, name, model, data, out, *["transformer"] * transformer]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=SECONDS,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Refused(f"not done in {SECONDS} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise Refused(said[-1][:160])
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def peak() -> float:
    """Return the most memory that this process has had, in megabytes.

    Not `getrusage`: a process begins there with its parent's.
    """
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def busy() -> float:
    """Return the processor seconds of this process and those that it has started."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main(name: str, model: str, data: str, out: str, *kind: str) -> None:
    """Quantize, and print the cost."""
    peer = PEERS[name]
    given = f"{out}.given.onnx"
    shutil.copy(model, given)
    with np.load(data) as arrays:
        whole = {key: arrays[key] for key in arrays.files}
    count = len(next(iter(whole.values())))
    feeds = [{key: value[at : at + 1] for key, value in whole.items()} for at in range(count)]
    began, before = time.perf_counter(), busy()
    peer.make(Job(given, feeds, out, "transformer" in kind))
    cost = Cost(time.perf_counter() - began, busy() - before, peak(), version(peer.package))
    os.remove(given)
    print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main(*sys.argv[1:])
