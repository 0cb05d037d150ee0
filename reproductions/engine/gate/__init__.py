"""The gate of a testbed: what it has to show before a claim is judged on it. See spec.py for what a gate declares."""
