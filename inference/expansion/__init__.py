"""Densities at the events as polynomials in the parameters, measured against the exact ones."""
