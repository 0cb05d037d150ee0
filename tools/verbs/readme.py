"""`kd readme`: everything that is generated for readers, written or compared."""

from __future__ import annotations

import argparse

SUMMARY = "write README.md from the catalog and the results"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where README.md differs")


def main(args: argparse.Namespace) -> int:
    """Write README.md, or with --check say whether it is what would be written."""
    from tools.pages.readme import README, render

    text = render()
    same = README.is_file() and README.read_text(encoding="utf-8") == text
    if args.check:
        print("README.md is up to date" if same else "README.md differs from what `make readme` writes")
        return 0 if same else 1
    if not same:
        README.write_text(text, encoding="utf-8")
    print("README.md: nothing to change" if same else "README.md: written")
    return 0
