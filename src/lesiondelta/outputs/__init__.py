"""What goes out: the files of a BIDS derivative, tables and maps of lesions, segmentations for other programs."""
