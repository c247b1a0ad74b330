"""Faults on purpose: what `efm faults` breaks in mid-episode, and what it then expects."""
