"""BibTeX of a paper."""

from __future__ import annotations

from catalog.schema import Paper


def bibtex(paper: Paper) -> str:
    """A BibTeX entry; authors only where the record has them."""
    key = f"{paper.id.replace('-', '_')}_{paper.date[:4]}"
    fields = {"title": f"{{{_tex(paper.title)}}}"}
    if paper.authors:
        fields["author"] = " and ".join(map(_tex, paper.authors))
    fields |= {"year": paper.date[:4], "howpublished": _tex(paper.venue)}
    if paper.arxiv:
        fields |= {"eprint": paper.arxiv, "archivePrefix": "arXiv"}
    fields["url"] = paper.url
    body = "\n".join(f"  {name} = {{{value}}}," for name, value in fields.items())
    return f"@misc{{{key},\n{body}\n}}"


def _tex(text: str) -> str:
    """Text that TeX sets as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {letter: f"\\{letter}" for letter in "&%#_$"} | {"{": r"\lbrace{}", "}": r"\rbrace{}"}
    return "".join(special.get(letter, letter) for letter in text)
