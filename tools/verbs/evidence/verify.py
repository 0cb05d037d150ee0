"""`kd verify [PAPER]`: every recorded result judged again from its raw figures, beside what is committed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.errors import CatalogError
from catalog.schema import Catalog, load_catalog
from reproductions.engine.errors import KDError
from reproductions.engine.show import files, gather
from reproductions.engine.show.view import PERCENT, PaperView, ValueRow
from tools.commands import json_option, one_name
from tools.experiments import every_experiment, experiment_id
from tools.paths import relative
from tools.terminal import fit, grid, interval, number, style, verdict, width, wrap

if TYPE_CHECKING:
    from reproductions.engine.replicates import Beside

SUMMARY = "judge recorded results again, from their raw figures"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "paper", nargs="?", type=one_name, help="id of the paper; every judged paper without it"
    )
    parser.add_argument(
        "--since",
        metavar="COMMIT",
        help="only: does all that was recorded at a commit stand unchanged, figure by figure and file by file?",
    )
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print each claim with its verdict; 1 where something committed does not follow from the raw figures."""
    if args.since:
        return _since(args.since, as_json=args.json)
    catalog = load_catalog()
    ids = gather.runnable([experiment_id(args.paper)] if args.paper else every_experiment(catalog))
    views: list[PaperView] = []
    wrong: dict[str, list[str]] = {}
    for paper in ids:
        view, found = _verified(catalog, paper)
        if view is not None:
            views.append(view)
        if found or view is not None:
            wrong[paper] = found
    if args.paper and not wrong:
        hint = f"`make reproduce PAPER={args.paper}` makes them"
        raise CatalogError(f"no results are recorded for {args.paper}; {hint}")
    elsewhere = [] if args.paper else _elsewhere(catalog)
    told = [line for lines in wrong.values() for line in lines] + elsewhere
    if args.json:
        plain = _as_json(views, wrong)
        if elsewhere:
            plain["elsewhere"] = {"differs": elsewhere}
        print(json.dumps(plain, indent=1, ensure_ascii=False))
        return 1 if told else 0
    if not wrong:
        print("no results are recorded yet; `make reproduce PAPER=minillm` makes the first")
    if views:
        print("\n\n".join("\n".join(_table(view)) for view in views) + "\n")
    for view in views:
        lines = _beside(_replicates(view.paper, [row.name for row in view.recorded])[0])
        if lines:
            print("\n".join([style(f"{view.paper}: replicates", "bold"), *lines]) + "\n")
    if wrong:
        print("\n".join(map(wrap, told)) or "what is committed follows from the raw figures")
    return 1 if told else 0


def _since(commit: str, *, as_json: bool) -> int:
    """1 where something that was recorded at a commit was changed or taken away: a figure, or a byte of a file."""
    from reproductions.engine.store.appended import lost_since, rewritten_since

    changed = _lines(rewritten_since(commit, gather.ROOT, gather.ATTEMPTS))
    runs, lost = lost_since(commit, gather.ROOT)
    if as_json:
        print(json.dumps({"runs": runs, "lost": lost, "changed": changed}, indent=1))
    elif lost or changed:
        print("\n".join(map(wrap, [*changed, *lost])))
    else:
        told = (
            f"arms that got more since {commit}: all figures of their {runs} runs of then stand as they were, and "
            "every file that may not change is the same byte for byte"
        )
        print(wrap(told))
    return 1 if lost or changed else 0


def _verified(catalog: Catalog, paper: str) -> tuple[PaperView | None, list[str]]:
    """A paper judged again and what of it does not follow; no view where its files are broken or nothing is recorded.

    Reading checks every metric against its examples, every run's digest and that no declared arm or seed is missing.
    """
    from tools.checks import results

    kept = files.read(paper)
    try:
        view = gather.gather(paper)
    except (CatalogError, KDError) as error:
        return None, [str(error).replace(f"{gather.ROOT}/", "")]
    if not view.recorded and not (kept and kept.recorded):
        return None, []
    found = [*_verdicts(view, kept), *_attempts(view), *_pages(catalog, view)]
    found += _lines(results.misnamed(gather.ROOT / name for row in view.recorded for name in row.results))
    recorded = {row.name for row in view.recorded}
    found += _replicates(paper, [row.name for row in view.recorded])[1]
    changed = [results.changed_claims(plan) for plan in results.plans([paper]) if plan.scale.name in recorded]
    return view, found + [line for some in changed for line in _lines(some)]


