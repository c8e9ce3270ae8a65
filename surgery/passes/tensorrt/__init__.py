"""Passes that write what TensorRT lacks otherwise."""
