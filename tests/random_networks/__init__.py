"""Random small networks that are sound, of each framework."""
