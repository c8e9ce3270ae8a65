"""Passes that compute constants, and move arithmetic into weights."""
