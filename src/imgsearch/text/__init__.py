"""From words to vectors and search expressions."""
