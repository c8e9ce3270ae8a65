"""Which layers to leave in float, so that a budget is kept."""
