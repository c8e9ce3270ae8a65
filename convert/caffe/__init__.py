"""Caffe networks: read without Caffe, every layer as Caffe computes it at inference."""

from __future__ import annotations

from onnxgraft.convert.caffe._convert import convert_caffe
from onnxgraft.convert.caffe._emitter import Blob, Emitter
from onnxgraft.convert.caffe._inspect import inspect_caffe
from onnxgraft.convert.caffe._layers import LAYERS, register
from onnxgraft.convert.caffe._net import Layer, Net, read_net
from onnxgraft.convert.caffe._original import OpenCvDnn, original_caffe
from onnxgraft.convert.caffe._wire import read_caffemodel

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
