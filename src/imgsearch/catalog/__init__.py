"""Care of the catalog: duplicates, neighbors, outliers, changes."""
