"""Fixtures of all rooms below: local replicas of models and data, runs of two steps."""

from tests.reproductions.crossner import crossner, crossner_root, gemma_tokenizer  # noqa: F401
from tests.reproductions.replicas import mirrors, replicas, stops, trial  # noqa: F401
