"""Where QuantizeLinear and DequantizeLinear stand, and what they cost."""
