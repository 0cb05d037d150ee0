"""`answers` of a config's teacher: where what it says of the rows is kept, and who is asked for it.

    teacher:
      model: org/large
      answers: {in: answers}                 # `kd teach` fills it, `kd distill` reads it and loads no teacher

    teacher:
      model: large                           # what the server calls it
      answers:
        in: answers
        server: https://api.example.org/v1   # gives log-probabilities of a prompt's tokens
        key: EXAMPLE_API_KEY                 # the name of the environment variable, never the key
        tokenizer: org/large                 # the student's where none is named

ANSWERS has every field with its default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest
from methods.recipe import ITSELF
from methods.registry import load
from reproductions.distill import limits
from reproductions.engine.files import digest, read_json

TOP_K, DRAWN, HIDDEN = "top-k", "drawn", "hidden-states"
KEPT = (TOP_K, DRAWN, HIDDEN)
PRECISIONS = ("bf16", "fp32")
ANSWERS: Mapping[str, Any] = {
    "in": "",
    # The most probable ids; or ids drawn from the teacher, for the forward KL without bias; or hidden-states: exact, as
    # long as the training is in fp32.
    "keep": TOP_K,
    "top_k": 64,  # ids of a token, at most
    "rounds": 50,  # draws for each token
    "precision": "bf16",  # of hidden states: as fp32 they are the live teacher's
    "server": "",
    "protocol": "vllm",
    "tokenizer": "",
    "key": "OPENAI_API_KEY",
    "parallel": 4,  # requests under way
    "timeout": 120.0,  # seconds of one attempt
    "attempts": 5,
    "tokens": 0,  # read by the server at most; 0 for no cap
}
RANGES: Mapping[str, limits.Range] = {
    **dict.fromkeys(("top_k", "rounds"), limits.COUNT),
    **limits.OF_A_SERVER,
    "tokens": limits.Range(0, 10**15),
}
FORWARD, LABELS = "forward-kl", "cross-entropy"
OF_A_SERVER = ("protocol", "tokenizer", "key", "parallel", "timeout", "attempts", "tokens")


@dataclass(frozen=True)
class Answers:
    """Where a teacher's answers lie, which of them, and the server that is asked for them, if any."""

    folder: Path
    keep: str = TOP_K
    top_k: int = 64
    rounds: int = 50
    precision: str = "bf16"
    server: str = ""
    protocol: str = "vllm"
    tokenizer: str = ""
    key: str = "OPENAI_API_KEY"
    parallel: int = 4
    timeout: float = 120.0
    attempts: int = 5
    tokens: int = 0

    @property
    def digest(self) -> str | None:
        """A hash of what is kept, its teacher's and rows' identity among it; None where nothing is."""
        from methods.teachers.files import HEADER

        header = self.folder / HEADER
        return digest(read_json(header), 12) if header.is_file() else None


def read_answers(value: Any, lines: Lines) -> Answers | None:
    """The `answers` of one teacher, in the lines of that teacher. Raises CatalogError."""
    if value is None:
        return None
    from methods.teachers.codec import MOST_ROUNDS
    from methods.teachers.server import PROTOCOLS

    given = {"in": value} if isinstance(value, str) else value
    made = limits.with_defaults({"answers": given}, "answers", ANSWERS, RANGES, lines)
    folder = made.pop("in")
    if not folder.strip():
        raise lines.error('answers: "in" is missing: the folder that keeps them', "answers")
    for name, known in (("keep", KEPT), ("precision", PRECISIONS), ("protocol", PROTOCOLS)):
        if made[name] not in known:
            near = nearest(str(made[name]), known)
            raise lines.error(
                f'answers: no {name} "{made[name]}"{near}; known: {", ".join(known)}', "answers", name
            )
    lost = next((name for name in OF_A_SERVER if name in given), None)
    if lost and not made["server"]:
        raise lines.error(f'answers: "{lost}" is about a server, and none is named', "answers", lost)
    if made["server"] and made["keep"] != TOP_K:
        raise lines.error(
            f"answers: a server gives its most probable ids, not {made['keep']}", "answers", "keep"
        )
    if made["rounds"] > MOST_ROUNDS:
        raise lines.error(
            f"answers: rounds are at most {MOST_ROUNDS}, not {made['rounds']}", "answers", "rounds"
        )
    if not made["key"].replace("_", "").isalnum() or made["key"] != made["key"].upper():
        raise lines.error(
            'answers: "key" is the name of an environment variable such as OPENAI_API_KEY, never the key itself',
            *("answers", "key"),
        )
    return Answers(lines.beside(folder, "answers", "in"), **made)


def why_not(tree: Mapping[str, Any], answers: Sequence[Answers | None]) -> str | None:
    """Why a method cannot learn from kept answers, in a few words; None where it can, or where none are kept."""
    if not any(answers):
        return None
    from methods.assembly import stays

    if tree["trainer"]["name"] != "distillation":
        return f"its trainer, {tree['trainer']['name']}, asks the teacher itself"
    if "sampler" in tree:
        return "its student learns from texts that are written while it trains"
    if not stays(tree["data"]):
        return "its rows are written by the teacher first: `kd elicit` and `kd distill` do that in two steps"
    if any(name == ITSELF for name in tree["teachers"]):
        return "the student is a teacher of its own"
    readers = [term for term in tree["terms"] if "divergence" not in term and _reads_a_teacher(term)]
    if readers:
        return f"the term {readers[0]['term']} looks into the teacher itself"
    kept = [one for one in answers if one is not None]
    sparse = [one for one in kept if one.keep != HIDDEN]
    if len(answers) > 1 and sparse:
        return "several teachers are averaged by all their logits: `keep: hidden-states` has them"
    if sparse and len(set(temperatures(tree))) > 1:
        return "its terms have several temperatures: `keep: hidden-states` serves them all"
    others = [
        term["divergence"]
        for term in tree["terms"]
        if term.get("divergence", FORWARD) not in (FORWARD, LABELS)
    ]
    if others and any(one.keep == DRAWN for one in kept):
        return f"drawn ids teach the forward KL alone, and it has {others[0]}"
    return None


def temperatures(tree: Mapping[str, Any]) -> Iterator[float]:
    """Those of a method's divergences."""
    return (float(term.get("temperature", 1.0)) for term in tree["terms"] if "divergence" in term)


def _reads_a_teacher(tree: Mapping[str, Any]) -> bool:
    from methods.slots.term import IDS, NOTHING

    return getattr(load("term", tree["term"]), "reads", NOTHING) not in (IDS, NOTHING)
