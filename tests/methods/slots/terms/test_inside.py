"""Attention, relations and states of every token: a loop over texts read alone, in float64, says the same."""

import copy

import pytest
import torch
from transformers import TrainingArguments

from methods.classes.encoding import encoded_texts
from methods.classes.trainer import ClassDistiller
from methods.errors import MethodError
from methods.slots import inside as inside_module
from methods.slots.features import layer_pairs
from methods.slots.inside import SCORES, recorded_inside
from methods.slots.terms import AttentionMatch, RelationMatch, TokenStatesMatch
from methods.slots.terms import inside as terms_module
from tests.methods.classes.test_trainer import LABELS, TEXTS, model_of
from tests.methods.conftest import ONE_STEP, letter_tokenizer


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trainer_of(tmp_path, terms, *, student=None, teacher=None, tokenizer=None):
    model = model_of(seed=3) if student is None else student
    return ClassDistiller(
        copy.deepcopy(model),
        terms=terms,
        args=TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, **ONE_STEP),
        train_dataset=encoded_texts(TEXTS, LABELS, {"": letter_tokenizer()}, 8)[0],
        processing_class=letter_tokenizer(),
        teacher=model_of(seed=1, layers=4) if teacher is None else teacher,
    )


def total_of(tmp_path, term, **models):
    """The term's sum over the eight texts, padded together."""
    trainer = trainer_of(tmp_path, [term], **models)
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(TEXTS))])
    assert not batch["attention_mask"].all(), "some are padded"
    return trainer, float(term.total(trainer.rows(batch)))


def alone(model, text):
    """Probabilities of attention and outputs of the blocks, by the model's own."""
    model.set_attn_implementation("eager")
    ids = torch.tensor([letter_tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        out = model(input_ids=ids, output_attentions=True, output_hidden_states=True)
    return [a[0] for a in out.attentions], [h[0] for h in out.hidden_states[1:]]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_the_softmax_of_the_scores_is_the_models_own_attention(kind):
    model = model_of(kind, layers=3).double()
    for text in TEXTS:
        ids = torch.tensor([letter_tokenizer()(text)["input_ids"]])
        with torch.no_grad(), recorded_inside(model, [(SCORES, n) for n in range(3)]) as made:
            model(input_ids=ids)
            scores = made(torch.ones_like(ids)).scores
        for block, theirs in enumerate(alone(model, text)[0]):
            assert torch.allclose(scores[block][0].softmax(-1), theirs, atol=1e-6)


def by_hand(student, teacher, pairs, what):
    """Loops over texts, blocks, heads and tokens; scores by the weights of the layers."""
    total = 0.0
    for text in TEXTS:
        ids = torch.tensor([letter_tokenizer()(text)["input_ids"]])
        sides = []
        for model in (student, teacher):
            with torch.no_grad():
                states = model(input_ids=ids, output_hidden_states=True).hidden_states
            sides.append([h[0] for h in states])  # what goes into block n stands at n
        for s, t in pairs:
            if what == "states":
                total += float((sides[0][s + 1] - sides[1][t + 1]).square().mean()) / len(pairs)
                continue
            made = []
            for model, states, block in ((student, sides[0], s), (teacher, sides[1], t)):
                layer = model.bert.encoder.layer[block].attention.self
                q, k = layer.query(states[block]), layer.key(states[block])
                made.append([q[:, h : h + 8] @ k[:, h : h + 8].T / 8**0.5 for h in (0, 8)])
            total += sum(float((a - b).square().mean()) for a, b in zip(*made, strict=True)) / 2 / len(pairs)
    return total


TERMS = {
    "scores": lambda layers="uniform": AttentionMatch(layers),
    "states": lambda layers="uniform": TokenStatesMatch(layers, filters="identity"),
}


@pytest.mark.parametrize("what", TERMS)
@pytest.mark.parametrize("layers", ["uniform", "top", [(0, 3), (1, 0)]])
def test_a_term_is_the_loop_over_texts_read_alone(what, layers, tmp_path):
    student, teacher = model_of(seed=3).double(), model_of(seed=1, layers=4).double()
    _, found = total_of(tmp_path, TERMS[what](layers), student=student, teacher=teacher)
    pairs = layer_pairs(layers, 2, 4)
    with torch.no_grad():
        assert found == pytest.approx(by_hand(student, teacher, pairs, what), rel=1e-9)


MUTATIONS = {
    "padding-counts": lambda patch: patch.setattr(
        terms_module, "both", lambda mask: torch.ones_like(inside_module.both(mask))
    ),
    "no-root": lambda patch: patch.setattr(
        inside_module,
        "scaled_products",
        lambda q, k, heads: (
            q.unflatten(-1, (heads, -1)).transpose(1, 2) @ k.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1)
        ),
    ),
    "one-head": lambda patch: patch.setattr(
        inside_module, "scaled_products", lambda q, k, heads: (q @ k.transpose(1, 2) / 8**0.5)[:, None]
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_loop_catches_what_is_wrong(name, tmp_path, monkeypatch):
    student, teacher = model_of(seed=3).double(), model_of(seed=1, layers=4).double()
    with torch.no_grad():
        right = by_hand(student, teacher, layer_pairs("uniform", 2, 4), "scores")
    MUTATIONS[name](monkeypatch)
    _, found = total_of(tmp_path, AttentionMatch(), student=student, teacher=teacher)
    assert found != pytest.approx(right, rel=1e-3)


def test_between_a_model_and_itself_there_is_nothing(tmp_path):
    model = model_of(seed=3)
    for what in TERMS:
        assert total_of(tmp_path, TERMS[what](), student=model, teacher=copy.deepcopy(model))[1] == 0.0


def test_a_map_that_learns_goes_to_the_teachers_width_and_both_learn(tmp_path):
    term = TokenStatesMatch()
    trainer, before = total_of(tmp_path, term)
    first = copy.deepcopy(term.filters.state_dict())
    trainer.train()
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(TEXTS))])
    assert float(term.total(trainer.rows(batch))) < before
    assert any(not torch.equal(first[name], now) for name, now in term.filters.state_dict().items())
    assert "filters" not in "".join(trainer.model.state_dict())


