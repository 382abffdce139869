"""How many cores a process may use."""

import os

import pytest

from posec3d import machine


@pytest.mark.parametrize(
    ("said", "count"), [("max 100000", 6), ("400000 100000", 4), ("150000 100000", 2), ("900000 100000", 6), (None, 6)]
)
def test_the_quota_of_a_container_and_the_affinity_of_a_process_bound_its_cores(tmp_path, monkeypatch, said, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cpu.max")
    if said:
        (tmp_path / "cpu.max").write_text(f"{said}\n")
    assert machine.cores() == count
