"""Caffe networks: read without Caffe, every layer as Caffe computes it at inference."""

from __future__ import annotations

from onnxgraft.stages.convert.caffe.converting import convert_caffe
from onnxgraft.stages.convert.caffe.inspecting import inspect_caffe
from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter
from onnxgraft.stages.convert.caffe.layers.table import LAYERS, register
from onnxgraft.stages.convert.caffe.reading.net import Layer, Net, read_net
from onnxgraft.stages.convert.caffe.reading.wire import read_caffemodel
from onnxgraft.stages.convert.caffe.running import OpenCvDnn, original_caffe

__all__ = [
    "LAYERS",
    "Blob",
    "Emitter",
    "Layer",
    "Net",
    "OpenCvDnn",
    "convert_caffe",
    "inspect_caffe",
    "original_caffe",
    "read_caffemodel",
    "read_net",
    "register",
]
