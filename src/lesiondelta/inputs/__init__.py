"""What comes in: BIDS datasets, loose files and DICOM folders become patients."""
