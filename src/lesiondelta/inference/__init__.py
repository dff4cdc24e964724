"""From prepared images to lesion masks: exported networks or a program, behind one protocol."""
