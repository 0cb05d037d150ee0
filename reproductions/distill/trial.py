"""A method tried out before a model is loaded: components are made, divergences measured on made-up numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from methods.errors import MethodError
from methods.registry import RegistryError

MADE_UP = (4, 3, 5)  # tokens, width, ids


def try_out(method: Mapping[str, Any], teachers: int) -> None:
    """Raises RegistryError whose path leads to the part of a canonical method that cannot work with its settings."""
    from methods.registry import build

    if method["trainer"]["name"] == "teacher-alone":
        raise RegistryError("teacher-alone trains nothing: it is for measuring a teacher", "trainer")
    for place, tree in enumerate(method.get("terms", ())):
        _try("terms", place, run=lambda tree=tree: _term(tree, method, teachers))
    if "sampler" in method:
        _try("sampler", run=lambda: build("sampler", method["sampler"]))


def _try(*path: str | int, run: Any) -> None:
    try:
        run()
    except RegistryError as error:
        raise error.below(*path) from None
    except (TypeError, ValueError, IndexError, KeyError) as error:  # a MethodError is a ValueError
        raise RegistryError(" ".join(str(error).split()), *path) from None


def _term(tree: Mapping[str, Any], method: Mapping[str, Any], teachers: int) -> None:
    from methods.assembly import term_of
    from methods.slots.term import NOTHING
    from methods.slots.terms.divergence import Divergence

    made = term_of(tree, _Nowhere(), method["teachers"])  # type: ignore[arg-type]
    if made.reads != NOTHING and not teachers:
        raise MethodError('this term reads a "teacher", and the config names none')
    if isinstance(made, Divergence) and made._by_rows is None and not callable(made.settings):
        _measure(made)


def _measure(term: Any) -> None:
    """A divergence between two distributions that differ is not zero, or nothing would be learnt from it."""
    import torch

    from methods.losses.fused.linear import Head, linear_divergence

    draws = torch.Generator().manual_seed(0)
    tokens, width, ids = MADE_UP
    sides = [
        (torch.randn(tokens, width, generator=draws), Head(torch.randn(ids, width, generator=draws)))
        for _ in range(2)
    ]
    given = {"divergence": term.divergence, "temperature": term.temperature, **term.settings}
    value = float(linear_divergence(*sides[0], *sides[1], **given).total)
    if not abs(value) > 1e-6:
        said = ", ".join(f"{name}: {setting}" for name, setting in term.settings.items()) or "its settings"
        shown = "no number" if math.isnan(value) else "0"
        raise MethodError(
            f"with {said} this divergence is {shown} whatever the models say: nothing would be learnt"
        )


class _Nowhere:
    """Surroundings without models: what a term asks for when it is made."""

    seed = 0
    tokenizer = None

    def corpus(self) -> None:
        """A config names no plain text."""
