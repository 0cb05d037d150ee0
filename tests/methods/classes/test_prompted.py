"""A language model asked in words as a classifier: figures by hand, the same as the component that labels."""

import math

import pytest
import torch
from tokenizers import decoders

from methods.classes.model import classifier_layer, classifier_states, head_of_classifier
from methods.classes.prompted import PromptedClassifier
from methods.elicitation.components.classes import classify
from methods.elicitation.records.record import Record
from methods.elicitation.writers.local import LocalWriter
from methods.elicitation.writers.session import Session
from tests.methods.conftest import letter_tokenizer, make_model

TEXTS = ["ab", "hello", "x", "distil", "gap"]
CLASSES = ["a", "k"]  # one letter is one token of the toy's tokenizer


@pytest.fixture
def writer():
    tokenizer = letter_tokenizer()  # its own: that of the fixture is shared by all tests
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()  # ids are told back as the text that they were
    return LocalWriter(make_model(seed=5).requires_grad_(False), tokenizer, "toy", batch=2)


def asked(writer, **more):
    return PromptedClassifier(writer, writer.tokenizer, CLASSES, prompt="answer", **{"before": "", **more})


def shares_by_hand(writer, text, names=CLASSES):
    """Softmax over the classes of what the model says right behind the text, in float64."""
    tokenizer = writer.tokenizer
    ids = tokenizer(text)["input_ids"]
    logits = writer.model(torch.tensor([ids])).logits[0, -1].double()
    own = [float(logits[tokenizer(name, add_special_tokens=False)["input_ids"][0]]) for name in names]
    total = sum(math.exp(one - max(own)) for one in own)
    return [math.exp(one - max(own)) / total for one in own]


def logits_of(model, tokenizer, texts):
    tokenizer.padding_side = "left"
    batch = tokenizer.pad(tokenizer(texts), return_tensors="pt")
    return model(**batch).logits


def check_calibration(model, writer):
    plain = [shares_by_hand(writer, text) for text in TEXTS]
    prior = [sum(column) / 3 for column in zip(*plain[:3], strict=True)]
    found = logits_of(model, writer.tokenizer, TEXTS).softmax(-1)
    for row, own in zip(found, plain, strict=True):
        odds = [one / other for one, other in zip(own, prior, strict=True)]
        torch.testing.assert_close(
            row.double(), torch.tensor(odds).double() / sum(odds), atol=1e-5, rtol=1e-4
        )


def test_logits_are_the_likelihoods_of_the_names_over_their_mean(writer):
    check_calibration(asked(writer, unlabelled=lambda: TEXTS[:3]), writer)


def test_a_prior_that_is_left_out_is_caught(writer):
    with pytest.raises(AssertionError):
        check_calibration(asked(writer), writer)


def test_it_says_what_the_component_says(writer):
    rows = [Record(text) for text in TEXTS]
    settings = {"classes": CLASSES, "prompt": "answer", "ends": False}
    for calibrate, unlabelled in (("none", None), ("rows", lambda: TEXTS)):
        labelled = classify(rows, Session(writer), calibrate=calibrate, **settings)
        found = logits_of(asked(writer, unlabelled=unlabelled), writer.tokenizer, TEXTS).softmax(-1)
        for row, own in zip(found, labelled, strict=True):
            assert CLASSES[int(row.argmax())] == own.label
            assert float(row.max()) == pytest.approx(own.score, abs=1e-5)


def test_names_of_several_tokens_are_scored_to_their_end(writer):
    assert writer.first_tokens([], ["ab"]) is None or len(writer.tokenizer("ab")["input_ids"]) == 1
    model = PromptedClassifier(writer, writer.tokenizer, ["kd", "gap"], prompt="answer", before="", ends=True)
    rows = classify(
        [Record(text) for text in TEXTS],
        Session(writer),
        classes=["kd", "gap"],
        prompt="answer",
        calibrate="none",
    )
    found = logits_of(model, writer.tokenizer, TEXTS).softmax(-1)
    for row, own in zip(found, rows, strict=True):
        assert float(row.max()) == pytest.approx(own.score, abs=1e-5)


def test_it_stands_where_a_classifier_stands(writer):
    model = asked(writer)
    assert classifier_layer(model) is model.head and model.config.num_labels == 2
    batch = writer.tokenizer.pad(writer.tokenizer(TEXTS), return_tensors="pt")
    states, _ = classifier_states(model, batch, torch.ones(len(TEXTS), dtype=torch.bool))
    head = head_of_classifier(model)
    torch.testing.assert_close(states @ head.weight.T, logits_of(model, writer.tokenizer, TEXTS))
    assert not any(parameter.requires_grad for parameter in model.parameters())
