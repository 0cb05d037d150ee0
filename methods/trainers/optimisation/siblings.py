"""Of each completion another one to the same prompt that was right: what a teacher is shown of the student's own."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate.utils import gather_object

from methods.trainers.optimisation.record import Record


def siblings(record: Record, texts: Sequence[str], places: Sequence[int], least: float) -> list[str | None]:
    """For each of this rank's completions the text of the next one of its group, in a circle, that was right.

    Right is a first reward of `least` or more; None where no other is. `texts`: the completions of this rank, `places`
    their numbers over all ranks: a group may lie on several.
    """
    groups, rewards = record.group.tolist(), record.rewards[:, 0].tolist()
    own = list(zip(places, groups, rewards, texts, strict=True))
    right: dict[int, list[tuple[int, str]]] = {}
    for place, group, reward, text in sorted(gather_object(own)):
        if reward >= least:
            right.setdefault(group, []).append((place, text))
    found: list[str | None] = []
    for place, group, _, _ in own:
        others = [one for one in right.get(group, []) if one[0] != place]
        after = [text for other, text in others if other > place]
        found.append(after[0] if after else others[0][1] if others else None)
    return found
