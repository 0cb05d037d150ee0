"""Tasks: rows and exact scores of what is answered; no model."""
