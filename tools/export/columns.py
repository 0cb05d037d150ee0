"""The tables of an export and their columns: name, type, what it says, and where a row has it from.

This is the one place that says so: files, types and the card are made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from catalog.queries import axis_name
from reproductions.engine.show.view import PERCENT, STANDS_IN
from reproductions.engine.verdicts.words import MEANING
from reproductions.engine.work.environment import commit
from tools.export import rows
from tools.pages.atlas import Atlas

# Types of columns, by the word that `datasets` has for them; a tuple: a list of such.
TEXT, WHOLE, NUMBER, YES = "string", "int64", "float64", "bool"
EXTERNAL = dict.fromkeys(("url", "date", "kind", "says", "seen"), TEXT) | {"agrees": YES}


@dataclass(frozen=True)
class Column:
    """`kind` is a type, a type in a tuple for a list of it, or a mapping of names to types in a tuple for records."""

    name: str
    kind: Any
    says: str
    of: Callable[[Any], Any]


@dataclass(frozen=True)
class Table:
    """One data set: its rows are made from the atlas."""

    name: str
    says: str
    columns: tuple[Column, ...]
    rows: Callable[[Atlas], Iterable[Any]]


def _field(name: str, kind: Any, says: str, *path: str) -> Column:
    """A column that is a row's own field, or the one at the end of a path of fields."""

    def of(row: Any) -> Any:
        for step in path or (name,):
            row = getattr(row, step)
        return list(row) if isinstance(row, tuple) else row

    return Column(name, kind, says, of)


def _axis(name: str, says: str) -> Column:
    return Column(name, (TEXT,), says, lambda row: list(row.paper.taxonomy[axis_name(name)]))


def _of_paper(name: str, says: str, kind: Any = TEXT) -> Column:
    return _field(name, kind, says, "paper", name)


def _of_claim(name: str, says: str, kind: Any = TEXT, field: str = "") -> Column:
    return _field(name, kind, says, "claim", field or name)


def _of_outcome(name: str, kind: Any, says: str, field: str = "") -> Column:
    """None where nothing is recorded of the claim."""
    return Column(
        name, kind, says, lambda row: None if row.outcome is None else getattr(row.outcome, field or name)
    )


def _end(name: str, place: int, says: str, interval: Callable[[Any], Any]) -> Column:
    def of(row: Any) -> Any:
        found = interval(row)
        return None if found is None else found[place]

    return Column(name, NUMBER, says, of)


def _of_matched(name: str, kind: Any, says: str) -> Column:
    def of(row: Any) -> Any:
        matched = row.outcome and row.outcome.matched
        return None if matched is None else getattr(matched, name)

    return Column(f"matched_{name}", kind, says, of)


def _spent(name: str, says: str) -> Column:
    return Column(
        name, NUMBER, says, lambda row: None if row.arm.budget is None else getattr(row.arm.budget, name)
    )


_FILE = _field("file", TEXT, "The file of the repository that this row was read from.")
_OURS = _field("ours", YES, "Whether this is a question of our own, which no paper states.")
_COMMIT = Column(
    "commit", TEXT, "The commit of the checkout that the row was read from.", lambda _: commit()["commit"]
)
_SCALE = (
    "`tiny` (from scratch, minutes), `small` (real models of 100-300M), `paper`; a second testbed behind it."
)
_STANDS_IN = "What plays the teacher: " + "; ".join(f"`{word}`, {says}" for word, says in STANDS_IN.items())

RECORDS = Table(
    "records",
    "One row a paper of the catalog.",
    (
        _of_paper("id", "The paper's id, by which the other tables name it."),
        _of_paper("title", "Its title."),
        _of_paper("authors", "Its authors.", (TEXT,)),
        _of_paper("date", "Year and month of its first version."),
        _of_paper("venue", "Where it appeared."),
        _of_paper("arxiv", "Its number on arXiv, null where it is not there."),
        _of_paper("url", "Its address."),
        _of_paper("scope", "`llm`, `beyond-llm` or `survey`."),
        _of_paper("distils", "Whether a student learns from a teacher in it.", YES),
        _field("status", TEXT, "`catalogued`, `implemented` (its method runs here) or `judged`."),
        _axis("elicitation", "Leaves of the first axis: how knowledge is drawn from the teacher."),
        _axis("algorithm", "Leaves of the second axis: how the student learns it."),
        _axis("skill", "Leaves of the third axis: what is distilled."),
        _axis("vertical", "Leaves of the fourth axis: the domain."),
        _field(
            "judged_labels", (TEXT,), "Those `axis:leaf` that are our own reading; the others are listed."
        ),
        _of_paper("adds", "What the paper adds, in one line of our own words."),
        _of_paper("teacher", "Its teachers."),
        _of_paper("student", "Its students."),
        _of_paper("seed_knowledge", "What the teacher is asked about."),
        _of_paper(
            "basis", "Where teacher, student and seed were seen; `secondary` and `recalled` are unverified."
        ),
        _of_paper("objective", "Its loss."),
        _of_paper("code", "Addresses of the authors' code.", (TEXT,)),
        _of_paper("code_licence", "That code's licence."),
        _of_paper("data", "Addresses of the authors' data.", (TEXT,)),
        _of_paper("method", "The id of its recipe, null where there is none."),
        _of_paper("superseded_by", "The id of the paper that took its place."),
        _of_paper("corrections", "Where the record departs from the list it was taken from.", (TEXT,)),
        _of_paper("sources", "Where the record's facts were seen.", (TEXT,)),
        _of_paper("owes", "What the record still lacks.", (TEXT,)),
        Column(
            "external",
            (EXTERNAL,),
            "What others found, in our words; `agrees` is about the paper's headline, null for neither.",
            lambda row: [asdict(one) for one in row.paper.external],
        ),
        _FILE,
        _COMMIT,
    ),
    rows.records,
)

