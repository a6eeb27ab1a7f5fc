"""f(x | theta) and mu(theta) of one source: flows, templates and what they share."""
