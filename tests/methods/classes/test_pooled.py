"""A classifier that reads the mean of its tokens: the mean of what is there, in the loss, in blocks, after a save."""

import copy

import pytest
import torch

from methods.classes.model import classifier_states
from methods.classes.pooled import MeanPooledClassifier, mean_pooled
from methods.errors import MethodError
from methods.modeling.cut import keep_blocks
from methods.slots.terms.divergence import Divergence, NextToken
from methods.slots.terms.hidden import HiddenMatch
from reproductions.models.classifiers import read_classifier
from reproductions.models.sources import load_classifier
from tests.methods.classes.test_trainer import model_of, trained
from tests.methods.conftest import letter_tokenizer

IDS = torch.tensor([[5, 6, 7, 8], [9, 5, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.fixture
def plain():
    return model_of().double()


def test_logits_are_the_head_of_the_mean_of_what_is_there(plain):
    model = mean_pooled(copy.deepcopy(plain))
    states = plain.bert(input_ids=IDS, attention_mask=MASK).last_hidden_state
    by_hand = torch.stack([states[0].mean(0), (states[1, 0] + states[1, 1]) / 2])
    expected = by_hand @ plain.classifier.weight.T + plain.classifier.bias
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=MASK).logits, expected)
    alone = model(input_ids=IDS[1:, :2]).logits  # without padding or a mask
    torch.testing.assert_close(alone, expected[1:])
    assert not torch.allclose(plain(input_ids=IDS, attention_mask=MASK).logits, expected)


def test_the_loss_is_that_of_the_labels(plain):
    made = mean_pooled(plain)(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([2, 0]))
    log_probabilities = made.logits.log_softmax(-1)
    torch.testing.assert_close(made.loss, -(log_probabilities[0, 2] + log_probabilities[1, 0]) / 2)


def test_blocks_are_read_as_the_head_reads(plain):
    model, where = mean_pooled(plain), torch.tensor([True, True])
    hidden, blocks = classifier_states(
        model, {"input_ids": IDS, "attention_mask": MASK}, where, blocks=(0, 1)
    )
    torch.testing.assert_close(blocks[1], hidden)  # the last one is what goes into the head
    first = model.bert(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(blocks[0], torch.stack([first[0].mean(0), first[1, :2].mean(0)]))


def test_it_is_saved_read_cut_and_taught(tmp_path):
    teacher = mean_pooled(model_of(layers=3))
    teacher.save_pretrained(tmp_path / "kept")
    again = read_classifier(tmp_path / "kept")
    assert isinstance(again, MeanPooledClassifier) and not again.training
    torch.testing.assert_close(again(IDS, MASK).logits, teacher(IDS, MASK).logits)
    student = keep_blocks(copy.deepcopy(again), [0, 1])
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    after = trained(tmp_path, student, [HiddenMatch([(0, 0)])], teacher=teacher)
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.model.state_dict().items())


def test_the_update_is_the_same_whatever_is_padded_beside_a_text(tmp_path):
    """Texts of other lengths stand beside each other in batches of 2 and of 8: what is padding differs."""
    student, teacher = mean_pooled(model_of().double()), mean_pooled(model_of(seed=1, layers=3).double())
    terms = lambda: [NextToken(), Divergence("forward-kl"), HiddenMatch([(0, 1)])]  # noqa: E731
    whole, parts = (
        trained(tmp_path / str(batch), student, terms(), teacher=teacher, batch=batch).model.state_dict()
        for batch in (8, 2)
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name], rtol=1e-9, atol=1e-12, msg=name)


def test_a_mean_that_counts_padding_is_caught(plain, monkeypatch):
    model = mean_pooled(plain)
    right = model(IDS, MASK).logits
    monkeypatch.setattr(MeanPooledClassifier, "pooled", lambda self, states, mask: states.mean(1))
    assert not torch.allclose(model(IDS, MASK).logits[1], right[1])


def test_whoever_loads_it_reads_the_mean(tmp_path):
    model = mean_pooled(model_of())
    model.save_pretrained(tmp_path)
    letter_tokenizer().save_pretrained(tmp_path)
    again, _ = load_classifier(str(tmp_path))
    torch.testing.assert_close(again(IDS, MASK).logits, model(IDS, MASK).logits)
    outline, _ = load_classifier(str(tmp_path), weights=False)
    assert type(outline) is MeanPooledClassifier and outline.device.type == "meta"


def test_plain_ones_are_read_as_plain_ones(tmp_path, plain):
    plain.save_pretrained(tmp_path)
    assert type(read_classifier(tmp_path)).__name__ == "BertForSequenceClassification"


def test_another_kind_is_refused():
    with pytest.raises(MethodError, match="DistilBertForSequenceClassification: the mean of states can be"):
        mean_pooled(model_of("distilbert"))