CLAIMS = Table(
    "claims",
    "One row a claim at a scale: what the paper states, what was measured, the verdict. A claim that nothing is "
    "recorded of has one row, without a scale.",
    (
        _field("paper", TEXT, "The paper's id, or the name of a question of our own."),
        _OURS,
        _of_claim("claim", "The claim's id, unique within the paper.", field="id"),
        _of_claim("statement", "What is claimed."),
        _of_claim("formula", "What is compared, by names of arms."),
        _of_claim("source", "Version and table or section of the paper."),
        _of_claim("source_url", "The source's address."),
        _of_outcome("scale", TEXT, _SCALE),
        _field("testbed", TEXT, "Task, models and metrics; `reproductions/testbeds/<testbed>.yaml`."),
        _field("stands_in", TEXT, f"{_STANDS_IN}."),
        _field("metric", TEXT, "What is measured."),
        _field("verdict", TEXT, "; ".join(f"`{word}`: {says}" for word, says in MEANING.items()) + "."),
        _field("told", TEXT, "The verdict in full: what it needs, or at how many seeds the next look is."),
        _of_outcome(
            "difference", NUMBER, "The estimate, in the metric's unit; above zero speaks for the claim."
        ),
        _end(
            "low",
            0,
            f"Lower end of its {PERCENT} interval.",
            lambda row: row.outcome and row.outcome.interval,
        ),
        _end(
            "high",
            1,
            f"Upper end of its {PERCENT} interval.",
            lambda row: row.outcome and row.outcome.interval,
        ),
        _of_outcome("smallest_effect", NUMBER, "The smallest difference that matters.", "effect"),
        _of_outcome("effect_from", TEXT, "How that came about."),
        _of_claim("margin", "What the difference must exceed; 0 for a plain ordering.", NUMBER),
        _of_claim("within", "The bound of a claim of equality, null for the others.", NUMBER),
        _of_outcome("seeds", WHOLE, "How many seeds the interval is over."),
        _of_outcome("groups", WHOLE, "How many draws of the teacher they share; 0: each stands for itself."),
        _of_outcome("look", WHOLE, "The look that decided, in seeds; 0: none is complete."),
        _of_outcome("next_look", WHOLE, "The look to come, null where none is left or needed."),
        _of_outcome("p", NUMBER, "p value of a difference equal to the claim's bound."),
        _of_outcome("p_equal", NUMBER, "p value of a difference as large as the smallest effect."),
        _field("q", NUMBER, "q value of a decided claim over all papers at its scale (Benjamini-Hochberg)."),
        _of_claim("better", "The arm that is claimed to be better, where two are compared."),
        _of_claim("worse", "The arm that is claimed to be worse."),
        _of_outcome("better_mean", NUMBER, "Our mean of the first."),
        _of_outcome("worse_mean", NUMBER, "Our mean of the second."),
        _of_claim("paper_better", "The paper's number of the first, in its own setting.", NUMBER),
        _of_claim("paper_worse", "The paper's number of the second.", NUMBER),
        _of_claim("paper_setting", "That setting."),
        _of_matched("verdict", TEXT, "The verdict where each arm is sampled at its own best temperature."),
        _of_matched("difference", NUMBER, "The estimate there."),
        _of_outcome(
            "finding", TEXT, "The best explanation of what came out, where one is written.", "explanation"
        ),
        _field("attempt", WHOLE, "Under which configuration of its experiment, counted from 1; 0: not said."),
        Column(
            "made", TEXT, "How the results came about: device, versions, commits, when.", lambda row: row.made
        ),
        _FILE,
        _COMMIT,
    ),
    rows.claims,
)