def test_a_teacher_whose_inside_is_asked_is_read_although_it_is_remembered(tmp_path):
    from methods.classes.remembered import RememberedClasses, remember_classes

    teacher = model_of(seed=1, layers=4)
    plain = trainer_of(tmp_path, [AttentionMatch()], teacher=teacher)
    tables = remember_classes(teacher, plain.train_dataset, plain.data_collator)
    plain._remembered = [RememberedClasses(tables)]
    batch = plain.data_collator([plain.train_dataset[place] for place in range(len(TEXTS))])
    assert plain.rows(batch).inside[1].scores.keys() == {1, 3}


def test_what_does_not_fit_is_refused(tmp_path):
    from tests.methods.classes.test_trainer import CONFIGS

    heads = CONFIGS["bert"](num_hidden_layers=2)
    assert heads.num_attention_heads == 2
    four = model_of(seed=1, layers=4)
    four.config.num_attention_heads = 4
    with pytest.raises(MethodError, match="head by head: the student has 2, the teacher 4"):
        trainer_of(tmp_path, [AttentionMatch()], teacher=four)
    with pytest.raises(MethodError, match="layers are uniform, uniform-but-last, top, bottom, last or pairs"):
        trainer_of(tmp_path, [AttentionMatch("highest")])
    with pytest.raises(MethodError, match="has no block 7; it has 0 to 3"):
        total_of(tmp_path, AttentionMatch([(0, 7)]))
    with pytest.raises(MethodError, match="filters are identity or nothing"):
        TokenStatesMatch(filters="task")


class Written:
    """A trainer of language models, as far as a term looks."""


def test_it_is_about_encoders():
    with pytest.raises(MethodError, match="AttentionMatch is about encoders that classify"):
        AttentionMatch().prepare(Written())


