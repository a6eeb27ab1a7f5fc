"""The verbs of the command line that need a statistical model."""
