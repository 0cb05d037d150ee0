"""Two papers reproduced together in a process of their own: both have the toy's components, from one module.

    python -m tests.reproductions.engine.together <folder of the toy> <what to do, as JSON>

Prints JSON: outcomes and the events that were heard.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from reproductions.engine.errors import KDError
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.reproduce import reproduce, reproduce_all
from reproductions.engine.show import files, gather
from reproductions.engine.verdicts import decide as deciding

from .conftest import Events
from .test_looks import decide


def main(root: Path, options: dict) -> None:
    for name, folder in (
        ("ROOT", ""),
        ("PAPERS", "papers"),
        ("RESULTS", "results"),
        ("TESTBEDS", "testbeds"),
    ):
        setattr(gather, name, root / folder)
    gather.TUNING, files.FOLDER, deciding.decide = root / "tuning", root / "verdicts", decide
    plans = [make_plan(paper, papers_root=root / "papers", cache=root / "cache") for paper in ("toy", "twin")]
    events, told = Events(), {}
    alone = options.pop("alone", None)
    about = {"reporter": events, "quiet": True, "workers": 2, **options}
    try:
        outcomes = reproduce_all(plans, **about) if alone is None else {alone: reproduce(plans[1], **about)}
        told = {paper: outcome.as_dict() for paper, outcome in outcomes.items()}
    except KDError as error:
        told = {"error": str(error)}
    print(
        json.dumps(
            {
                "outcomes": told,
                "same_key": plans[0].keys["method"] == plans[1].keys["method"],
                "started": events.of("started"),
                "finished": events.of("finished"),
                "stale": files.stale(["toy", "twin"]) if about.get("record") else [],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
