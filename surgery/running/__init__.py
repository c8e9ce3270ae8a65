"""Runs the passes, owns their invariants, and undoes what turns out wrong."""
