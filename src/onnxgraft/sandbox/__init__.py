"""What watches a command, and what keeps it from writing where it was not told to."""
