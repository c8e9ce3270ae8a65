"""Passes that remove what computes nothing at inference."""
