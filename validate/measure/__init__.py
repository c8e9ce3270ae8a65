"""One pass over the samples: what is added up, and how it is judged."""
