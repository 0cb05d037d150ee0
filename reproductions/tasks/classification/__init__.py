"""Texts and the classes that people gave them."""
