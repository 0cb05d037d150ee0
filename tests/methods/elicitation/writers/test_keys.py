"""A key is in no answer, file or error, and no address is taken from which one could leak."""

import pytest

from methods.elicitation.writers.protocol import ask
from methods.elicitation.writers.server import ServerWriter
from methods.errors import MethodError
from tests.methods.elicitation.writers.conftest import QUESTIONS, answer_of, asked, choice, send, status

KEY = "sk-planted-0123456789"


def test_the_key_appears_nowhere(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.text = lambda body: f"your key is {KEY}"

    def refuse(handler, body):
        send(handler, 400, f"bad key {handler.headers['Authorization']}", x_echo=KEY)
        return True

    def late(handler, body):
        """The key where a text would be cut, behind blanks that are left out."""
        send(handler, 400, " " * 1990 + f"key {KEY}")
        return True

    server.faults = [refuse, answer_of(choice(), note=KEY), late, status(500, KEY)]
    answers, report = asked(server, journal=tmp_path / "journal", parallel=1)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert (
        "[key]" in answers[0].failure
        and answers[2].failure == "HTTP 400: key [key]"
        and answers[3].text == "your key is [key]"
    )
    shown = repr((answers, report)) + "".join(capfd.readouterr())
    assert KEY[:6] not in shown
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY in text for text in [shown, *files])
    server.faults = [status(401, f"no such key: {KEY}")]
    with pytest.raises(MethodError) as error:
        asked(server, [ask("other")])
    chain, seen = error.value, ""
    while chain is not None:
        seen, chain = seen + str(chain) + repr(chain), chain.__cause__
    assert KEY not in seen and "[key]" in seen


@pytest.mark.parametrize("key", [f"{KEY}\nand-more", f"Bearer {KEY}", f"{KEY}ä", f"{KEY}\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(MethodError, match="OPENAI_API_KEY holds blanks or letters that no key has") as error:
        ServerWriter("https://example.org/v1", "m")
    assert KEY not in str(error.value)


def test_a_word_in_the_place_of_a_key_changes_no_answer(server, monkeypatch):
    """Servers without keys are given "none" or "EMPTY"."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    server.text = lambda body: "none of them"
    answers, _ = asked(server, QUESTIONS[:1])
    assert answers[0].text == "none of them" and server.headers[0]["Authorization"] == "Bearer none"


def test_a_server_that_wants_a_key_names_the_variable_that_holds_none(server, monkeypatch):
    for key, said in (("", "no access; OPENAI_API_KEY is not set, so no key was sent$"), (KEY, "no access$")):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        server.faults = [status(401, "no access")]
        with pytest.raises(MethodError, match=f"HTTP 401: {said}"):
            asked(server, [ask("a question")])


def test_a_short_key_is_a_key(server, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-local9")
    server.text = lambda body: "you sent sk-local9"
    answers, _ = asked(server, QUESTIONS[:1], journal=tmp_path / "journal")
    assert answers[0].text == "you sent [key]" and "sk-local9" not in (tmp_path / "journal").read_text()


@pytest.mark.parametrize(
    "where",
    [
        {"url": f"https://a.org/{KEY}/v1"},
        {"extra": {"api_key": KEY}},
        {"extra": {"headers": [f"Bearer {KEY}"]}},
        {"name": KEY},
        {"name": "short", "url": f"https://a.org/{KEY}/v1"},
        {"model": f"m@{KEY}"},
    ],
)
def test_a_key_outside_of_the_environment_is_refused_as_it_would_be_kept(where, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(MethodError, match="belongs into the environment alone") as error:
        ServerWriter(**{"url": "https://a.org/v1", "model": "m", **where})
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["ftp://a/v1", "a/v1", "https://user:word@a/v1", "https://a/v1?key=1", "http://example.org/v1"],
)
def test_an_address_where_a_key_could_leak_is_refused(url, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(MethodError) as error:
        ServerWriter(url, "m")
    assert KEY not in str(error.value) and "word" not in str(error.value)