def _replicates(paper: str, scales: Sequence[str]) -> tuple[list[Beside], list[str]]:
    """What a paper's replicates say beside the record, claim by claim, and which of them do not follow."""
    from reproductions.engine import replicates
    from reproductions.engine.plan.plan import make_plan

    compared: list[Beside] = []
    wrong: list[str] = []
    paths = replicates.files_of(paper)
    plans = {scale: make_plan(paper, scale, papers_root=gather.PAPERS) for scale in scales} if paths else {}
    for path in paths:
        try:
            scale = replicates.read_replicate(path).scale
            if scale not in plans:
                raise KDError(f"{path}: is of scale {scale}, of which nothing is recorded")
            recorded = gather.recorded(plans[scale])
            assert recorded is not None
            found = replicates.admitted(plans[scale], path, recorded)
            compared += replicates.beside(plans[scale], recorded, found)
        except KDError as error:
            wrong.append(str(error).replace(f"{gather.ROOT}/", ""))
    return compared, wrong


def _beside(found: Sequence[Beside]) -> list[str]:
    """A line a claim and replicate: both differences, and how far apart they are."""
    if not found:
        return []
    rows = [("  claim", "REPLICATE", "RECORDED", "REPLICATED", "Z", "VERDICTS")]
    for one in found:
        words = one.verdicts[0] if one.verdicts[0] == one.verdicts[1] else " | ".join(one.verdicts)
        z = "-" if one.z is None else f"{one.z:+.1f}"
        rows.append((f"  {one.claim}", one.replicate, number(one.recorded), number(one.replicated), z, words))
    return grid(rows, right=(2, 3, 4))


def _elsewhere(catalog: Catalog) -> list[str]:
    """What belongs to no one paper: results and verdicts without an experiment, what the papers say together."""
    from tools.checks import results

    unnamed = {gather.ROOT / path: what for path, what in results.unnamed(every_experiment(catalog))}
    found = _lines(results.unreadable(path for path in unnamed if path.suffix == ".json"))
    found += _lines((relative(path), what) for path, what in unnamed.items() if path.suffix != ".json")
    found += _lines(results.changed_files())
    found += _together(found)
    orphans = files.orphans(every_experiment(catalog))
    return found + [
        f"{path.relative_to(gather.ROOT).as_posix()}: no experiment leads to it" for path in orphans
    ]


def _together(told: Sequence[str]) -> list[str]:
    """What in the committed record of all papers together does not follow from the raw figures.

    A file that is broken is said once: `told` is what is said already.
    """
    from reproductions.engine.atlas import record
    from reproductions.engine.atlas.compute import compute

    kept = record.read(gather.ROOT)
    try:
        now = compute(gather.ROOT)
    except (CatalogError, KDError) as error:
        line = str(error).replace(f"{gather.ROOT}/", "")
        return [] if any(line.partition(": ")[0] == known.partition(": ")[0] for known in told) else [line]
    if kept is None and (now.tables or (gather.ROOT / record.FILE).exists()):
        return [f"{record.FILE}: is missing or was edited by hand; `make readme` writes it"]
    if kept is not None and kept != now:
        return [f"{record.FILE}: says else than the raw figures give now; `kd readme --fresh` writes it"]
    return []


