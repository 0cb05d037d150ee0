"""How models answer: sampling, asking in batches, and one evaluation that all measurements share."""
