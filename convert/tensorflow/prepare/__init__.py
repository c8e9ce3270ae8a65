"""A frozen graph as it is at inference: branches decided, calls put in place, dropout gone."""
