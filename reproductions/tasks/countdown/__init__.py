"""Reach a target with given numbers, each once: many solutions, written as a stack calculator reads them."""
