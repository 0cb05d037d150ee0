"""Policy gradients on what the student samples: an advantage for each token, exact terms on the same completions."""

from methods.trainers.optimisation.config import LOSS_TYPES, OptimisationConfig
from methods.trainers.optimisation.record import Record, Writer
from methods.trainers.optimisation.trainer import PolicyOptimiser

__all__ = ["LOSS_TYPES", "OptimisationConfig", "PolicyOptimiser", "Record", "Writer"]
