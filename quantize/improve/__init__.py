"""Methods that make an INT8 graph lose less."""
