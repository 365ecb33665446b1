"""A detector taught by scenes made of the catalog."""
