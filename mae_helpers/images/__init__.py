"""Ordered image sets: the set itself, layouts on disk, labels, pixels decoded once."""
