"""Results -> pictures."""
