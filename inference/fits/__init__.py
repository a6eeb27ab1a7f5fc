"""Maximum-likelihood fits of many rows at once, and records of single ones."""
