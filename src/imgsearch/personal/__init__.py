"""What people say of answers, and what is learned from it."""
