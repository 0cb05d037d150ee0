"""Orders by a teacher that knows the truth, against enumeration; judges that prefer a place."""

import re
from itertools import permutations

import pytest

from methods.elicitation.components.ranking import compare, permutation, preferred, rank
from methods.elicitation.records.record import Record
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.elicitation.components.scripted import EmptyWriter, Script


def passages(worths, prompt="q"):
    return [Record(prompt, f"passage of worth {worth}") for worth in worths]


def in_order(asked, request, sample):
    """Puts the passages it is shown in order by what they say they are worth."""
    shown = re.findall(r"^\[(\d+)\] .* (\d+)$", asked, re.M)
    return " > ".join(f"[{n}]" for n, _ in sorted(shown, key=lambda one: -int(one[1])))


def ranked(made):
    return [int(row.completion.split()[-1]) for row in sorted(made, key=lambda row: row.fields["rank"])]


def by_windows(worths, window, step):
    """The same by hand: each window sorted, from the end to the beginning."""
    order, end = list(worths), len(worths)
    while True:
        begin = max(0, end - window)
        order[begin:end] = sorted(order[begin:end], reverse=True)
        if begin == 0:
            return order
        end -= step


def check_all_orders(component=rank):
    for worths in permutations(range(5)):
        made = component(passages(worths), Script(in_order).session, window=3, step=1)
        assert ranked(made) == by_windows(worths, 3, 1)
        assert ranked(made)[:2] == [4, 3], "what a window carries along is right"
        assert [row.completion for row in made] == [row.completion for row in passages(worths)]


def test_every_order_of_five_by_hand():
    check_all_orders()


def test_windows_that_do_not_meet_are_caught():
    def apart(rows, session, **settings):
        return rank(rows, session, window=3, step=2)

    with pytest.raises(AssertionError):
        check_all_orders(apart)


def test_scores_fall_from_one_to_nothing_and_prompts_are_apart():
    rows = [*passages([1, 3, 2]), *passages([5], "alone"), Record("q", "passage of worth 9").drop("leak")]
    made = rank(rows, Script(in_order).session)
    assert [row.score for row in made] == [0.0, 1.0, 0.5, None, None]
    assert [row.fields.get("rank") for row in made] == [3, 1, 2, None, None]
    assert made[0].asked[-1].component == "rank" and made[3] is rows[3]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[2] > [1] > [3]", [1, 0, 2]),
        ("[3] > [3] > [1]", [2, 0, 1]),  # twice, and one left out
        ("[9] > [2]", [1, 0, 2]),  # none that there is
        ("I cannot say.", [0, 1, 2]),
        ("", [0, 1, 2]),
    ],
)
def test_what_an_answer_says_of_the_order(text, order):
    assert permutation(text, 3) == order


def test_a_teacher_that_says_nothing_leaves_what_the_search_found():
    made = rank(passages([1, 2, 3]), Session(EmptyWriter()))
    assert [row.fields["rank"] for row in made] == [1, 2, 3]


def test_steps_that_carry_nothing_along_are_refused():
    session = Script(in_order).session
    for window, step in ((1, 1), (4, 4), (4, 5)):
        with pytest.raises(MethodError, match="a window of two or more, and a smaller step"):
            rank(passages([1, 2]), session, window=window, step=step)
    with pytest.raises(MethodError, match='"step" must be 1 or more'):
        rank(passages([1, 2]), session, step=0)
    for component in (rank, compare):
        with pytest.raises(MethodError, match="there is none"):
            component(passages([1, 2]), None)


def fair(asked, request, sample):
    first, second = (int(n) for n in re.findall(r"passage of worth (\d+)", asked))
    return f"One is better.\nBetter: {'tie' if first == second else 'A' if first > second else 'B'}"


def first_place(asked, request, sample):
    return "Better: A"


def test_a_fair_judge_by_enumeration():
    worths = [3, 1, 2, 3]
    made = compare(passages(worths), Script(fair).session)
    for place, row in enumerate(made):
        others = [worths[n] for n in range(4) if n != place]
        won = [1.0 if worths[place] > n else 0.5 if worths[place] == n else 0.0 for n in others]
        assert row.score == pytest.approx(sum(won) / 3) and row.fields["disagreed"] == 0


def check_a_judge_of_places(component=compare):
    made = component(passages([1, 2, 3]), Script(first_place).session)
    assert [row.score for row in made] == [0.5, 0.5, 0.5]
    assert [row.fields["disagreed"] for row in made] == [2, 2, 2]


def test_a_judge_that_prefers_a_place_decides_nothing():
    check_a_judge_of_places()
    one_order = compare(passages([1, 2, 3]), Script(first_place).session, swap=False)
    assert [row.score for row in one_order] == [1.0, 0.5, 0.0], "in one order the place is taken for quality"


def test_orders_that_are_not_turned_back_are_caught():
    def straight(rows, session):
        return compare(rows, session, swap=False)

    with pytest.raises(AssertionError):
        check_a_judge_of_places(straight)


def test_each_pair_is_asked_in_both_orders_and_what_is_alone_in_none():
    script = Script(fair)
    made = compare([*passages([1, 2, 3]), *passages([4], "alone")], script.session)
    assert len(script.requests) == 6 and made[3].score is None
    assert len(made[0].asked) == 4 and made[0].asked[0].component == "compare"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Better: A", 1.0),
        ("A is better in style.\nBetter: B", 0.0),
        ("better - tie", 0.5),
        ("Both are fine.", 0.5),
        ("", 0.5),
    ],
)
def test_what_a_judge_says(text, share):
    assert preferred(text) == share
