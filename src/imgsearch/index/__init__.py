"""From vectors to a directory that answers."""
