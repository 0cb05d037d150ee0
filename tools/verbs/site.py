"""`kd site`: the catalog as static pages."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

SUMMARY = "write the catalog as static pages, with search and charts"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "--out", default="site", help="folder to write (default: site); only a site is replaced"
    )
    parser.add_argument(
        "--no-api",
        action="store_true",
        help="leave out api/, the library's reference (needs pdoc, takes seconds)",
    )


def main(args: argparse.Namespace) -> int:
    """Write the site and say where it is."""
    from tools.pages.site import api
    from tools.pages.site.build import build

    start = time.perf_counter()
    out = Path(args.out)
    reference = not args.no_api and api.installed()
    written = build(out, reference=reference)
    print(f"{out / 'index.html'}: {written} pages in {time.perf_counter() - start:.1f} s")
    if not reference and not args.no_api:
        print(api.MISSING, file=sys.stderr)
    return 0
