"""From a prepared graph to ONNX."""
