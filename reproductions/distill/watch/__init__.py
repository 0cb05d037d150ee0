"""What one sees of a training while it runs, and what is left of it to look at."""
