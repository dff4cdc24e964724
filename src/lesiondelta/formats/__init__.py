"""BIDS in and out, completion records, pictures."""
