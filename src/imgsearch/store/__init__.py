"""The index directory on disk."""