def _lines(found: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{path}: {what}" for path, what in found]


def _verdicts(view: PaperView, kept: PaperView | None) -> Iterator[str]:
    """What in the committed file does not follow from the raw figures."""
    path = files.path_of(view.paper).relative_to(gather.ROOT).as_posix()
    if kept is None:
        yield f"{path}: is missing or was edited by hand; `make readme` writes it"
        return
    before = {
        (claim.id, outcome.scale): outcome.verdict for claim in kept.claims for outcome in claim.outcomes
    }
    after = {
        (claim.id, outcome.scale): outcome.verdict for claim in view.claims for outcome in claim.outcomes
    }
    for claim, scale in sorted(before.keys() | after.keys()):
        old, new = before.get((claim, scale), "not run"), after.get((claim, scale), "not run")
        if old != new:
            yield f"{path}: {claim} at {scale} is committed as {old}; from the raw figures it is {new}"
    if kept != view and before == after:
        yield f"{path}: says else than the raw figures give now; `kd readme --fresh` writes it"


def _attempts(view: PaperView) -> Iterator[str]:
    """Differences of earlier attempts that their raw figures do not give (any more)."""
    for attempt in view.attempts:
        for claim in attempt.claims:
            if not claim.agrees:
                where = f"reproductions/attempts/{view.paper}.{attempt.number}.json"
                what = "do not give its difference" if claim.now else "are gone"
                yield f"{where}: the raw figures of {claim.claim} {what}"


def _pages(catalog: Catalog, view: PaperView) -> Iterator[str]:
    """The paper's own pages that are not what its view says."""
    from tools.pages.atlas import Atlas, ours
    from tools.pages.documents import differing, own

    asked = {} if view.paper in catalog.papers else ours(catalog, [view.paper])
    asked = {name: replace(one, view=view) for name, one in asked.items()}
    texts = own(Atlas(catalog, {} if asked else {view.paper: view}, questions=asked))
    for path in differing(texts):
        if path in texts:  # what is not made here is another paper's
            yield f"{path}: differs from what `make readme` writes"


def _as_json(views: Sequence[PaperView], wrong: dict[str, list[str]]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {
        paper: {"claims": (), "values": (), "differs": lines} for paper, lines in wrong.items()
    }
    for view in views:
        found[view.paper] |= {name: view.as_dict()[name] for name in ("claims", "values")}
    return found


def _table(view: PaperView) -> list[str]:
    lines = [style(view.paper, "bold")]
    for scale in view.tally():
        found = [
            (claim, outcome) for claim in view.claims for outcome in claim.outcomes if outcome.scale == scale
        ]
        seeds = sorted({outcome.seeds for _, outcome in found})
        rows = [(f"{scale} scale, {'-'.join(map(str, seeds))} seeds", "DIFF", PERCENT, "MATTERS")]
        rows += [
            (
                f"  {claim.id}",
                number(outcome.difference),
                interval(outcome.interval),
                "-" if outcome.effect is None else f"{outcome.effect:.2g}",
            )
            for claim, outcome in found
        ]
        lines += _with_verdicts(rows, [outcome.verdict for _, outcome in found])
    return [*lines, *_values(view.values), *_earlier(view)]


def _earlier(view: PaperView) -> list[str]:
    """A line an earlier attempt: its verdicts in its own words, and how many differences the raw figures give."""
    lines = []
    for attempt in view.attempts:
        told = ", ".join(f"{count} {word}" for word, count in attempt.verdicts)
        there = [claim for claim in attempt.claims if claim.now is not None]
        again = (
            f"{sum(claim.agrees for claim in there)} of {len(there)} differences follow from the raw figures"
        )
        kept = again if there else f"raw figures in the history at {attempt.commit}"
        which = f"attempt {attempt.number}, {attempt.scale}, engine {attempt.engine}"
        lines.append(style(wrap(f"{which}: {told}; {kept}", "    ", "  "), "dim"))
    return lines


def _values(values: Sequence[ValueRow]) -> list[str]:
    if not values:
        return []
    rows = [("the paper's numbers", "OURS", "95 %", "PAPER")]
    rows += [
        (f"  {value.id}", number(value.mean), interval(value.interval), number(value.paper))
        for value in values
    ]
    return _with_verdicts(rows, [value.verdict for value in values])


def _with_verdicts(rows: Sequence[Sequence[str]], verdicts: Sequence[str]) -> list[str]:
    """The table with each verdict in front of its row, where verdicts line up and 80 columns suffice."""
    size = max(map(len, verdicts), default=0)
    others = sum(max(len(row[place]) for row in rows) + 2 for place in range(1, len(rows[0])))
    name = max(width() - size - 2 - others, 12)
    head, *lines = grid([(_named(row[0], name), *row[1:]) for row in rows], right=(1, 3))
    marked = [
        f"  {verdict(text)}{' ' * (size - len(text))}{line}"
        for line, text in zip(lines, verdicts, strict=True)
    ]
    return [style(f"{' ' * (size + 2)}{head}", "dim"), *marked]


def _named(text: str, columns: int) -> str:
    """A name whose end says most, cut in its middle where it is too long."""
    if len(text) <= columns:
        return text
    tail = (columns - 1) // 2
    return fit(f"{text[: columns - 1 - tail]}…{text[-tail:]}", columns)
