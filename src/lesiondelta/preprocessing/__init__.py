"""A patient's visits in one space: registration, brain mask, intensity."""