def relations_by_hand(student, teacher, pairs, of, heads=2):
    """Loops over texts read alone, blocks, heads and tokens: sums of p log(p / q), by the layers' weights."""
    names = {
        "attention": ("query", "key"),
        "values": ("value", "value"),
        "queries": ("query", "query"),
        "keys": ("key", "key"),
    }[of]
    total = 0.0
    for text in TEXTS:
        ids = torch.tensor([letter_tokenizer()(text)["input_ids"]])
        for s, t in pairs:
            made = []
            for model, block in ((student, s), (teacher, t)):
                with torch.no_grad():
                    states = model(input_ids=ids, output_hidden_states=True).hidden_states[block][0]
                layer = model.bert.encoder.layer[block].attention.self
                first, second = (getattr(layer, name)(states) for name in names)
                size = first.shape[1] // heads
                cuts = [slice(h * size, (h + 1) * size) for h in range(heads)]
                made.append([(first[:, c] @ second[:, c].T / size**0.5).softmax(-1) for c in cuts])
            for ours, theirs in zip(*made, strict=True):
                for q, p in zip(ours, theirs, strict=True):
                    terms = sum(float(b) * float(torch.log(b / a)) for a, b in zip(q, p, strict=True))
                    total += terms / heads / len(ours) / len(pairs)
    return total


@pytest.mark.parametrize(
    ("of", "layers", "heads"),
    [
        ("attention", "last", None),
        ("values", "last", None),
        ("values", "uniform", 4),
        ("queries", [(0, 3)], 1),
        ("keys", "last", 8),
    ],
)
def test_relations_are_the_loop_over_texts_read_alone(of, layers, heads, tmp_path):
    student, teacher = model_of(seed=3).double(), model_of(seed=1, layers=4).double()
    term = RelationMatch(of, layers, heads=heads)
    _, found = total_of(tmp_path, term, student=student, teacher=teacher)
    with torch.no_grad():
        pairs = [(1, 3)] if layers == "last" else layer_pairs(layers, 2, 4)
        right = relations_by_hand(student, teacher, pairs, of, heads or 2)
    assert found == pytest.approx(right, rel=1e-9)
    assert found > 0


RELATION_MUTATIONS = {
    "padding-is-seen": lambda patch: patch.setattr(torch.Tensor, "masked_fill", lambda self, *_: self),
    "no-root": lambda patch: patch.setattr(
        terms_module,
        "scaled_products",
        lambda a, b, heads: (
            inside_module.scaled_products(a, b, heads) * (a.shape[-1] // heads) ** 0.5  # not scaled
        ),
    ),
    "one-head": lambda patch: patch.setattr(
        terms_module, "scaled_products", lambda a, b, heads: inside_module.scaled_products(a, b, 1)
    ),
}


@pytest.mark.parametrize("name", RELATION_MUTATIONS)
def test_the_loop_catches_wrong_relations(name, tmp_path, monkeypatch):
    student, teacher = model_of(seed=3).double(), model_of(seed=1, layers=4).double()
    with torch.no_grad():
        right = relations_by_hand(student, teacher, [(1, 3)], "values")
    RELATION_MUTATIONS[name](monkeypatch)
    _, found = total_of(tmp_path, RelationMatch("values"), student=student, teacher=teacher)
    assert found != pytest.approx(right, rel=1e-3)


def test_relations_are_the_teachers_first_and_turn_with_neither_side(tmp_path):
    """KL has a direction, nothing is between a model and itself, and values turned in a head relate as before."""
    student, teacher = model_of(seed=3, layers=2), model_of(seed=1, layers=2)
    there = total_of(tmp_path, RelationMatch("values"), student=student, teacher=teacher)[1]
    back = total_of(tmp_path, RelationMatch("values"), student=teacher, teacher=student)[1]
    assert there != pytest.approx(back, rel=1e-3)
    assert (
        total_of(tmp_path, RelationMatch("values"), student=student, teacher=copy.deepcopy(student))[1] == 0.0
    )
    turned = copy.deepcopy(teacher)
    layer = turned.bert.encoder.layer[1].attention.self.value
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=layer.weight.dtype))[0]
    with torch.no_grad():
        for head in (slice(0, 8), slice(8, 16)):
            layer.weight[head], layer.bias[head] = turn @ layer.weight[head], turn @ layer.bias[head]
    again = total_of(tmp_path, RelationMatch("values"), student=student, teacher=turned)[1]
    assert again == pytest.approx(there, rel=1e-6)


def test_relations_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(
        MethodError, match="relations are of attention, queries, keys, values, not of 'states'"
    ):
        RelationMatch("states")
    with pytest.raises(MethodError, match="16 dimensions cannot be cut into 3 heads"):
        trainer_of(tmp_path, [RelationMatch("values", heads=3)])
