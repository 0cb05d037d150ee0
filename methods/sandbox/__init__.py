"""Programs that a model wrote, run so that they harm nobody: where a flag allows it, within limits, cut off from all.

    Sandbox(allowed=True).run("print(6 * 7)").stdout == "42\\n"

One process and one thread with Python's own library; no network, no file outside its folder, no signal to anybody.
"""

from __future__ import annotations

from methods.sandbox.limits import Limits, Outcome
from methods.sandbox.run import Sandbox

__all__ = ["Limits", "Outcome", "Sandbox"]
