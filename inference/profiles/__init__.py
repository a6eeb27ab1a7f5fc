"""Profile likelihoods: along a parameter, over a plane, and where they cross a critical value."""
