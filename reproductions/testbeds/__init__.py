"""Testbeds: task x models x metrics, each a YAML file here; only `load_testbed` imports torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from reproductions.engine.files import canonical_json
from reproductions.testbeds.spec import ROOT as ROOT
from reproductions.testbeds.spec import at_seed as at_seed
from reproductions.testbeds.spec import changed as changed
from reproductions.testbeds.spec import gate_identity as gate_identity
from reproductions.testbeds.spec import identity as identity
from reproductions.testbeds.spec import list_testbeds as list_testbeds
from reproductions.testbeds.spec import measured_by as measured_by
from reproductions.testbeds.spec import measuring as measuring
from reproductions.testbeds.spec import metrics_of as metrics_of
from reproductions.testbeds.spec import read_testbed as read_testbed
from reproductions.testbeds.spec import teachers_measured_with as teachers_measured_with
from reproductions.testbeds.spec import where_of as where_of

if TYPE_CHECKING:
    from reproductions.testbeds.testbed import Testbed


def load_testbed(testbed: str | Mapping[str, Any]) -> Testbed:
    """The testbed of a name, or of what `read_testbed` gave; one for each content and place of data and models.

    Raises KDError for an unknown name, missing data, and data of another revision than the file names.
    """
    spec = read_testbed(testbed) if isinstance(testbed, str) else testbed
    canonical_json(dict(spec))  # refuses what is no plain data; the order of metrics and models is kept
    return _loaded(json.dumps(dict(spec)), os.environ.get("KD_DATA_DIR"), os.environ.get("KD_MODEL_DIR"))


@lru_cache(maxsize=4)
def _loaded(text: str, data: str | None, models: str | None) -> Testbed:
    from reproductions.testbeds.testbed import Testbed

    return Testbed(json.loads(text))
