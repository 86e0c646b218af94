"""What writes the parts of the book that are not written by hand."""
