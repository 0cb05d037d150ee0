"""The trainer of classes in the invariance matrix: every term of encoders in one step, whatever batches and ranks."""

import os
import sys
import tempfile

from safetensors.torch import save_file

from methods.slots.terms import (
    AttentionMatch,
    Divergence,
    EnsembledLabels,
    HiddenMatch,
    NextToken,
    RelationMatch,
    TokenStatesMatch,
)
from tests.methods.classes.test_trainer import change, model_of, trained


def terms():
    """All that an encoder's student can learn from."""
    return [
        NextToken(weight=0.3),
        Divergence("reverse-kl", weight=0.7),
        HiddenMatch("uniform", weight=0.5, filters="identity"),
        AttentionMatch("top", weight=0.2),
        TokenStatesMatch("uniform", weight=0.4, filters="identity"),
        RelationMatch("values", weight=0.3),
    ]


def both_updates(folder, batch=None):
    """A step of the trainer on all eight texts, for texts and for tokens: parameter -> change."""
    made = {}
    for tokens in (False, True):
        student = model_of(seed=1, tokens=tokens)
        teacher = model_of(seed=2, layers=3, tokens=tokens)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        both = terms() if tokens else [*terms(), EnsembledLabels(weight=0.2)]
        trainer = trained(
            folder, student, both, teacher=teacher, batch=batch or 8 // ranks, tokens=tokens, ranks=ranks
        )
        after = trainer.accelerator.unwrap_model(trainer.model)
        made |= {f"{tokens} {name}": delta for name, delta in change(student, after).items()}
    return made


if __name__ == "__main__":  # a rank of two
    with tempfile.TemporaryDirectory() as folder:
        found = both_updates(folder)
    if os.environ["RANK"] == "0":
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, sys.argv[1])
