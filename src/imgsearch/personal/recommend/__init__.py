"""What to recommend to a person, from what they and all others did."""
