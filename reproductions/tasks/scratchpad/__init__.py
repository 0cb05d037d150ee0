"""Sums and products worked out column by column, every step written down; what is wrong can be struck out."""
