"""Loops and recurrent cells."""
