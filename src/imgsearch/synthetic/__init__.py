"""Images made of images."""
