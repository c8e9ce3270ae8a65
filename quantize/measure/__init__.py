"""Samples -> ranges."""
