"""Escapes of Markdown, and the seal of generated documents."""

from __future__ import annotations

import pytest

from tools.pages.markdown import code, cut, link, md, seal_holds, sealed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines", "two lines"),
        ("<b>", "&lt;b&gt;"),
        ("[a](b)", r"\[a\](b)"),
        ("`x`", r"\`x\`"),
        ("a_b*c", r"a\_b\*c"),
        ("AT&T", "AT&amp;T"),
    ],
)
def test_markdown_is_escaped(text, shown):
    assert md(text) == shown


def test_links_cannot_leave_their_brackets():
    assert link("https://a.org/b?c=d&e=%20#f") == "https://a.org/b?c=d&e=%20#f"
    assert not set(link('https://a.org/) "<script>\n')) & set(')" <>\n')
    assert link("catalog/papers/gkd.yaml") == "catalog/papers/gkd.yaml"
    assert link("javascript:alert(1)") == link("http://a.org") == "#"


@pytest.mark.parametrize(
    ("text", "shown"), [("a|b", "`a|b`"), ("a `b` c", "`` a `b` c ``"), ("``", "``` `` ```"), ("", "")]
)
def test_a_code_span_ends_where_it_should(text, shown):
    assert code(text) == shown


def test_a_title_is_cut_at_a_length_and_says_so():
    assert cut("A short title", 13) == "A short title"
    assert cut("A title: which goes on", 9) == "A title…"
    assert all(len(cut("word " * 30, limit)) <= limit for limit in range(5, 60))


def test_a_hand_edit_breaks_the_seal():
    text = sealed("# Title\n\nText.\n")
    assert seal_holds(text)
    assert not seal_holds(text.replace("Text", "Edited text"))
    assert not seal_holds(text + "more\n") and not seal_holds("# Title\n")
