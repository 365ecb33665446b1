"""A folder of images to a published generation."""
