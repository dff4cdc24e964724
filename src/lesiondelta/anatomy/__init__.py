"""The parts of a person's own brain, as a small network sees them on any T1w, FLAIR or both."""
