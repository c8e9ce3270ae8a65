"""What a graph can be built for."""
