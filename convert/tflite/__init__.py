"""TFLite files: lowered by tf2onnx, compared with TensorFlow's own interpreter."""

from onnxgraft.stages.convert.tflite.inspecting import inspect_tflite
from onnxgraft.stages.convert.tflite.lowering import lower_tflite
from onnxgraft.stages.convert.tflite.running import TfLite

__all__ = ["TfLite", "inspect_tflite", "lower_tflite"]
