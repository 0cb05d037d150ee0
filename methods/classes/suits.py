"""Which methods are for classes too: sums of terms on labelled texts that are there before the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from methods.recipe import ITSELF, OF_CLASSES, WRITES

TERMS = (
    "next-token",
    "ranked-choices",
    "hidden-match",
    "attention-match",
    "relation-match",
    "replaced-blocks",
    "subclass-match",
    "token-states-match",
    "ensembled-labels",
)  # beside every divergence: of a label, of an order of classes, of blocks
ENCODERS = (
    "attention-match",
    "relation-match",
    "replaced-blocks",
    "subclass-match",
    "token-states-match",
)  # of those, the ones that are about nothing else
TEACH_CLASSES = (
    "next-token",
    "ranked-choices",
    "replaced-blocks",
    "ensembled-labels",
)  # beside every divergence
PLACES = {"sources", "over", "token_weights", "row_settings", "support"}
OF_LABELS = ("annealed-labels",)  # token weights that look at a label and what is said instead of it


def why_not(method: Mapping[str, Any]) -> str | None:
    """Why a canonical method cannot distil a classifier, in a few words; None where it can."""
    if method["trainer"]["name"] not in (WRITES, OF_CLASSES):
        return f"its trainer, {method['trainer']['name']}, is about what a student writes"
    if "sampler" in method:
        return "its student learns from what is written while it trains"
    if method["data"] != "train":
        return "its rows are written by a teacher, or chosen of what is written"
    if method.get("gradient_balance"):
        return "it balances gradients on an LM head"
    if any(name == ITSELF for name in method["teachers"]):
        return "the student is a teacher of its own there"
    for term in method["terms"]:
        if "term" in term:
            if term["term"] not in TERMS:
                return f"the term {term['term']} is about what is written"
            if term.get("filters") == "task":
                return "its filters learn from next tokens first"
        weighed = "token_weights" in term and _named(term["token_weights"]) not in OF_LABELS
        if PLACES - {"token_weights"} & term.keys() or weighed:
            return "a term of it tells places of a written text apart"
    if not any(_teaches_classes(term) for term in method["terms"]):
        return "none of its terms is about the classes, and a new head would stay as it was drawn"
    return None


def _named(tree: Any) -> Any:
    return tree["name"] if isinstance(tree, Mapping) else tree


def _teaches_classes(term: Mapping[str, Any]) -> bool:
    weight = term.get("weight", 1.0)
    off = isinstance(weight, Mapping) and weight.get("weight") == 0
    return not off and ("divergence" in term or term.get("term") in TEACH_CLASSES)


def only_for_classes(method: Mapping[str, Any]) -> str | None:
    """Why a canonical method can distil a classifier alone, in a few words; None where it can do more."""
    if method["trainer"]["name"] == OF_CLASSES:
        return "its trainer reads labels of texts"
    if any(term.get("term") == "ensembled-labels" for term in method.get("terms", ())):
        return "its ensembled-labels is about texts with a label each"
    found = [term["term"] for term in method.get("terms", ()) if term.get("term") in ENCODERS]
    return f"its {found[0]} is about every token inside an encoder" if found else None
