"""Answers of many steps: how they end, and how right each step is, on given prefixes and on the model's own."""
