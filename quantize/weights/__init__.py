"""Weights alone as integers, in blocks with a scale each; activations stay float."""
