"""The student as its own teacher by name, and columns that terms read: from a recipe's tree to the trainer."""

import torch

from methods.assembly import trainer_for
from methods.recipe import canonical_method, columns_of, read_recipe, teachers_of
from methods.toy import ToySurroundings

TO_ITSELF = {"divergence": "reverse-kl", "target": {"name": "teacher", "index": 1}}


def trained(terms):
    torch.manual_seed(0)
    surroundings = ToySurroundings()
    method = canonical_method({"teacher": ["main", "student"], "terms": terms})
    assert teachers_of(method) == ["main"]
    trainer = trainer_for(method, surroundings)
    weights = [p.detach().clone() for p in surroundings.student().parameters()]
    trainer.train()
    moved = max(
        float((p - before).abs().max())
        for p, before in zip(surroundings.student().parameters(), weights, strict=True)
    )
    itself = trainer.models.same[1]
    kept = all(torch.equal(p, before) for p, before in zip(itself.parameters(), weights, strict=True))
    assert not any(p.requires_grad for p in itself.parameters())
    return moved, kept, trainer


def test_the_student_before_the_training_is_a_teacher_that_stays():
    moved, kept, _ = trained([TO_ITSELF])
    assert moved < 1e-6 and kept, "nothing draws it away from itself"
    moved, kept, trainer = trained([{"divergence": "forward-kl"}, {**TO_ITSELF, "weight": 0.5}])
    assert moved > 1e-3 and kept
    assert trainer.token_counts["teacher"] == 2 * trainer.token_counts["student"]


def test_columns_that_terms_read_are_found_with_their_defaults():
    assert columns_of(canonical_method(read_recipe("paced").method())) == ["pass_rate"]
    assert columns_of(canonical_method(read_recipe("paced").method({"column": "rate"}))) == ["rate"]
    assert columns_of(canonical_method(read_recipe("gkd").method())) == []
    target = {"name": "teacher-by-row", "indices": {"a": 0}}
    assert columns_of(canonical_method({"terms": [{"divergence": "forward-kl", "target": target}]})) == [
        "domain"
    ]
    by_source = {**target, "column": "source"}
    assert not columns_of(canonical_method({"terms": [{"divergence": "forward-kl", "target": by_source}]}))


def test_the_trainer_gets_the_columns_that_its_terms_read():
    surroundings = ToySurroundings()
    weights = {"name": "normalised", "token_weights": "pass-rate"}
    method = canonical_method({"terms": [{"divergence": "forward-kl", "token_weights": weights}]})
    trainer = trainer_for(method, surroundings)
    assert trainer.train_dataset.column_names == ["input_ids", "labels", "pass_rate"]
    trainer.train()
