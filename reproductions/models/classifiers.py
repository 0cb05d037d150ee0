"""Students and teachers that classify texts: published encoders with a new head, cut and fine-tuned as a testbed says.

    students:
      main: {model: sentence-transformers/all-MiniLM-L6-v2, layers: [0, 1, 2], frozen: embeddings}
    teachers:
      main: {model: sentence-transformers/all-MiniLM-L6-v2, training: {...}}
      asked: {model: HuggingFaceTB/SmolLM2-135M-Instruct, prompted: {}}    # see models/prompted.py

`drawn: blocks` leaves the word embeddings and draws all else anew by the seed: a student that was never pre-trained.
`frozen: embeddings` keeps the word embeddings as they were published: half of a small encoder's weights and most of the
optimiser's work. `pooled: mean` lets the head read the mean of all tokens' states, as encoders of sentences are
published, not the first token's. A head is drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.engine.work.seeding import preserved_random_state, seed_everything
from reproductions.models.makers import MAIN, Models
from reproductions.models.prompted import LateWriter, prompted_classifier, tokenizer_of
from reproductions.models.sources import Loading, load_classifier
from reproductions.models.tokenizers import Vocabulary
from reproductions.models.training import fine_tune_classes, on_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from methods.elicitation.writers.protocol import Writer
    from reproductions.engine.work.run import Run
    from reproductions.models.makers import Data, Published


class Classifiers(Models):
    """Models whose heads have the task's classes. Raises KDError for a model from scratch."""

    half = False  # what a teacher says is remembered, exactly

    def __init__(self, spec: Mapping[str, Any], data: Data, published: Published) -> None:
        super().__init__(spec, data, published)
        self.classes = data.classes
        self.tokenizer.padding_side = "right"  # encoders count places from the left, padding too
        self.read, self.tuned = read_classifier, partial(fine_tune_classes, self.classes)
        self._writers: dict[str, LateWriter] = {}  # by hub id, for all teachers and runs
        self._theirs: dict[str, Vocabulary] = {}

    def prompted(self, name: str) -> Mapping[str, Any] | None:
        """The tree of a teacher that is asked in words, None for any other."""
        tree = self.teachers.get(name, {})
        return tree if "prompted" in tree else None

    def writer(self, name: str) -> Writer | None:
        """What writes for a teacher that is asked in words: its model."""
        tree = self.prompted(name)
        return super().writer(name) if tree is None else self._writer(tree["model"])

    def reads_other_tokens(self, name: str) -> bool:
        """A teacher that is asked in words does."""
        return self.prompted(name) is not None or super().reads_other_tokens(name)

    def teacher_key(self, run: Run, name: str = MAIN) -> dict[str, Any]:
        """What makes a teacher; of one that is asked in words its name and what it is asked."""
        tree = self.prompted(name)
        if tree is None:
            return super().teacher_key(run, name)
        return {"model": tree["model"], "prompted": dict(tree["prompted"])}

    def drawn(self, name: str, run: Run) -> int | None:
        """Which draw of what a teacher writes is a run's; None for that of the run's own seed."""
        tree = self.prompted(name)
        return None if tree is None or "draws" not in tree else self.draw(name, run)

    def _writer(self, hub_id: str) -> LateWriter:
        return self._writers.setdefault(hub_id, LateWriter(hub_id))

    def _vocabulary_of(self, tree: Mapping[str, Any], name: str) -> Vocabulary:
        if "prompted" not in tree:
            return super()._vocabulary_of(tree, name)
        hub_id = tree["model"]
        if hub_id not in self._theirs:
            self._theirs[hub_id] = Vocabulary(tokenizer_of(hub_id))
        return self._theirs[hub_id]

    def _untrained(
        self, tree: Mapping[str, Any], vocabulary: Vocabulary, run: Run, *, seed: int
    ) -> PreTrainedModel:
        if "model" not in tree:
            raise KDError(f"{self.name}: a classifier begins as a published encoder: it needs a `model`")
        if "prompted" in tree:
            writer = self._writer(tree["model"])
            return prompted_classifier(tree, writer, vocabulary.tokenizer, self.classes, self.data.rows)
        with preserved_random_state():
            seed_everything(seed)
            layers = tuple(tree["layers"]) if "layers" in tree else None
            model, _ = load_classifier(tree["model"], self.classes, loading=Loading(layers=layers))
            if "drawn" in tree:
                model = _with_drawn_blocks(model)
            if "pooled" in tree:
                from methods.classes.pooled import mean_pooled

                model = mean_pooled(model)
        if tree.get("frozen") == "embeddings":
            model.get_input_embeddings().requires_grad_(False)
        return on_device(model, run)


def _with_drawn_blocks(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same configuration with this one's word embeddings; all else is drawn."""
    from transformers import AutoModelForSequenceClassification

    made: Any = AutoModelForSequenceClassification.from_config(model.config, trust_remote_code=False)
    words: Any = model.get_input_embeddings()
    made.get_input_embeddings().weight.data.copy_(words.weight.data)
    return made.eval()


def read_classifier(folder: Path) -> Any:
    """A classifier that was made before."""
    from transformers import AutoConfig

    from methods.classes.pooled import classifier_class

    kind = classifier_class(
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    )
    with preserved_random_state():
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
