"""Time by layer, INT8 against float, on real networks: what keeps INT8 from being faster.

    python -m benchmarks.layers graphs FOLDER          writes the graphs, on a machine with images
    python -m benchmarks.layers FOLDER [--more] > benchmarks/layers.md

needs the networks and images that fcn_camvid.toml names. The second command times whatever targets
can run on the machine, and with --more prints its section alone, to be put behind another's.

Each library counts for itself: onnxruntime by its profile, OpenVINO by its counters, TensorRT by its
profiler. *in layers* is the sum, *whole* what an inference took while it was counted (TensorRT: what
the GPU took without counting, which makes it wait behind each layer, so that layers of a few
microseconds count more than they take). *found* is the part of the sum that belongs to a layer of
the network, by the framework's name.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.heading import heading, made_by
from benchmarks.networks import shared

from onnxgraft import commands
from onnxgraft.commands._layer_times import Timed, layer_times
from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.tensorrt.builder import gpu
from onnxgraft.targets import TARGETS
