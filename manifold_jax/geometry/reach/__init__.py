"""Reach: the search on lattices and samples."""
