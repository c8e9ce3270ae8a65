"""How each type of layer is converted; one family a file."""
