"""Checks of an answer against what is known: each says True, False, or None where the answer cannot be read."""
