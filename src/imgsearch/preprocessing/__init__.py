"""A folder of images to a folder of prepared images."""
