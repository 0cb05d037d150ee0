"""The `kd` command: one verb per question, each with `--json` where a program would read the answer.

Exit codes: 0 done, every judged claim reproduced; 1 a claim was not; 2 bad usage or input; 130 interrupted.
Verbs import what they need when they are called, so that `kd browse` answers before torch could be imported.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from catalog.errors import CatalogError, nearest


class UsageError(ValueError):
    """What was typed cannot be understood; str() says why, with the nearest valid name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; never raises for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal of another alphabet gets "?", not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `kd browse | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        message = _clean(error)
        if message is None:
            raise
        print(f"error: {_visible(message)}", file=sys.stderr)
        return 2
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    verb, *rest = words
    if verb not in VERBS:
        raise UsageError(f'no verb "{verb}"{nearest(verb, VERBS)}; `kd --help` lists them')
    return VERBS[verb][1](parser_of(verb).parse_args(rest))


def parser_of(verb: str) -> argparse.ArgumentParser:
    """What a verb understands; its complaints are a UsageError of one line."""
    add_options, _, summary = VERBS[verb]
    parser = _Parser(prog=f"kd {verb}", description=summary, allow_abbrev=False)
    add_options(parser)
    return parser


def _clean(error: ValueError | OSError) -> str | None:
    """The sentence for the user, or None where the error is a fault of ours and must show its traceback."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    from methods.errors import MethodError
    from reproductions.engine.errors import KDError

    return str(error) if isinstance(error, CatalogError | KDError | MethodError | UsageError) else None


def _visible(message: str) -> str:
    """What somebody typed, or a file is called, must not steer the terminal when a message repeats it."""
    from tools.terminal import visible

    return visible(" ".join(message.split("\n")))


def _help() -> str:
    lines = ["usage: kd <verb> [options]    (`kd <verb> --help` for its options)", ""]
    lines += [f"  {verb:<13}{summary}" for verb, (_, _, summary) in VERBS.items()]
    return "\n".join(
        [*lines, "", "exit codes: 0 done, claims reproduced; 1 a claim was not; 2 bad input; 130 interrupted"]
    )


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints name the nearest option and become one line."""

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UsageError(f'{self.prog}: unknown option "{unknown[0]}"{self._nearest(unknown[0])}')
        return parsed

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"argument ([^:]+): (.*)", message)
        raise UsageError(f"{self.prog}: {wrong[1]}: {wrong[2]}" if wrong else f"{self.prog}: {message}")

    def _nearest(self, word: str) -> str:
        return nearest(word.split("=")[0], self._option_string_actions)


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number of 1 or more')
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")


def _reproduce_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", help="id of the paper, e.g. minillm")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.add_argument("--seeds", type=_count, help="only the first N seeds; nothing is committed then")
    parser.add_argument("--arms", type=_names, help="only these arms, a,b; nothing is committed then")
    parser.add_argument("--workers", type=_count, help="processes side by side (default: one per core)")
    parser.add_argument("--replace", action="store_true", help="replace results of another configuration")
    _json_option(parser)


def _reproduce(args: argparse.Namespace) -> int:
    from tools import reproduce

    return reproduce.main(args)


def _tune_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", help="id of the paper, e.g. gkd")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.add_argument("--arms", type=_names, help="only these arms, a,b")
    parser.add_argument("--workers", type=_count, help="processes side by side (default: 2)")


def _tune(args: argparse.Namespace) -> int:
    from tools import tune

    return tune.main(args)


def _distill_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a YAML file; CONTRIBUTING.md and the README show one")
    _json_option(parser)


def _distill(args: argparse.Namespace) -> int:
    from tools import distill

    return distill.main(args)


def _browse_options(parser: argparse.ArgumentParser) -> None:
    for axis in ("elicitation", "algorithm", "skill", "vertical"):
        parser.add_argument(f"--{axis}", type=_names, default=[], help="one or more values, a,b: any of them")
    parser.add_argument(
        "--search", default="", help="words of id, title, what it adds, models; typos forgiven"
    )
    parser.add_argument("--year", type=_names, default=[], help="2025, 2023-2025 or 2024-; several: a,b")
    parser.add_argument("--scope", type=_names, default=[], help="llm, beyond-llm or survey")
    parser.add_argument("--has-code", action="store_true", help="only papers whose authors' code is linked")
    parser.add_argument("--has-reproduction", action="store_true", help="only papers that can be run here")
    parser.add_argument("--list", action="store_true", help="list the papers where no filter is given too")
    parser.add_argument("--status", type=_names, default=[], help="catalogued, implemented or judged")
    parser.add_argument("--by", type=_names, help="count over two axes instead, e.g. --by skill,algorithm")
    _json_option(parser)
    parser.add_argument("--csv", action="store_true", help="print CSV for a spreadsheet")


def _browse(args: argparse.Namespace) -> int:
    from tools import browse

    return browse.main(args)


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", help="id of the paper, e.g. minillm")
    _json_option(parser)


def _show(args: argparse.Namespace) -> int:
    from tools import show

    return show.main(args)


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", nargs="?", help="id of the paper; every judged paper without it")
    _json_option(parser)


def _verify(args: argparse.Namespace) -> int:
    from tools import verify

    return verify.main(args)


def _readme_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where README.md differs")


def _readme(args: argparse.Namespace) -> int:
    from tools import readme

    return readme.main(args)


def _site_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="site", help="folder to write (default: site); only a site is replaced"
    )


def _site(args: argparse.Namespace) -> int:
    from tools.site import build

    return build.main(args)


def _new_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", help="id of the new record, e.g. self-instruct")
    parser.add_argument("--arxiv", help="arXiv id or address, e.g. 2212.10560")
    parser.add_argument("--url", help="where the paper is, if not on arXiv")
    parser.add_argument("--reproduction", action="store_true", help="begin its claims.yaml too")


def _new(args: argparse.Namespace) -> int:
    from tools import scaffold

    return scaffold.main(args)


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", nargs="?", help="id of the paper; a summary over all without it")
    parser.add_argument("--ratchet", action="store_true", help="compare the counts that may only shrink")
    parser.add_argument("--write", action="store_true", help="with --ratchet: write counts that shrank")
    parser.add_argument("--grow", action="store_true", help="with --write: write counts that grew, too")
    _json_option(parser)


def _check(args: argparse.Namespace) -> int:
    from tools import check

    return check.main(args)


def _check_links_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=_count, default=30, help="ask again after so many days (30)")
    parser.add_argument("--timeout", type=_count, default=20, help="seconds to wait for an answer (20)")
    parser.add_argument("--workers", type=_count, default=8, help="hosts asked at the same time (8)")
    _json_option(parser)


def _check_links(args: argparse.Namespace) -> int:
    from tools import check_links

    return check_links.main(args)


def _bench_options(parser: argparse.ArgumentParser) -> None:
    from tools import bench

    bench.options(parser)


def _bench(args: argparse.Namespace) -> int:
    from tools import bench

    return bench.main(args)


Options = Callable[[argparse.ArgumentParser], None]
VERBS: dict[str, tuple[Options, Callable[[argparse.Namespace], int], str]] = {
    "reproduce": (
        _reproduce_options,
        _reproduce,
        "train a paper's arms over all seeds, judge its claims",
    ),
    "distill": (_distill_options, _distill, "your own student from your own data, by a config file"),
    "tune": (_tune_options, _tune, "the same sweep of learning rates for every arm, on validation data"),
    "browse": (_browse_options, _browse, "the taxonomy tree; papers by axis, year, status or text"),
    "show": (_show_options, _show, "one paper: what it is, its claims and verdicts, how to run it"),
    "verify": (_verify_options, _verify, "judge recorded results again, from their raw figures"),
    "readme": (_readme_options, _readme, "write README.md from the catalog and the results"),
    "site": (_site_options, _site, "write the catalog as static pages, with search and charts"),
    "new": (_new_options, _new, "begin the record of a paper"),
    "check": (_check_options, _check, "what is missing of a paper, from record to results, and where"),
    "check-links": (
        _check_links_options,
        _check_links,
        "ask every linked address whether it answers (network)",
    ),
    "bench": (
        _bench_options,
        _bench,
        "time and memory beside other implementations: fused loss, step, rollouts, store",
    ),
}

if __name__ == "__main__":
    sys.exit(main())
