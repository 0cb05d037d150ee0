"""What README, lists, pages and site all say of the catalog: its parts, how far each leaf is covered, the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from catalog.queries import status
from catalog.schema import AXES, Catalog, Paper, load_catalog
from reproductions.engine.atlas.record import Record
from reproductions.engine.atlas.record import read as read_record
from reproductions.engine.show.summary import Evidence, evidence
from reproductions.engine.show.view import PaperView, Tally

MARKS = {
    "reproduced": "✅",
    "weaker": "🔸",
    "no difference": "➖",
    "reversed": "🔄",
    "open": "❔",
    "needs": "🚧",
    "not run": "⬜",
}
NEWEST = 12
BASIS = {
    "paper": "from the paper",
    "survey-table": "from the survey's summary table",
    "abstract": "from the abstract",
    "secondary": "unverified: second-hand",
    "recalled": "unverified: recalled",
}

# How a reproduction is judged: a heading and its text, for Markdown and HTML alike; {signs} are the verdicts' marks.
_JUDGING = (
    (
        "Claims first.",
        "What the paper states is written down as contrasts (this arm beats that arm on this metric, a gap widens, two "
        "are equal within a bound), each with its table and version, and committed before anything runs. The first run "
        "keeps a digest of them: a claim that is changed later shows.",
    ),
    (
        "Equal budgets.",
        "All arms get the same data and steps, and baselines the same sweep of learning rates as the method, on "
        "validation data and with seeds that are never judged. Tokens and seconds stand in the result. "
        "The same comparison at equal seconds is reported beside it.",
    ),
    (
        "Raw figures.",
        "Every seed and every test example is recorded, in a file named by the hash of all that decides the figures: "
        "task, models, components, settings. A changed loss is another name; changed code of a component names the "
        "results that it makes stale. No verdict is typed: make verify computes each again, and finds what was taken "
        "out or edited.",
    ),
    (
        "The testbed first.",
        "A testbed earns the right to judge by a gate, recorded before any method runs on it: the teacher is better "
        "than the baseline, the same arm twice comes out equal, a contrast that must exist is seen. A claim whose "
        "testbed has no gate, or one that does not show what the claim is about, gets no verdict: {needs} needs.",
    ),
    (
        "A verdict is an interval.",
        "The paired difference over seeds and examples in closed form (Student's t, the examples' part counted once), "
        "looked at when there are 5, 10, 20 and 40 seeds, at 98.75 % each, so 95 % for all looks together. What size "
        "matters is declared beforehand. Wholly on the claimed side is {reproduced} reproduced, or {weaker} weaker "
        "where it is smaller than what matters; wholly smaller than that is {no_difference} no difference; wholly on "
        "the other side {reversed} reversed; else {open} open, and more seeds are run, up to 40. The first look that "
        "decides counts.",
    ),
    (
        "A scale is not the paper.",
        "The scales tiny (models from scratch, minutes) and small (100-300M parameters) test whether the ordering "
        "holds there, with the teacher that the verdict names; only the scale paper tests the paper's own numbers.",
    ),
)


def judging(marks: Mapping[str, str]) -> list[tuple[str, str]]:
    """The rules by which verdicts come about, with the signs that stand for them where they are printed."""
    signs = {name.replace(" ", "_"): mark for name, mark in marks.items()}
    return [(head, text.format(**signs)) for head, text in _JUDGING]


@dataclass(frozen=True)
class Coverage:
    """How many papers of a leaf there are, have their method here, and were judged (which has a method too)."""

    papers: int
    implemented: int
    judged: int

    @property
    def covered(self) -> int:
        """Papers that are more than a record."""
        return self.implemented + self.judged


@dataclass(frozen=True)
class Question:
    """An experiment of our own, which no paper states: what its file says it is about, and its view."""

    name: str
    about: str
    view: PaperView

    @property
    def asks(self) -> str:
        """The question itself: the first paragraph of what the experiment is about."""
        first = self.about.strip().partition("\n")[0].removeprefix("A question of our own: ")
        return first[:1].upper() + first[1:]

    @property
    def badge(self) -> str:
        """'tiny (oracle): ✅ 7 🔄 1', '' where nothing is judged yet."""
        tally = self.view.tally()
        return badge(tally, words={scale: self.view.stands_in(scale) for scale in tally})


@dataclass(frozen=True)
class Atlas:
    """The catalog with what its reproductions say; `views` holds the papers that can be run here.

    `questions` are the experiments of our own, by name; they count in no figure about papers. `record` is what all
    experiments say together, as it was computed from recorded results; None where nothing is committed.
    """

    catalog: Catalog
    views: Mapping[str, PaperView]
    record: Record | None = None
    questions: Mapping[str, Question] = field(default_factory=dict)

    @cached_property
    def papers(self) -> list[Paper]:
        """Every paper, newest first."""
        return sorted(self.catalog.papers.values(), key=lambda paper: (paper.date, paper.id), reverse=True)

    @cached_property
    def core(self) -> list[Paper]:
        """Papers about language models: what leaves, matrix and coverage count."""
        return [paper for paper in self.papers if paper.scope == "llm"]

    @cached_property
    def beyond(self) -> list[Paper]:
        return [paper for paper in self.papers if paper.scope == "beyond-llm"]

    @cached_property
    def surveys(self) -> list[Paper]:
        return [paper for paper in self.papers if paper.scope == "survey"]

    @cached_property
    def leaves(self) -> dict[str, dict[str, list[Paper]]]:
        """axis -> value -> its papers about language models, newest first."""
        found: dict[str, dict[str, list[Paper]]] = {
            axis: {value: [] for value in self.catalog.taxonomy[axis].values} for axis in AXES
        }
        for paper in self.core:
            for axis in AXES:
                for value in paper.taxonomy[axis]:
                    found[axis][value].append(paper)
        return found

    @cached_property
    def supersedes(self) -> dict[str, list[Paper]]:
        """Id -> the papers that it replaces."""
        found: dict[str, list[Paper]] = {}
        for paper in self.papers:
            if paper.superseded_by:
                found.setdefault(paper.superseded_by, []).append(paper)
        return found

    @cached_property
    def judged(self) -> frozenset[str]:
        """Ids of papers with at least one recorded verdict, be it an earlier attempt's."""
        return frozenset(name for name, view in self.views.items() if view.judged)

    @cached_property
    def tallies(self) -> dict[str, Tally]:
        """Scale -> verdict -> count of every judged paper."""
        return {name: self.views[name].tally() for name in sorted(self.judged)}

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """All verdicts of a scale together, with how many are expected to be wrong; scales are never pooled."""
        return evidence(self.views.values())

    def status(self, paper: Paper) -> str:
        """catalogued, implemented or judged."""
        return status(paper, self.judged)

    def coverage(self, papers: Iterable[Paper]) -> Coverage:
        """Of some papers."""
        states = [self.status(paper) for paper in papers]
        return Coverage(len(states), states.count("implemented"), states.count("judged"))

    def badge(self, paper: Paper) -> str:
        """A paper's state in a few signs: 'tiny: ✅ 7 🔄 1' of its judged claims, '⚙' where there is only code."""
        return badge(self.tallies.get(paper.id, {})) or ("⚙" if paper.method else "")


