"""`kd methods [NAME ...]`: every recipe that `kd distill` runs, what it needs, what it costs, what is known of it."""

from __future__ import annotations

import argparse
import json

from reproductions.engine.show.methods import Method, methods
from tools.commands import UsageError, json_option
from tools.terminal import grid, style, wrap

SUMMARY = "every method of `kd distill`: what it needs, its cost beside SFT, what is known of it"
TEACHERS = ("none", "text", "logits")
LONGEST = 27  # letters of a name that stands in its line's column; a longer one has a line of its own
SCALE = 12  # characters of "10/12 small": what is known at a scale of a longer name stands below
# Words of `Method` as short as a table of 80 columns needs them.
SHORT = {
    "logits and hidden states": "hidden",
    "two may differ": "any",
    "one": "same",
    "the student's, drawn once": "student, once",
    "the student's, checked": "student, checked",
    "the teacher's, fresh": "teacher, fresh",
    "the data's": "data",
    "the teacher's": "teacher",
    "the student's own": "student",
    "a later student's": "later",
}


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("names", nargs="*", help="only these, in full; all in a table without")
    parser.add_argument("--teacher", choices=TEACHERS, help="only those for which such a teacher is enough")
    parser.add_argument(
        "--two-tokenizers", action="store_true", help="only those whose teacher may have its own tokenizer"
    )
    json_option(parser)
    parser.epilog = (
        "Teacher: what is read of it, `hidden` being its logits and hidden states. Tok.: whether its tokenizer must be "
        "the same as the student's, or may be any. Answers: whose are learnt from. x SFT: seconds of training beside "
        "SFT's on the recorded testbeds, tiny models on a CPU; '-' where none was recorded beside SFT. Claims: those "
        "of the paper that were judged, reproduced / all, by scale."
    )


def main(args: argparse.Namespace) -> int:
    """Print a table, or what was named in full."""
    found = methods([name.replace("_", "-") for name in args.names] or None)
    alone = ("none", "itself")
    enough = {"none": alone, "text": (*alone, "text"), "logits": (*alone, "text", "logits")}
    if args.teacher:
        found = [one for one in found if one.teacher in enough[args.teacher]]
    if args.two_tokenizers:
        found = [one for one in found if one.tokenizers != "one"]
    if not found:
        raise UsageError("kd methods: none is like that")
    if args.json:
        print(json.dumps([one.as_dict() for one in found], indent=1, ensure_ascii=False))
    elif args.names:
        print("\n\n".join("\n".join(_page(one)) for one in found))
    else:
        print("\n".join(_table(found)))
    return 0


def _table(found: list[Method]) -> list[str]:
    """A line each; a long name, what else is needed, claims at a second or long scale have lines of their own."""
    rows = [["method", "teacher", "tok.", "answers", "x SFT", "claims"]]
    for one in found:
        name = one.id if len(one.id) <= LONGEST else ""
        claims = _claims(one)[0]
        tokenizers = SHORT.get(_tokenizers(one), "")
        rows.append(
            [
                name,
                _short(_teacher(one)),
                tokenizers,
                _short(one.answers),
                _cost(one),
                claims if len(claims) <= SCALE else "",
            ]
        )
    head, *lines = grid(rows, right=(4,))
    made = [style(head, "bold")]
    for one, line in zip(found, lines, strict=True):
        made += [one.id] if len(one.id) > LONGEST else []
        made.append(line)
        first, *others = _claims(one)
        more = [f"needs {_needs(one)}"] if _needs(one) else []
        more += [*([first] if len(first) > SCALE else []), *others]
        made += [f"    {text}" for text in more]
    return made


def _short(text: str) -> str:
    """Words joined by a comma or after a number, each as SHORT has it."""
    if text in SHORT:
        return SHORT[text]
    for sign in (", ", " x "):
        if sign in text:
            return sign.join(SHORT.get(part, part) for part in text.split(sign))
    return text


def _page(one: Method) -> list[str]:
    lines = [style(f"{one.id}: {one.title}", "bold"), wrap(one.about), ""]
    lines.append(f"teacher: {_teacher(one)}; tokenizers: {one.tokenizers}; learns from {one.answers} text")
    lines += [wrap(f"needs {one.needs}")] if one.needs else []
    said = f"{one.cost:g} x SFT, from {one.measured} testbeds" if one.cost else "not recorded beside SFT"
    lines.append(f"cost: {said}")
    for scale, counts in one.verdicts.items():
        lines.append(f"claims at {scale}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    settings = ", ".join(f"{name}: {json.dumps(value)}" for name, value in one.settings.items())
    return [*lines, wrap(f"settings: {settings or 'none'}"), f"kd show {one.id}"]


def _teacher(one: Method) -> str:
    return one.teacher if one.teachers < 2 else f"{one.teachers} x {one.teacher}"


def _tokenizers(one: Method) -> str:
    return "" if one.teacher in ("none", "itself") else one.tokenizers


def _cost(one: Method) -> str:
    return "-" if one.cost is None else f"{one.cost:.1f}"


def _claims(one: Method) -> list[str]:
    parts = [
        f"{counts.get('reproduced', 0)}/{sum(counts.values())} {scale}"
        for scale, counts in one.verdicts.items()
    ]
    return parts or ["-"]


def _needs(one: Method) -> str:
    parts = ["a reward"] if one.rewards else []
    return ", ".join([*parts, *(f'column "{name}"' for name in one.columns)])
