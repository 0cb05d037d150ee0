"""What this machine has for workers: processor cores, a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def cores() -> int:
    """Processor cores this process may use: its affinity, and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, _, period = quota.read_text().partition(" ")
        if allowed.isdigit() and period.strip().isdigit():
            count = min(count, max(1, round(int(allowed) / int(period))))
    return count


def has_gpu() -> bool:
    """Whether torch finds a CUDA device; asked in another process, so that this one stays light."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return False
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], capture_output=True, check=False).returncode == 0
