"""One pass over the samples: what is added up, and what the verdict is."""
