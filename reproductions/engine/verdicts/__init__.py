"""What a paper claims, and what its recorded figures say about it."""
