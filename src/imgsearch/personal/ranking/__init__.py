"""In which order hits should be, from what people clicked."""
