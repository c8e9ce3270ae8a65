"""Passes about the order of axes."""
