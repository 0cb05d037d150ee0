"""expand and evolve: what is shown, what is kept, what is eliminated."""

import re

import pytest

from methods.elicitation.components import expansion
from methods.elicitation.components.expansion import evolve, expand
from methods.elicitation.filters.copies import rouge_l, tokens
from methods.elicitation.records.record import Record
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.elicitation.components.scripted import CutWriter, EmptyWriter, Script, reasons, rows

SEEDS = [
    "Write a poem about rain", "Sort these numbers in order", "Name a large city", "Translate cat into French",
    "Explain why ice floats", "Count the vowels here", "List three green fruits",
]  # fmt: skip
VERBS = [
    "Draft",
    "Invent",
    "Compare",
    "Rank",
    "Shorten",
    "Summarise",
    "Debate",
    "Praise",
    "Rewrite",
    "Guess",
    "Classify",
    "Plan",
]
THINGS = [
    "letters",
    "songs",
    "maps",
    "rivers",
    "taxes",
    "spoons",
    "engines",
    "clouds",
    "wolves",
    "clocks",
    "bridges",
    "dreams",
]


def inventive(asked, request, sample):
    """Two new tasks a request, and one that all but repeats a task it was shown."""
    n = request.seed % 144
    shown = re.findall(r"^\d+\. (.+)$", asked, re.M)
    a, b = (
        f"{VERBS[n % 12]} some {THINGS[n // 12]} please",
        f"{VERBS[(n + 5) % 12]} two {THINGS[(n // 12 + 3) % 12]} now",
    )
    return f"1. {a}\n2. {shown[0]} !\n3. {b}"


def test_expanding_stops_at_what_is_wanted_and_no_two_are_near():
    script, given = Script(inventive), rows(*SEEDS, topic="x")
    made = expand(given, script.session, wanted=9, per_call=3)
    assert made[:7] == given
    fresh = [row for row in made[7:] if row.alive]
    assert len(fresh) == 9
    every = [tokens(row.prompt) for row in [*given, *fresh]]
    nearest = max(rouge_l(a, b) for n, a in enumerate(every) for b in every[:n])
    assert nearest < 0.7
    copies = [row for row in made if row.dropped == "near copy"]
    assert len(copies) >= len(script.requests) - 1 and "ROUGE-L 1.00" in copies[0].why


def test_each_request_shows_six_seeds_and_two_made_ones_in_the_end():
    script = Script(inventive)
    made = expand(rows(*SEEDS), script.session, wanted=12, per_call=3, shots=[3, 2])
    names = {row.prompt for row in made[7:]}
    shown = [re.findall(r"^\d+\. (.+)$", asked, re.M) for asked in script.asked]
    first = expansion.ROUND
    assert all(len(tasks) == 5 and set(tasks) <= set(SEEDS) for tasks in shown[:first])
    for tasks in shown[first:]:
        assert sum(task in names for task in tasks) == 2 and sum(task in SEEDS for task in tasks) == 3
    assert all("Go on with 3 more" in asked for asked in script.asked)


def test_a_new_task_names_the_tasks_it_was_shown_with_and_has_nothing_of_theirs():
    script, given = Script(inventive), rows(*SEEDS, topic="x")
    made = expand(given, script.session, wanted=2, per_call=3, shots=[4, 0])
    row = made[7]
    shown = re.findall(r"^\d+\. (.+)$", script.asked[0], re.M)
    names = {one.id: one.prompt for one in given}
    assert [names[parent] for parent in row.parents] == shown
    assert row.completion == "" and row.fields.get("topic") is None and row.component == "expand"
    assert len({row.id for row in made}) == len(made)


def test_the_same_seed_shows_the_same_and_another_seed_others():
    asked = []
    for seed in (0, 0, 1):
        script = Script(inventive, seed=seed)
        expand(rows(*SEEDS), script.session, wanted=3, shots=[3, 0])
        asked.append(script.asked)
    assert asked[0] == asked[1] != asked[2]


def test_expanding_ends_at_its_calls_where_nothing_new_comes():
    script = Script(lambda asked, request, n: "1. Write a poem about rain")
    made = expand(rows(*SEEDS), script.session, wanted=5, calls=6)
    assert len(script.requests) == 6 and reasons(made[7:]) == ["near copy"] * 6


def test_without_the_filter_copies_would_be_kept(monkeypatch):
    monkeypatch.setattr(expansion.Pool, "closest", lambda self, text: None)
    made = expand(rows(*SEEDS), Script(inventive).session, wanted=9, per_call=3)
    every = [tokens(row.prompt) for row in made if row.alive]
    assert max(rouge_l(a, b) for n, a in enumerate(every) for b in every[:n]) > 0.7


