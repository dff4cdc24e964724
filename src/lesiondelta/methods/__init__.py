"""One small declaration per method of the comparison."""
