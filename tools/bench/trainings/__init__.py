"""Whole trainings and their steps, beside other trainers or one beside several at once."""
