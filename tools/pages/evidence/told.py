"""What README, page and site say alike of the atlas' figures: words for statements, agreement and sharpness."""

from __future__ import annotations

from collections.abc import Iterator

from reproductions.engine.atlas.record import AgreementRow, Correlation, PooledRow, Record, Table
from tools.terminal import interval, number

# How the figures come about: a heading and its text, for Markdown and HTML alike.
RULES = (
    (
        "A league",
        "holds recorded arms that train one student from one start for as many steps of as many examples, and are "
        "measured on the same held-out examples, whichever paper brought them. They differ in how they are taught. "
        "Rates are each arm's own best.",
    ),
    (
        "Ties.",
        "Every two arms are compared on the seeds that both have, paired by seed and example, at {level} a pair. The "
        "best arm opens group a, which takes every arm that is not told apart from it; the best arm without a letter "
        "opens group b, and so on: an arm carries the letter of each group whose best it may equal. The range of ranks "
        "counts the arms that are told apart as better and as worse. The level is that of one pair, not of the table.",
    ),
    (
        "A statement",
        "names what two arms differ in. Every two arms of a league that differ in exactly that are a contrast of it. "
        "Contrasts are pooled by random effects (Hartung and Knapp, Paule and Mandel); arms, seeds and examples that "
        "they share make them dependent, so the covariances are estimated from the figures of each seed and example, "
        "and a negative sum of them counts as none. Tau is the spread between contrasts; the prediction interval says "
        "where the next contrast of the kind may lie.",
    ),
    (
        "Agreement with the papers' order",
        "is Kendall's tau between the paper's numbers and ours over the arms of one of its settings, where it has "
        "numbers for three or more. The mean is over papers, on other models, data and metrics than the papers'; "
        "scales are never pooled.",
    ),
    (
        "Sharpness",
        "is the mean probability that a student gives its greedy answer. What follows it across arms measures how sure "
        "a student is, whatever else it measures.",
    ),
)


def rules(record: Record) -> list[tuple[str, str]]:
    """The rules with the level of a pair in them."""
    return [(head, text.format(level=f"{100 * record.level:.4g} %")) for head, text in RULES]


def holds(row: PooledRow) -> str:
    """Whether a statement holds, in words: of the mean over contrasts, and of the next one where that is known."""
    if row.interval is None:
        (one,) = row.contrasts
        return "one contrast: " + _side(one.interval, "for it", "against it", "not decided")
    word = _side(row.interval, "holds on average", "the opposite holds on average", "")
    if not word:  # of two contrasts that both say the same the mean is hardly known
        each = {_side(one.interval, "for it", "against it", "") for one in row.contrasts}
        return (
            f"each is {each.pop()}, their mean not decided"
            if each in ({"for it"}, {"against it"})
            else "not decided"
        )
    if row.prediction is None:
        return word
    low, high = row.prediction
    return f"{word}, and for the next contrast too" if low > 0 or high < 0 else f"{word}, not for each"


def _side(bounds: tuple[float, float], above: str, below: str, neither: str) -> str:
    return above if bounds[0] > 0 else below if bounds[1] < 0 else neither


def figure(row: PooledRow) -> str:
    """'-2.31 [-5.78, 1.16] %, 5 contrasts, tau 2.71'."""
    if row.mean is None:
        (one,) = row.contrasts
        return f"{number(one.difference)} {interval(one.interval)}{_unit(row)}, 1 contrast"
    return (
        f"{number(row.mean)} {interval(row.interval)}{_unit(row)}, {len(row.contrasts)} contrasts, "
        f"tau {number(row.tau)}"
    )


def _unit(row: PooledRow) -> str:
    """Differences of percentages are points."""
    return f" {'points' if row.unit == '%' else row.unit}" if row.unit else ""


def agrees(row: AgreementRow) -> str:
    """One line on how far the papers' orders are found again."""
    what = f"{row.same} of {row.same + row.opposite} claims lie in the claimed direction"
    if row.mean is None:
        return what
    papers = f"{row.papers} paper{'s'[: row.papers != 1]}"
    bounds = f" {interval(row.interval)}" if row.interval is not None else ""
    return f"Kendall's tau {number(row.mean)}{bounds} over {papers} ({_orders(row)}); {what}"


def _orders(row: AgreementRow) -> str:
    count = len(row.orders)
    return f"{count} setting{'s'[: count != 1]} with three arms or more"


def place(row: AgreementRow) -> str:
    """'tiny, pronunciation and 9 variants, earlier attempts'."""
    more = len(row.testbeds) - 1
    beds = row.testbeds[0] + (f" and {more} variant{'s'[: more != 1]}" if more else "")
    return f"{row.scale}, {beds}" + (", earlier attempts" if row.earlier else "")


def sharp(table: Table, one: Correlation) -> str:
    """'Confidence and exact match, sampled: Spearman 0.75 over 58 arms'."""
    titles = {column.metric: column.title for column in table.columns}
    pair = f"{titles[one.one]} and {titles[one.other]}"
    return f"{pair}: Spearman {one.spearman:.2f}, Pearson {one.pearson:.2f}, {one.arms} arms"


def stated(record: Record) -> Iterator[tuple[Table, list[PooledRow]]]:
    """Each league with its statements on the metric that its table is sorted by; leagues without any are left out.

    Those whose testbed has passed its gate come first.
    """
    for table in sorted(record.tables, key=lambda table: not gated(table)):
        rows = [
            row
            for row in record.statements
            if row.league == table.name and row.metric == table.columns[0].metric
        ]
        if rows:
            yield table, rows


def main_tables(record: Record, scale: str) -> list[Table]:
    """The largest league of each testbed at a scale that has passed its gate; without any, the largest league."""
    tables = sorted((one for one in record.tables if one.scale == scale), key=lambda one: -len(one.rows))
    able: dict[str, Table] = {}
    for one in filter(gated, tables):
        able.setdefault(one.testbeds[0], one)
    return list(able.values()) or tables[:1]


def gated(table: Table) -> bool:
    """Whether the testbed of a league has passed its gate: those that have not hold earlier attempts."""
    from reproductions.engine.gate.record import read_gate
    from reproductions.testbeds.spec import list_testbeds

    bed = table.testbeds[0]
    gate = read_gate(bed) if bed in list_testbeds() else None
    return gate is not None and gate.passed


def league_name(table: Table) -> str:
    """The scale and name of a league, and whether no gate stands behind it."""
    return f"{table.scale}, {table.name}" + ("" if gated(table) else " (no gate, earlier attempts)")
