"""The seeds of an arm trained as one batched model, each as it would have been trained alone.

A *member* is the trainer of one seed, with its own rows, order, sampler, terms, counts and random numbers. Its
model reads its weights out of a stack of all members' models (`stack.py`), so that what a member asks of its model is
answered by the weights of now. The cohort (`together.py`; of `Distiller`s `trainer.py`, of policies `policies.py`) puts
together what is large: the students' forward and backward passes, the teachers' and the rollouts (`rollouts.py`).
"""

from methods.trainers.cohort.policies import PolicyCohort, unfit_policies
from methods.trainers.cohort.stack import StackedModel, cannot_stack, stack, unstack
from methods.trainers.cohort.trainer import Cohort, unfit

__all__ = [
    "Cohort",
    "PolicyCohort",
    "StackedModel",
    "cannot_stack",
    "stack",
    "unfit",
    "unfit_policies",
    "unstack",
]
