"""What this process may use of its machine."""

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/cpu.max")
"""Quota and period in microseconds of all processes of a container, or `max` for no quota (Linux control groups 2)."""


def cores() -> int:
    """Cores this process may run on: not the machine's others, in a container, a pod or a Slurm job with a limit."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no Linux, no container, no quota
        quota, period = CGROUP.read_text().split()
        allowed = min(allowed, -(-int(quota) // int(period)))
    return allowed


MALLOC = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"arena_max": 1, "hugetlb": 1, "mmap_threshold": 2**32, "trim_threshold": 2**33}.items()
)
"""GLIBC_TUNABLES of a process that trains on a CPU. Else large blocks are mapped and unmapped anew in every step: a
third of a step on two cores went into page faults (benchmarks/train.py). With these they come from one heap, in huge
pages."""
