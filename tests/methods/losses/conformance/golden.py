"""Writes methods/losses/conformance/vectors.json: every figure from its definition, in 50 decimal digits, rounded once.

Nothing of the library is used, no torch and no binary float: probabilities are quotients of exponentials, a divergence
is its sum, a gradient the central difference of that sum. `decimal` rounds correctly, so every machine writes the same
file. `python -m tests.methods.losses.conformance.golden` writes it; a test holds that it is current.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from pathlib import Path

FILE = Path(__file__).resolve().parents[4] / "methods" / "losses" / "conformance" / "vectors.json"
DIGITS, STEP = 50, Decimal(10) ** -16  # the difference quotient is off by its square, far below float64
ONE, ZERO = Decimal(1), Decimal(0)
Row = Sequence[Decimal | None]  # None: a logit of minus infinity
ABOUT = """
Golden vectors for distillation losses, in float64. Logits (sequences, positions, ids); null is minus infinity in a
logit, plus infinity in a value. A mask has 1 where a position counts. A case has the divergence of each position and
its gradient in the student's logits, unreduced and without a factor for the temperature, whose two entries are what
the logits of student and teacher were divided by. `losses` are its sums under the reductions, padding ignored. A loss
is the factor (1, T or T^2) times the sum over positions of coefficient times value; `coefficients` holds these for
each reduction and each way with padding. `runs` are the calls to make, with their settings.
p is the teacher, q the student. forward-kl: sum p ln(p/q). reverse-kl: sum q ln(q/p). cross-entropy: -sum p ln q.
total-variation: half the sum of |p - q|. jsd: w KL(p||m) + (1-w) KL(q||m), m = w p + (1-w) q. skew-forward-kl:
KL(p || s p + (1-s) q). skew-reverse-kl: KL(q || s q + (1-s) p); w and s are the case's share. Support: all ids;
heads of unequal size cut to the shared ids before the softmax ("renormalised") or after it ("cut"), or the smaller one
filled with logits of zero ("zero-logits"); the likeliest ids of teacher or student, both distributions renormalised on
them ("renormalise"), the rest as one outcome more ("tail"), or the other summands left out ("drop").
"""


def problems() -> dict[str, dict]:
    """Logits and masks, small numbers written out; padding holds logits as good as any."""

    def rows(*texts: str) -> list[list[float | None]]:
        return [[None if word == "-" else float(word) for word in text.split()] for text in texts]

    plain = {
        "student": [
            rows("0.5 -1.25 2 0.75 -0.5", "-1.5 0.25 0.5 1.75 0"),
            rows("2.25 0.5 -0.75 -1 1.5", "0 -0.5 1.25 -2 0.5"),
        ],
        "teacher": [
            rows("1.5 -0.25 0.5 -1 1.25", "0.25 2 -1.25 0.5 -0.75"),
            rows("-0.5 1.75 0.25 1 -1.5", "1 -1.75 0.75 1.5 -0.25"),
        ],
        "mask": [[1, 1], [1, 1]],
    }
    padded = {
        "student": [
            rows("1.25 -0.5 0.25 2 -1", "-0.75 1.5 0.5 -1.25 0.25", "0.5 0 -2 1 1.75", "3 -2 0.5 1 -1"),
            rows("-2.5 1 2 0 0.5", "1.75 -1 0.25 0.5 -0.5", "0.25 2.5 -1.5 1 0", "1 1.5 -3 0.25 2"),
        ],
        "teacher": [
            rows("-0.25 1.5 1 0.5 -1.75", "1 0.25 -0.5 2 -1.25", "-1.5 0.75 1.25 -0.25 0.5", "-1 2.5 1 -2 0"),
            rows("2 -1.5 0 1 -0.5", "-1.25 0.5 1.5 -0.75 1", "2 -1 0.75 0.25 -2.5", "-0.5 0 2 1.25 -1"),
        ],
        "mask": [[1, 1, 1, 0], [0, 1, 0, 0]],
    }
    without = [
        [row[:1] + [None] + row[2:] for row in rows] for rows in plain["teacher"]
    ]  # an id it never says
    wider = {
        "teacher": [rows("0.75 -1", "-0.25 1.5"), rows("1.25 0.5", "-1.5 0.25")],
        "student": [rows("-0.5 1", "1.25 -1.75"), rows("0.5 -0.25", "0.75 1.5")],
    }

    def widened(side: str) -> dict:
        longer = [
            [row + more for row, more in zip(*both, strict=True)]
            for both in zip(plain[side], wider[side], strict=True)
        ]
        return {**plain, side: longer}

    return {
        "plain": plain,
        "padded": padded,
        "empty-sequence": {**plain, "mask": [[1, 1], [0, 0]]},
        "larger-teacher": widened("teacher"),
        "larger-student": widened("student"),
        "masked-teacher": {**plain, "teacher": without},
    }


RUNS = (
    {"name": "plain", "problem": "plain"},
    {"name": "padded", "problem": "padded"},
    {"name": "warm", "problem": "padded", "temperature": 1.5},
    {"name": "cold", "problem": "plain", "temperature": 0.5},
    {"name": "empty-sequence", "problem": "empty-sequence", "edge": "empty"},
    {"name": "larger-teacher", "problem": "larger-teacher", "edge": "heads"},
    {"name": "larger-student", "problem": "larger-student", "edge": "heads"},
    {"name": "masked-teacher", "problem": "masked-teacher", "edge": "masked"},
    {"name": "top-k", "problem": "plain", "top_k": 2, "edge": "top-k"},
    # For functions that have a weight of the teacher, or a skew.
    *({"name": f"weight-{w}", "problem": "plain", "weight": w} for w in (0.0, 0.1, 0.5, 1.0)),
    *({"name": f"skew-{s}", "problem": "plain", "skew": s} for s in (0.0, 0.5)),
)
HEADS = ("renormalised", "cut", "zero-logits")
TOP_K = tuple(f"{side}:{rest}" for side in ("teacher", "student") for rest in ("renormalise", "tail", "drop"))
#: Divergence, share: in every case.
SHARED = (
    *(("forward-kl", None), ("reverse-kl", None), ("cross-entropy", None), ("total-variation", None)),
    *(("jsd", share) for share in (0.1, 0.5, 0.9)),
    *((name, share) for name in ("skew-forward-kl", "skew-reverse-kl") for share in (0.1, 0.9)),
)
#: These on the plain problem alone, at the ends and in the middle.
ENDS = (
    *(("jsd", share) for share in (0.0, 1.0)),
    *((name, share) for name in ("skew-forward-kl", "skew-reverse-kl") for share in (0.0, 0.5, 1.0)),
)


def softmax(row: Row, temperature: Decimal) -> list[Decimal]:
    powers = [ZERO if z is None else (z / temperature).exp() for z in row]
    whole = sum(powers, ZERO)
    return [power / whole for power in powers]


def kl(a: Sequence[Decimal], b: Sequence[Decimal]) -> Decimal:
    if any(x > 0 and y == 0 for x, y in zip(a, b, strict=True)):
        return Decimal("Infinity")
    return sum((x * (x / y).ln() for x, y in zip(a, b, strict=True) if x > 0), ZERO)


def mix(a: Sequence[Decimal], b: Sequence[Decimal], share: Decimal) -> list[Decimal]:
    return [share * x + (ONE - share) * y for x, y in zip(a, b, strict=True)]


def divergence(name: str, share: Decimal, p: Sequence[Decimal], q: Sequence[Decimal]) -> Decimal:
    if name == "forward-kl":
        return kl(p, q)
    if name == "reverse-kl":
        return kl(q, p)
    if name == "cross-entropy":
        return -sum((x * y.ln() for x, y in zip(p, q, strict=True) if x > 0), ZERO)
    if name == "total-variation":
        return sum((abs(x - y) for x, y in zip(p, q, strict=True)), ZERO) / 2
    if name == "jsd":
        m = mix(p, q, share)
        left = share * kl(p, m) if share > 0 else ZERO
        return left + ((ONE - share) * kl(q, m) if share < 1 else ZERO)
    first, second = (p, q) if name == "skew-forward-kl" else (q, p)
    return kl(first, mix(first, second, share))


def seen(student: Row, teacher: Row, support: str, temperatures: tuple[Decimal, Decimal]) -> tuple:
    """(p, q) as the support leaves them."""
    shared = min(len(student), len(teacher))
    if support == "renormalised":
        student, teacher = student[:shared], teacher[:shared]
    elif support == "zero-logits":
        longest = max(len(student), len(teacher))
        student, teacher = ([*row, *[ZERO] * (longest - len(row))] for row in (student, teacher))
    q, p = softmax(student, temperatures[0]), softmax(teacher, temperatures[1])
    if support == "cut":
        return p[:shared], q[:shared]
    if ":" in support:
        side, rest = support.split(":")
        by = p if side == "teacher" else q
        kept = sorted(sorted(range(len(by)), key=lambda place: -by[place])[:2])
        p, q = [p[place] for place in kept], [q[place] for place in kept]
        if rest == "renormalise":
            p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        elif rest == "tail":
            p, q = [*p, ONE - sum(p)], [*q, ONE - sum(q)]
    return p, q


def gradient(value: Callable[[Row], Decimal], row: Row) -> list[Decimal]:
    """Central differences, an id at a time."""
    found = []
    for place, z in enumerate(row):
        assert z is not None, "students' logits are finite here"
        up, down = ([*row[:place], z + step, *row[place + 1 :]] for step in (STEP, -STEP))
        found.append((value(up) - value(down)) / (2 * STEP))
    return found


def coefficients(mask: Sequence[Sequence[int]], ids: int) -> dict[str, dict[str, list[list[Decimal]]]]:
    """What each position is multiplied by, for each reduction and each way with padding.

    "zeroed": padding adds nothing and is counted in the mean. "shifted": the loss moves the mask by one itself.
    """
    batch, length = len(mask), len(mask[0])
    ways = {
        "ignored": (mask, mask),
        "zeroed": (mask, [[1] * length] * batch),
        "included": ([[1] * length] * batch,) * 2,
        "shifted": ([[*row[1:], 0] for row in mask],) * 2,
    }
    made: dict[str, dict[str, list[list[Decimal]]]] = {}
    for way, (kept, counted) in ways.items():
        tokens = Decimal(max(sum(map(sum, counted)), 1))
        filled = Decimal(max(sum(any(row) for row in counted), 1))
        own = [Decimal(max(sum(row), 1)) for row in counted]
        by = {
            "sum": [ONE] * batch,
            "token-mean": [tokens] * batch,
            "sequence-mean": [batch * count for count in own],
            "filled-sequence-mean": [filled * count for count in own],
            "batch-mean": [Decimal(batch)] * batch,
            "element-mean": [tokens * ids] * batch,
        }
        for name, divisors in by.items():
            made.setdefault(name, {})[way] = [
                [keep / divisor for keep in row] for row, divisor in zip(kept, divisors, strict=True)
            ]
    return made


def wanted() -> Iterator[tuple[str, Decimal, Decimal, str, str, float | None]]:
    """Problem, both temperatures, support, divergence, share: each once."""
    seen_already = set()
    for run in RUNS:
        other = run.get("temperature", 1.0)
        edge = run.get("edge")
        supports = {"heads": HEADS, "top-k": TOP_K}.get(edge, ("all",))
        plain = "weight" in run or "skew" in run
        for student in dict.fromkeys((other, 1.0)):
            for teacher in dict.fromkeys((other, 1.0)):
                for support in supports:
                    for name, share in ENDS if plain else SHARED:
                        case = (run["problem"], student, teacher, support, name, share)
                        if case not in seen_already:
                            seen_already.add(case)
                            yield case


def case(
    problem: dict,
    names: tuple[str, float, float, str, str, float | None],
    sums: dict[str, list[list[Decimal]]],
) -> dict:
    """One entry of the file."""
    place, student_temperature, teacher_temperature, support, name, share = names
    temperatures = Decimal(str(student_temperature)), Decimal(str(teacher_temperature))
    part = Decimal(str(share or 0))
    values, gradients = [], []
    for students, teachers in zip(problem["student"], problem["teacher"], strict=True):
        values.append([])
        gradients.append([])
        for student, teacher in zip(students, teachers, strict=True):
            student, teacher = exact(student), exact(teacher)

            def value(row: Row, teacher: Row = teacher) -> Decimal:
                return divergence(name, part, *seen(row, teacher, support, temperatures))

            found = value(student)
            values[-1].append(found)
            finite = found.is_finite()
            gradients[-1].append(gradient(value, student) if finite else [None] * len(student))
    finite = all(one.is_finite() for row in values for one in row)
    losses = {
        reduction: sum(
            (
                c * v
                for cs, vs in zip(sums[reduction], values, strict=True)
                for c, v in zip(cs, vs, strict=True)
            ),
            ZERO,
        )
        if finite
        else None
        for reduction in sums
    }
    made = {
        "problem": place,
        "temperatures": [student_temperature, teacher_temperature],
        "support": support,
        "divergence": name,
        "share": share,
        "losses": losses,
        "values": values,
        "gradients": gradients,
    }
    return rounded(made)


def exact(row: Sequence[float | None]) -> list[Decimal | None]:
    return [None if z is None else Decimal(z) for z in row]


def rounded(found):
    """Decimals as the nearest float64, infinity as null."""
    if isinstance(found, Decimal):
        return float(found) if found.is_finite() else None
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    return [rounded(value) for value in found] if isinstance(found, list | tuple) else found


def text() -> str:
    """The file: a case a line."""
    with localcontext() as context:
        context.prec = DIGITS
        given = problems()
        reductions = {
            name: coefficients(one["mask"], min(len(one["student"][0][0]), len(one["teacher"][0][0])))
            for name, one in given.items()
        }
        sums = {
            name: {reduction: ways["ignored"] for reduction, ways in one.items()}
            for name, one in reductions.items()
        }
        cases = [case(given[names[0]], names, sums[names[0]]) for names in wanted()]
        parts = {
            "about": json.dumps(" ".join(ABOUT.split())),
            "runs": lines(RUNS),
            "problems": mapping(given),
            "coefficients": mapping(rounded(reductions)),
            "cases": lines(cases),
        }
    return "{\n" + ",\n".join(f'"{name}": {value}' for name, value in parts.items()) + "\n}\n"


def lines(found: Sequence[dict]) -> str:
    return "[\n" + ",\n".join(json.dumps(one, separators=(",", ":")) for one in found) + "\n]"


def mapping(found: dict) -> str:
    inner = (f'"{name}": {json.dumps(one, separators=(",", ":"))}' for name, one in found.items())
    return "{\n" + ",\n".join(inner) + "\n}"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
