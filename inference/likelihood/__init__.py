"""The extended likelihood of several science runs, with its derivatives."""
