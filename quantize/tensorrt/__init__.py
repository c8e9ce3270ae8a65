"""Ranges as TensorRT 10 and older take them: calibration caches and calibrators."""
