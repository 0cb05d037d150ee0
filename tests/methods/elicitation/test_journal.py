"""Answers are kept as they come, and those that a kill left out come out as they would have."""

import pytest

from methods.elicitation.journal import Journal
from methods.elicitation.labelling import beam_search, label_with_teacher
from methods.modeling.core import freeze
from tests.methods.conftest import make_model

PROMPTS = [f"{letter * n}|" for n, letter in enumerate("abcdefgh", 1)]


class Killed(BaseException):
    pass


def labels(tokenizer, journal):
    teacher = freeze(make_model(seed=5))
    return label_with_teacher(
        teacher, tokenizer, PROMPTS, max_new_tokens=20, batch_size=2, seed=3, journal=journal
    )


def beams(tokenizer, journal):
    teacher = freeze(make_model(seed=5))
    found, report = beam_search(
        teacher, tokenizer, PROMPTS, beams=3, max_new_tokens=6, batch_size=2, journal=journal
    )
    return found, report


@pytest.mark.parametrize("ask", [labels, beams])
def test_answers_go_on_behind_the_last_batch_that_was_kept(tokenizer, tmp_path, ask):
    expected, report = ask(tokenizer, None)
    file, heard = tmp_path / "answers.journal", []

    def kill(done, of):
        heard.append((done, of))
        if len(heard) == 2:
            raise Killed

    with pytest.raises(Killed):
        ask(tokenizer, Journal(file, {"about": 1}, kill))
    with file.open("a") as half:
        half.write('{"answers": {"6": "hal')  # a batch that was not written to its end
    kept = Journal(file, {"about": 1}, lambda *seen: heard.append(seen))
    assert len(kept.entries) == 2
    got, again = ask(tokenizer, kept)
    assert list(got) == list(expected) and again == report
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)], "no batch is asked for twice"


def test_a_journal_about_something_else_begins_anew(tmp_path):
    file = tmp_path / "answers.journal"
    Journal(file, {"prompts": ["a"]}).add({"n": 1}, 2)
    assert Journal(file, {"prompts": ["a"]}).entries == [{"n": 1}]
    assert Journal(file, {"prompts": ["b"]}).entries == []
    assert Journal(file, {"prompts": ["a"]}).entries == []


def test_a_teacher_without_a_pad_token_is_asked_all_the_same(tokenizer):
    """As GPT-2 and Llama come from the hub; batches of prompts that are not equally long need something to fill up."""
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
    assert bare.pad_token_id is None
    padded, report = labels(tokenizer, None)
    got, other = labels(bare, None)
    assert list(got) == list(padded) and other == report
    assert beams(bare, None) == beams(tokenizer, None)
