"""Data sets whose geometry is controlled."""
