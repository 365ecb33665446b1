"""An HTTP API and a page over an open index, for a network of one's own."""
