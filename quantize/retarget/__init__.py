"""Graphs that are quantized already, in another target's form."""
