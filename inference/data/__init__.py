"""Data sets: events and ancillary centres, in memory and in files."""
