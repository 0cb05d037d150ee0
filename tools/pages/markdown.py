"""Markdown that holds whatever text it is given, and the seal of a generated document."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{letter: f"\\{letter}" for letter in "\\`*_[]|~$#"}}
)
_SCHEME = re.compile(r"[^/?#]*:")
_UNSAFE = re.compile(r"[^\w./:?=&%#~+,;@-]", re.ASCII)
_SEAL = re.compile(r"\n<!-- seal ([0-9a-f]{16}) -->\n\Z")


def md(text: object) -> str:
    """Text that Markdown shows as it is: one line in which no cell, link, code span or tag can start."""
    return " ".join(str(text).split()).translate(_ESCAPES)


def link(url: str) -> str:
    """A link's address: https or a path of this repository; nothing in it can close the brackets around it."""
    if _SCHEME.match(url) and not url.startswith("https://"):
        return "#"
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", url)


def code(text: str) -> str:
    """Text as a code span, which nothing in it can end."""
    line = " ".join(text.split())
    if "`" not in line:
        return f"`{line}`" if line else ""
    longest = max(len(run) for run in re.findall(r"`+", line))
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of a table whose cells are Markdown already; columns whose index is in `right` are right-aligned."""
    rule = "|".join("---:" if place in right else "---" for place in range(len(head)))
    return [
        f"| {' | '.join(head)} |",
        f"|{rule}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def links(urls: Sequence[str], name: str) -> str:
    """'[code](...) [code 2](...)'."""
    return " ".join(
        f"[{name}{f' {place}' if place > 1 else ''}]({link(url)})" for place, url in enumerate(urls, 1)
    )


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, an ellipsis where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip(" ,:;-") + "…"


def sealed(text: str) -> str:
    """A generated document with a digest of itself at its end, by which a hand edit is found without making it anew."""
    return f"{text}\n<!-- seal {_digest(text)} -->\n"


def seal_holds(text: str) -> bool:
    """Whether a sealed document is as it was written."""
    found = _SEAL.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