def told(found: Evidence, marks: Mapping[str, str] = MARKS) -> str:
    """A line on all verdicts of a scale: '**tiny**: 128 claims of 21 papers, ✅ 50 reproduced, ...; of the 110 ...'."""
    counts = ", ".join(f"{marks[word]} {count} {word}" for word, count in found.verdicts.items())
    size = f"{_count(found.claims, 'claim')} of {_count(found.papers, 'paper')}"
    line = f"**{found.scale}**: {size}: {counts}."
    if not found.decided:
        return line
    largest = max(found.q.values())
    return (
        f"{line} Of the {found.decided} decided at most {found.wrong:.1f} are expected to be wrong "
        f"(Benjamini-Hochberg over all claims and looks; largest q {largest:.2g})."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s'[: number != 1]}"


def places(paper: Paper, view: PaperView | None) -> list[tuple[str, str]]:
    """The files of a paper by what they are, in the order in which a newcomer reads them."""
    found = [("record", f"catalog/papers/{paper.id}.yaml")]
    if paper.method:
        found.append(("recipe", f"methods/recipes/{paper.method}.yaml"))
    for name, path in view.places if view else ():
        if path not in [known for _, known in found]:
            found.append((name, path))
    beds = dict.fromkeys(scale.testbed for scale in view.recorded) if view else {}
    return found + [("results", f"reproductions/results/{name}/") for name in beds]


def question_places(question: Question) -> list[tuple[str, str]]:
    """The files of a question of our own."""
    beds = dict.fromkeys(scale.testbed for scale in question.view.recorded)
    return [*question.view.places, *(("results", f"reproductions/results/{name}/") for name in beds)]


def badge(tally: Tally, marks: Mapping[str, str] = MARKS, *, words: Mapping[str, str] | None = None) -> str:
    """'tiny: ✅ 7 🔄 1 · small: ➖ 7': each scale by its name, because one says nothing about another.

    `words`, by scale, say what played the teacher: 'tiny (world): ✅ 7'.
    """
    told = {scale: f" ({word})" for scale, word in (words or {}).items() if word}
    return " · ".join(
        f"{scale}{told.get(scale, '')}: "
        + " ".join(f"{marks[name]} {count}" for name, count in counts.items())
        for scale, counts in tally.items()
    )


def atlas(catalog: Catalog | None = None, views: Mapping[str, PaperView] | None = None) -> Atlas:
    """Both arguments are read from the repository where they are not given."""
    catalog = catalog or load_catalog()
    if views is None:
        from reproductions.engine.show import files

        views = files.views(catalog.papers)
    return Atlas(catalog, views, read_record(), ours(catalog))


def ours(catalog: Catalog, names: Iterable[str] | None = None) -> dict[str, Question]:
    """The questions of our own, or those of some names, by name."""
    from reproductions.engine.plan.experiment import load_experiment
    from reproductions.engine.show import files, gather

    found = files.views(gather.questions(catalog.papers) if names is None else names)
    return {
        name: Question(name, load_experiment(name, gather.PAPERS).about, view) for name, view in found.items()
    }
