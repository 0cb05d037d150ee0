"""The trainer of classes in the invariance matrix: every term of encoders in one step, whatever batches and ranks."""

import os
import sys
import tempfile

from safetensors.torch import save_file

from methods.classes.ensembled import EnsembledLabels
from methods.classes.replacing import ReplacedBlocks
from methods.classes.subclasses import SubclassMatch
from methods.slots.terms import (
    AttentionMatch,
    Divergence,
    HiddenMatch,
    NextToken,
    RankedChoices,
    RelationMatch,
    TokenStatesMatch,
)
from tests.methods.classes.test_trainer import change, model_of, trained

SEED = 1  # with which one block of two is put in


def terms(tokens):
    """All that an encoder's student can learn from."""
    of_texts = [] if tokens else [SubclassMatch(2, weight=0.4, seed=SEED)]
    return [
        *of_texts,
        NextToken(weight=0.3),
        Divergence("reverse-kl", weight=0.7),
        HiddenMatch("uniform", weight=0.5, filters="identity"),
        AttentionMatch("top", weight=0.2),
        TokenStatesMatch("uniform", weight=0.4, filters="identity"),
        RelationMatch("values", weight=0.3),
        RankedChoices(weight=0.6),
        ReplacedBlocks(
            0.5, until=1.0, form="constant", copied=False, outside_learns=True, weight=0.8, seed=SEED
        ),
    ]


def both_updates(folder, batch=None):
    """A step of the trainer on all eight texts, for texts and for tokens: parameter -> change."""
    made = {}
    for tokens in (False, True):
        student = model_of(seed=1, tokens=tokens)
        teacher = model_of(seed=2, layers=3, tokens=tokens)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        both = terms(tokens) if tokens else [*terms(tokens), EnsembledLabels(weight=0.2)]
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
