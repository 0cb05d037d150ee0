"""A classifier of texts that reads the mean of its tokens' last states, as encoders of sentences are published."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from methods.errors import MethodError

MEAN = "mean"


class MeanPooledClassifier(BertPreTrainedModel):
    """BERT, the mean of its last states over a text's tokens (padding is none), dropout, a linear layer of the classes.

    Its configuration says `classifier_pooling: mean`. Plain transformers has no such class for BERT and would load the
    weights into one that reads the first token.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        config.classifier_pooling = MEAN
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> MeanPooledClassifier:
        """One with drawn weights, as transformers' Auto classes make theirs."""
        return cls(config)

    def pooled(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """The mean (B, H) of states (B, L, H) where the mask (B, L) is 1; of all for None."""
        if mask is None:
            return states.mean(1)
        there = mask.unsqueeze(-1).to(states.dtype)
        return (states * there).sum(1) / there.sum(1).clamp(min=1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        read: Any = self.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        states = read.last_hidden_state
        logits = self.classifier(self.dropout(self.pooled(states, attention_mask)))
        loss: Any = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def classifier_class(config: Any) -> Any:
    """The class that reads or makes classifiers of a configuration: ours where it says that means are taken of BERT."""
    means = config.model_type == "bert" and getattr(config, "classifier_pooling", None) == MEAN
    return MeanPooledClassifier if means else AutoModelForSequenceClassification


def mean_pooled(model: Any) -> MeanPooledClassifier:
    """The classifier with its blocks and head, reading the mean instead of the first token; shares the weights.

    Raises MethodError for one that is not BERT's.
    """
    if type(model).__name__ != "BertForSequenceClassification":
        raise MethodError(f"{type(model).__name__}: the mean of states can be read of BERT's classifiers")
    with torch.device("meta"):
        made = MeanPooledClassifier(model.config)
    model.bert.pooler = None
    made.bert, made.classifier, made.dropout = model.bert, model.classifier, model.dropout
    return made.train(model.training)
