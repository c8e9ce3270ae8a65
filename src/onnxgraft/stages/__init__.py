"""The five stages, which do not know each other: links to the folders at the repository's root."""
