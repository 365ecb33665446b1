"""From labeled images to an encoder of one's own."""
