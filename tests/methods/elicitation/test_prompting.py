"""Prompts as files."""

import pytest

from methods.elicitation import prompting
from methods.elicitation.prompting import Prompt, prompt_names, read_prompt
from methods.errors import MethodError

KNOWN = {"prompt", "completion", "gold", "critique", "error", "before", "after", "count", "tasks", "wanted"}
KNOWN |= {"classes", "other", "most", "rest", "passages", "first", "second"}


@pytest.mark.parametrize("name", prompt_names())
def test_every_prompt_can_be_read_and_asks_for_known_fields(name):
    prompt = read_prompt(name)
    assert prompt.fields <= KNOWN and prompt.turns[-1][0] == "user"
    assert ("gold" in prompt.fields) == name.endswith("-hint")


def test_what_is_filled_in_is_never_a_template():
    prompt = Prompt("p", (("user", "{prompt} and {gold}"),))
    assert prompt.fill({"prompt": "{gold} {x} {0}", "gold": "7"})[0].content == "{gold} {x} {0} and 7"
    assert Prompt("p", (("user", 'JSON: {"a": {}} {1}'),)).fill({})[0].content == 'JSON: {"a": {}} {1}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "begins with a line"),
        ("x\n[user]\nhello", "begins with a line"),
        ("[user]\na\n[system]\nb", "the user's"),
    ],
)
def test_a_file_that_is_no_prompt_is_said(tmp_path, text, message):
    path = tmp_path / "own.txt"
    path.write_text(text)
    with pytest.raises(MethodError, match=message):
        read_prompt(str(path))


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("[user]\na")
    assert read_prompt(str(path)).turns == (("user", "a"),)
    path.write_text("[user]\nanother")
    assert read_prompt(str(path)).turns == (("user", "another"),)


def test_prompts_lie_with_the_library():
    assert prompting.FOLDER.is_dir() and "explain/steps" in prompt_names()
    with pytest.raises(MethodError, match=r"no file none\.txt"):
        read_prompt("none.txt")
