"""Folders that are emptied; a lease on an object store: who lost it is interrupted, and writes nothing more."""

import json
import signal
import time

import fsspec
import pytest

from posec3d import storage

STORE = "memory://leased"


@pytest.fixture
def short(monkeypatch):
    """Leases of two seconds, and Ctrl-C ignored, as in a script's background; gives what SIGTERM was heard of."""
    heard = []
    before = [
        (signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN)),
        (signal.SIGTERM, signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))),
    ]
    monkeypatch.setattr(storage, "LEASE_SECONDS", 2.0)
    yield heard
    for number, handler in before:
        signal.signal(number, handler)
    fsspec.filesystem("memory").rm(STORE, recursive=True)


def take():
    """As another run does, of a lease that was not renewed for too long."""
    fsspec.filesystem("memory").pipe_file(f"{STORE}/lock", json.dumps({"owner": "the other"}).encode())


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_lost_its_lease_writes_no_more(short):
    with storage.lease(f"{STORE}/lock"):
        storage.write_whole(f"{STORE}/a", b"before")
        take()
        time.sleep(storage.LEASE_SECONDS / 4)  # a write right after a renewal does not ask again
        with pytest.raises(storage.Leased, match="the other has taken memory://leased/lock from this one"):
            storage.write_whole(f"{STORE}/a", b"after")
    assert storage.read_whole(f"{STORE}/a") == b"before"
    assert b"the other" in storage.read_whole(f"{STORE}/lock")
    storage.write_whole(f"{STORE}/a", b"without a lease")


def test_a_run_that_lost_its_lease_is_interrupted_though_ctrl_c_is_ignored(short):
    with storage.lease(f"{STORE}/lock"):
        take()
        wait_for(lambda: short == [signal.SIGTERM])


def test_a_lease_is_renewed_as_long_as_it_is_held_and_then_free(short):
    with storage.lease(f"{STORE}/lock"):
        time.sleep(1.5 * storage.LEASE_SECONDS)
        with pytest.raises(storage.Leased, match=r"holds .*, renewed [012] s ago"), storage.lease(f"{STORE}/lock"):
            pass
        storage.write_whole(f"{STORE}/a", b"still")
    with storage.lease(f"{STORE}/lock"):
        pass
    assert not short


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_folder_is_emptied_but_for_what_is_to_be_kept(where, tmp_path, request):
    top = str(tmp_path) if where == "disk" else request.getfixturevalue("s3")
    names = ("run/lock", "run/a", "run/deep/er/lock", "run2/a")
    for name in names:
        storage.write_whole(f"{top}/{name}", b"x")
    if where == "disk":
        (tmp_path / "run/link").symlink_to(tmp_path / "run2", target_is_directory=True)
    storage.clear(f"{top}/run", "lock")
    assert [name for name in names if storage.exists(f"{top}/{name}")] == ["run/lock", "run2/a"]
    if where == "disk":
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    storage.clear(f"{top}/none")
