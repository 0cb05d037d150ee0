"""The verbs that make evidence and hold it against what is recorded."""
