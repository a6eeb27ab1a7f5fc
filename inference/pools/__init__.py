"""Pools of events with their densities expanded once, from which toys are drawn."""
