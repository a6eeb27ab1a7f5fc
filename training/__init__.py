"""Simulated events to checkpoints."""
