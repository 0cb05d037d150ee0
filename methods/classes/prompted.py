"""A language model that is asked which class a text has, in the form of a classifier: it fits wherever one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from methods.elicitation.components.asking import How, request_for
from methods.elicitation.components.classes import calibrated, mean_of, probabilities
from methods.elicitation.prompting import read_prompt
from methods.elicitation.records.record import Record
from methods.elicitation.writers.protocol import Request

LEAST = 1e-30  # in the place of probability 0: a head multiplies, and 0 x infinity is no number


class Says(Protocol):
    """A writer that scores texts, and single tokens faster."""

    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]: ...
    def first_tokens(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]] | None: ...


class PromptedConfig(PretrainedConfig):
    """The classes by name; hidden states are their log-probabilities, so there are as many of them."""

    model_type = "prompted"

    def __init__(self, classes: Sequence[str] = ("no", "yes"), **more: Any) -> None:
        self.hidden_size, self.num_hidden_layers = len(classes), 1
        named = dict(enumerate(classes))
        super().__init__(id2label=named, label2id={name: number for number, name in named.items()}, **more)


class PromptedClassifier(PreTrainedModel):
    """Logits (B, C): log-probabilities of the classes' names behind each text, as the component `classify` has them.

    `input_ids` (B, L) are those of the model's own `tokenizer`, told back as text. `unlabelled` gives texts over which
    the mean probability of each class is its prior, by which what is said is divided (Batch Calibration, arXiv
    2309.17249); None: nothing is calibrated. It is asked once, when the first text is read. Hidden states (B, C) are
    the logits, the head is the identity.
    """

    config_class = PromptedConfig
    base_model_prefix = "prompted"

    def __init__(
        self,
        says: Says,
        tokenizer: Any,
        classes: Sequence[str],
        *,
        prompt: str,
        before: str = " ",
        ends: bool = False,
        unlabelled: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        super().__init__(PromptedConfig(classes))
        self.says, self.tokenizer, self.classes = says, tokenizer, list(classes)
        self.prompt, self.before, self.ends, self.unlabelled = prompt, before, ends, unlabelled
        self._prior: list[float] | None = None
        self.head = nn.Linear(len(classes), len(classes), bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(len(classes)))
        self.requires_grad_(False)

    def prior(self) -> list[float]:
        """The probability of each class whatever the text is; 1 for each where nothing is calibrated."""
        if self._prior is None:
            self._prior = [1.0] * len(self.classes)
            if self.unlabelled is not None:
                self._prior = mean_of(self.shares(self.unlabelled()))
        return self._prior

    def shares(self, texts: Sequence[str]) -> list[list[float]]:
        """Probabilities over the classes of each text, as they are said: not calibrated."""
        names = [self.before + name for name in self.classes]
        read = read_prompt(self.prompt)
        if not self.ends:
            fields = [{"prompt": text, "classes": ", ".join(self.classes)} for text in texts]
            asked = [
                request_for(Record(text), "classify", read, own, How())
                for text, own in zip(texts, fields, strict=True)
            ]
            quick = self.says.first_tokens(asked, names)
            if quick is not None:
                return [torch.tensor(row, dtype=torch.float64).softmax(0).tolist() for row in quick]
        rows = [Record(text) for text in texts]
        return probabilities(rows, self.says, self.classes, self.prompt, before=self.before, ends=self.ends)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Any:
        """`logits` (B, C), fp32."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids = [row[kept.bool()].tolist() for row, kept in zip(input_ids, mask, strict=True)]
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        prior = self.prior()
        said = [calibrated(own, prior) for own in self.shares(texts)]
        logs = torch.tensor(said, device=self.head.weight.device).clamp_min(LEAST).log()
        return SequenceClassifierOutput(logits=self.head(logs))