def test_no_list_is_counted_and_of_a_cut_list_the_last_task_alone_is_dropped():
    made = expand(rows(*SEEDS), Script(lambda *a: "Sure, I can!").session, wanted=1, calls=2)[7:]
    assert reasons(made) == ["unparseable"] * 2 and made[0].completion == "Sure, I can!"
    cut = expand(rows("Seed of all"), Session(CutWriter()), wanted=1, calls=1)[1:]
    assert [(row.prompt, row.dropped) for row in cut] == [("Write a short poem", None), ("Wri", "truncated")]
    empty = expand(rows("Seed of all"), Session(EmptyWriter()), wanted=1, calls=1)[1:]
    assert len(empty) == 1 and not empty[0].alive


def test_more_than_were_asked_for_are_not_wanted():
    tasks = "\n".join(f"{n}. {VERBS[n]} all {THINGS[n]}" for n in range(1, 6))
    made = expand(rows("Seed of all"), Script(lambda *a: tasks).session, wanted=9, per_call=3, calls=1)[1:]
    assert reasons(made) == [None] * 3 + ["not wanted"] * 2


def test_wrong_settings_of_expand_are_refused():
    with pytest.raises(MethodError, match="at least one seed"):
        expand([Record("a").drop("leak")], Script(inventive).session, wanted=1)
    with pytest.raises(MethodError, match=r'"shots" is \[seeds, made ones\]'):
        expand(rows("a"), Script(inventive).session, wanted=1, shots=[0, 2])
    with pytest.raises(MethodError, match='"wanted" must be 1 or more'):
        expand(rows("a"), Script(inventive).session, wanted=0)


TASK = "Write a poem about rain"


def grower(asked, request, sample):
    """Adds a word a round, and finds nothing equal."""
    if "Equal" in asked:
        return "Different"
    return asked.rsplit("Task:\n", 1)[1] + " again"


def test_every_round_goes_on_from_the_last_and_all_rounds_stay():
    script = Script(grower)
    made = evolve(rows(TASK, topic="x"), script.session, rounds=3)
    assert [row.prompt for row in made] == [TASK + " again" * n for n in range(4)]
    assert [row.round for row in made] == [0, 1, 2, 3]
    assert [row.parents for row in made[1:]] == [(row.id,) for row in made[:3]]
    assert all(row.completion == "" and row.fields["topic"] == "x" for row in made[1:])
    assert {row.fields["operator"] for row in made[1:]} <= set(expansion.OPERATORS)
    assert all(
        [one.component for one in row.asked] == ["evolve"] * 2 for row in made[1:]
    )  # written, then judged


def test_operators_are_drawn_for_each_task_and_all_of_them():
    made = evolve(
        rows(*(f"Write about the number {n}" for n in range(60))), Script(grower).session, judge=False
    )
    drawn = [row.fields["operator"] for row in made[60:]]
    assert set(drawn) == set(expansion.OPERATORS)
    assert {drawn.count(one) for one in expansion.OPERATORS} <= set(range(4, 23))
    one = evolve(rows(TASK), Script(grower).session, operators=["widen"], judge=False)
    assert one[1].fields["operator"] == "widen"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TASK + "!", "unchanged"),
        ("the of and it is", "says nothing"),
        ("Poem about rain", "fewer than 4 words"),
        ("Here is the rewritten prompt you wanted", "speaks of the rewritten prompt"),
        ("Write a sonnet about cold rain", "equal to the task before"),
        ("New task: Write an epic about cold storms", None),
    ],
)
def test_what_is_eliminated_and_why(text, why):
    def say(asked, request, sample):
        if "Equal" in asked:
            return "Equal." if "sonnet" in asked else "Different"
        return text

    row = evolve(rows(TASK), Script(say).session)[1]
    assert (row.dropped, row.why) == ((None, "") if why is None else ("eliminated", why))
    if why is None:
        assert row.prompt == "Write an epic about cold storms"


def test_after_an_elimination_the_next_round_begins_with_the_task_before():
    def say(asked, request, sample):
        if "Equal" in asked:
            return "Different"
        task = asked.rsplit("Task:\n", 1)[1]
        return "no" if re.search("[0-3]$", task) else f"{task} again"

    script = Script(say)
    made = evolve(rows(*(f"Write about the number {n}" for n in range(8))), script.session, rounds=2)
    first, second = made[8:16], made[16:]
    for seed, one, two in zip(made[:8], first, second, strict=True):
        assert two.parents == ((one if one.alive else seed).id,)
    assert {row.alive for row in first} == {True, False}


def test_an_eliminator_that_sleeps_would_be_seen(monkeypatch):
    monkeypatch.setattr(expansion, "_eliminated", lambda row, before, words: row)
    assert evolve(rows(TASK), Script(lambda *a: TASK).session, judge=False)[1].alive


def test_what_is_cut_is_dropped_and_not_judged():
    made = evolve(rows(TASK), Session(CutWriter()))
    assert reasons(made) == [None, "truncated"] and len(made[1].asked) == 1


def test_an_unknown_operator_is_refused():
    with pytest.raises(MethodError, match='no operator "deepn" \\(did you mean "deepen"'):
        evolve([], None, operators=["deepn"])
    with pytest.raises(MethodError, match="needs an operator"):
        evolve([], None, operators=[])
