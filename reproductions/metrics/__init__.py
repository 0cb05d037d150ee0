"""Measurements: columns of per-example figures, and the metrics over them; a testbed names those that it takes."""