ARMS = Table(
    "arms",
    "One row a recorded arm and metric at a scale: how a way of training the student fared.",
    (
        _field("paper", TEXT, "The paper's id, or the name of a question of our own."),
        _OURS,
        _field("scale", TEXT, _SCALE, "scale", "name"),
        _field("testbed", TEXT, "Task, models and metrics.", "scale", "testbed"),
        _field("stands_in", TEXT, "What plays the teacher, as in `claims`.", "scale", "stands_in"),
        _field("arm", TEXT, "The arm's name in the experiment.", "arm", "name"),
        _field("title", TEXT, "Its title.", "arm", "title"),
        _field("role", TEXT, "`method`, `baseline` or what else it is for.", "arm", "role"),
        _field("recipe", TEXT, "What it computes, in a line.", "arm", "recipe"),
        _field(
            "key",
            TEXT,
            "The hash of all that decides its figures; arms of one key are one training.",
            "arm",
            "key",
        ),
        _field("metric", TEXT, "What is measured.", "metric", "name"),
        _field("metric_title", TEXT, "That metric in words.", "metric", "title"),
        _field("unit", TEXT, "Its unit.", "metric", "unit"),
        _field("higher_is_better", YES, "Its direction.", "metric", "higher_is_better"),
        _field("mean", NUMBER, "Mean over seeds.", "figure", "mean"),
        _end("low", 0, "Lower end of its 95 % interval over seeds.", lambda row: row.figure.interval),
        _end("high", 1, "Upper end of its 95 % interval over seeds.", lambda row: row.figure.interval),
        _field("by_seed", (NUMBER,), "Each seed's own figure.", "figure", "by_seed"),
        _field("seeds", WHOLE, "How many seeds were run.", "arm", "seeds"),
        _field(
            "paper_number", NUMBER, "The paper's number of this arm, in its own setting.", "figure", "paper"
        ),
        _spent("student_tokens", "Tokens that the student was trained on in a run, mean over seeds."),
        _spent("teacher_tokens", "Tokens that teachers read."),
        _spent("generated_tokens", "Tokens that the student wrote."),
        _spent("train_seconds", "Seconds of training."),
        _field("made", TEXT, "How the results came about.", "scale", "made"),
        _field(
            "file",
            TEXT,
            "The file of its first runs; what it got later stands in the folder of that name beside it.",
        ),
        _COMMIT,
    ),
    rows.arms,
)

LEAGUE = Table(
    "league",
    "One row an arm and metric of a league: arms of equal budget side by side, whichever papers brought them.",
    (
        _field("league", TEXT, "The league's name.", "table", "name"),
        _field("scale", TEXT, _SCALE, "table", "scale"),
        _field("budget", TEXT, "What every arm of it was given.", "table", "budget"),
        _field("student", TEXT, "The student's size, by the testbed's name for it.", "table", "student"),
        _field("testbed", TEXT, "The testbed of the arm.", "row", "testbed"),
        _field("key", TEXT, "The arm's key, as in `arms`.", "row", "key"),
        _field("title", TEXT, "The arm.", "row", "title"),
        _field("recipe", TEXT, "What it computes, in a line.", "row", "recipe"),
        _field("papers", (TEXT,), "The papers that have this arm.", "row", "papers"),
        _field("seeds", WHOLE, "Seeds of the league.", "row", "seeds"),
        _field("learning_rate", NUMBER, "The learning rate that its sweep chose.", "row", "rate"),
        _field("metric", TEXT, "What is measured.", "cell", "metric"),
        _field("mean", NUMBER, "Mean over the seeds.", "cell", "mean"),
        _end("low", 0, "Lower end of its 95 % interval.", lambda row: row.cell.interval),
        _end("high", 1, "Upper end of its 95 % interval.", lambda row: row.cell.interval),
        _field(
            "ties",
            TEXT,
            "Letters of its groups of ties on this metric; arms that share one are not apart.",
            "cell",
            "letters",
        ),
        _end(
            "best_rank",
            0,
            "The best rank that it may have, null where the metric is no quality.",
            lambda row: row.cell.ranks,
        ),
        _end("worst_rank", 1, "The worst rank that it may have.", lambda row: row.cell.ranks),
        _FILE,
        _COMMIT,
    ),
    rows.league,
)

ATTEMPTS = Table(
    "attempts",
    "One row a claim of an earlier attempt: how a paper was judged before its experiment was changed.",
    (
        _field("paper", TEXT, "The paper's id, or the name of a question of our own."),
        _field("number", WHOLE, "Which attempt.", "attempt", "number"),
        _field("date", TEXT, "When it was frozen.", "attempt", "date"),
        _field(
            "engine", WHOLE, "1: the first edition's bootstrap; 2: today's intervals.", "attempt", "engine"
        ),
        _field("scale", TEXT, _SCALE, "attempt", "scale"),
        _field("testbed", TEXT, "Its testbed.", "attempt", "testbed"),
        _field("changed", TEXT, "What was changed from the attempt before it.", "attempt", "changed"),
        _field("claim", TEXT, "The claim's id.", "former", "claim"),
        _field("verdict", TEXT, "The verdict, in the words of its engine.", "former", "verdict"),
        _field("difference", NUMBER, "The estimate.", "former", "difference"),
        _end("low", 0, "Lower end of its interval.", lambda row: row.former.interval),
        _end("high", 1, "Upper end of its interval.", lambda row: row.former.interval),
        _field(
            "verdict_now",
            TEXT,
            "Today's verdict on the same figures, where there is one.",
            "former",
            "now_verdict",
        ),
        _field("recorded_at", TEXT, "The commit at which it was recorded.", "attempt", "commit"),
        _FILE,
        _COMMIT,
    ),
    rows.attempts,
)

TABLES = (RECORDS, CLAIMS, ARMS, LEAGUE, ATTEMPTS)
