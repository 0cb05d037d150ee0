"""The verbs of somebody with models and data of their own."""
