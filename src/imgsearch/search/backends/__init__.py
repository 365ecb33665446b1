"""One backend a module: which rows are worth an exact score."""
