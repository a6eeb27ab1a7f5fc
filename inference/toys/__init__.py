"""Toy data sets, drawn by number, and their fits."""
