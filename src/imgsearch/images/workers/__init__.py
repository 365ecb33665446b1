"""Decoder processes, and pools of them."""
