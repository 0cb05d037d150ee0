"""Trainer collects garbage whenever it starts, among all that is imported: up to a second each time."""

import gc

MANY = 100_000  # objects that are old and not frozen yet


def freeze_imports() -> None:
    """Takes what has been imported since the last time out of the collector's sight, where it is much."""
    if len(gc.get_objects(generation=2)) > MANY:
        gc.collect()
        gc.freeze()
