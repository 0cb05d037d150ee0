"""Leaks and malformed texts."""

import json
import random

import pytest

from methods.elicitation.filters import leaks as runs_of
from methods.elicitation.filters.marks import leaks, well_formed
from methods.elicitation.records.record import Record
from methods.errors import MethodError

STORY = "a farmer has seventeen sheep and all but nine run away how many sheep are left on the farm"


def reasons(rows):
    return [row.dropped for row in rows]


def test_thirteen_words_in_a_row_are_a_leak_and_twelve_are_none():
    words = STORY.split()
    rows = [
        Record("Question: " + " ".join(words[2:15]).upper() + "?"),
        Record("x " + " ".join(words[2:14]) + " y"),
        Record("clean", "the story says " + STORY),
        Record("clean", "clean"),
    ]
    made = leaks(rows, held_out=[STORY])
    assert reasons(made) == ["leak", None, "leak", None]
    assert made[0].why == "with held-out data: " + " ".join(words[2:15])
    assert reasons(leaks(rows, held_out=[STORY], column="prompt")) == ["leak", None, None, None]


def test_a_short_text_leaks_as_a_whole_row():
    rows = [
        Record("What is two and two?"),
        Record("Say: what is two and two"),
        Record("four", "what is two and two"),
    ]
    assert reasons(leaks(rows, held_out=["what is two and two"])) == ["leak", None, "leak"]
    assert reasons(leaks([Record("", "")], held_out=["", "..."])) == [None]


@pytest.mark.parametrize("words", [1, 3, 13])
def test_every_run_is_compared(words):
    draw = random.Random(0)
    made = [" ".join(draw.choices("abcdefgh", k=draw.randint(1, 20))) for _ in range(60)]
    held, rows = made[:20], [Record(text) for text in made[20:]]

    def overlap(one, other):
        a, b = one.split(), other.split()
        if len(a) < words or len(b) < words:
            return a == b
        return any(a[i : i + words] == b[j : j + words] for i in range(len(a)) for j in range(len(b) - words + 1)
                   if len(a[i : i + words]) == words)  # fmt: skip

    wanted = ["leak" if any(overlap(row.prompt, one) for one in held) else None for row in rows]
    assert reasons(leaks(rows, held_out=held, words=words, column="prompt")) == wanted


def test_a_run_that_is_one_word_short_would_be_seen(monkeypatch):
    monkeypatch.setattr(runs_of, "_words", lambda text: text.lower().split()[:-1])
    assert reasons(leaks([Record(STORY)], held_out=[STORY + " today"])) == ["leak"]
    assert reasons(leaks([Record(" ".join(STORY.split()[:13]))], held_out=[STORY])) == [None]


def test_held_out_rows_come_from_a_file(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"prompt": STORY, "n": 3}) + "\n\n" + json.dumps("plain text") + "\n")
    assert reasons(leaks([Record(STORY), Record("plain text"), Record("n")], held_out=str(path))) == [
        "leak", "leak", None,
    ]  # fmt: skip
    path.write_text('{"prompt": "a"}\nnot json\n')
    with pytest.raises(MethodError, match=r"test\.jsonl:2: no JSON"):
        leaks([], held_out=str(path))
    path.write_bytes(b'{"prompt": "a"}\n"\xe9"\n')
    with pytest.raises(MethodError, match=r"test\.jsonl:2: no JSON"):
        leaks([], held_out=str(path))
    path.write_text(json.dumps("one\u2028line", ensure_ascii=False) + "\n")
    assert reasons(leaks([Record("one line")], held_out=str(path)))  # a mark within a text ends no line
    with pytest.raises(MethodError, match=r"no file .*none\.jsonl"):
        leaks([], held_out=str(tmp_path / "none.jsonl"))
    with pytest.raises(MethodError, match='"words" must be 1 or more'):
        leaks([], held_out=[], words=0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Write a story about rain.", None),
        ("Write a story", "3 words"),
        ("word " * 151, "151 words"),
        ("Draw a house with a door", "names draw"),
        ("Describe the drawing room of a house", None),
        ("! Write a story about rain", "begins with '!'"),
        ("写 one two three four", "begins with '写'"),
        ("I am sorry but I cannot", "apologises"),
        ("I am sorry " + " ".join(map(str, range(90))), None),
        ("again and " * 60, "repeats 20 words 21 times"),
    ],
)
def test_what_is_malformed(text, why):
    made = well_formed([Record(text)])[0]
    assert (made.dropped, made.why) == ((None, "") if why is None else ("malformed", why))


def test_wrong_bounds_are_refused():
    with pytest.raises(MethodError, match=r'"words" is \[least, most\]'):
        well_formed([], words=[9, 3])
    with pytest.raises(MethodError, match=r'"repeats" is'):
        well_formed([], repeats=[0, 1])
