"""Students and teachers that classify texts: published encoders with a new head, cut and fine-tuned as a testbed says.

    students:
      main: {model: sentence-transformers/all-MiniLM-L6-v2, layers: [0, 1, 2], frozen: embeddings}
    teachers:
      main: {model: sentence-transformers/all-MiniLM-L6-v2, training: {...}}

`drawn: blocks` leaves the word embeddings and draws all else anew by the seed: a student that was never pre-trained.
`frozen: embeddings` keeps the word embeddings as they were published: half of a small encoder's weights and most of the
optimiser's work. A head is drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.engine.work.seeding import preserved_random_state, seed_everything
from reproductions.models.makers import Models
from reproductions.models.sources import Loading, load_classifier
from reproductions.models.training import fine_tune_classes, on_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reproductions.engine.work.run import Run
    from reproductions.models.makers import Data, Published
    from reproductions.models.tokenizers import Vocabulary


class Classifiers(Models):
    """Models whose heads have the task's classes. Raises KDError for a model from scratch."""

    half = False  # what a teacher says is remembered, exactly

    def __init__(self, spec: Mapping[str, Any], data: Data, published: Published) -> None:
        super().__init__(spec, data, published)
        self.classes = data.classes
        self.tokenizer.padding_side = "right"  # encoders count places from the left, padding too
        self.read, self.tuned = read_classifier, partial(fine_tune_classes, self.classes)

    def _untrained(
        self, tree: Mapping[str, Any], vocabulary: Vocabulary, run: Run, *, seed: int
    ) -> PreTrainedModel:
        if "model" not in tree:
            raise KDError(f"{self.name}: a classifier begins as a published encoder: it needs a `model`")
        with preserved_random_state():
            seed_everything(seed)
            layers = tuple(tree["layers"]) if "layers" in tree else None
            model, _ = load_classifier(tree["model"], self.classes, loading=Loading(layers=layers))
            if "drawn" in tree:
                model = _with_drawn_blocks(model)
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
    from transformers import AutoModelForSequenceClassification

    with preserved_random_state():
        return AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
