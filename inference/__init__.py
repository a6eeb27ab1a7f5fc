"""Checkpoints and data to limits."""
