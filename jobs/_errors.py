"""An exception -> the one paragraph that a user is told: what went wrong, and what to do about it.

What a worker raised comes back from Ray as the text of a traceback, wrapped once or more; so text is what is read here.
"""

import re
import traceback
from typing import NamedTuple

from ray.exceptions import RayError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

SECTIONS = re.compile(r"\n+(?:The above exception was the direct cause|During handling of the above exception).*\n+")
FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+), in .*(?:\n +(?P<code>.+))?', re.MULTILINE)
# Not libraries, which may lie in an environment below a checkout called posec3d, or have a folder called pipelines.
LIBRARY = r"(?:site|dist)-packages/(?!posec3d/|pipelines/|jobs/)"
OURS = re.compile(rf"^(?!.*{LIBRARY})(?:.*/)?(?<!tests/)((?:posec3d|pipelines|jobs)/(?!tests/)(?:\w+/)*\w+\.py)$")

FEWER = "take fewer --actors or --workers, or a smaller --batch"
DIED = (
    r"(ActorDied|ActorUnavailable|WorkerCrashed|NodeDied|LocalRayletDied|OwnerDied|ObjectLost|ObjectReconstruction)\w*"
)
REMEDIES = (
    ("No space left on device|Disk quota|OutOfDiskError", "free some space there"),
    ("Permission denied|Read-only file system", "give a place where this user may read and write"),
    ("OutOfMemoryError|MemoryError|out of memory|can't allocate memory", FEWER),
    ("ObjectStoreFullError", f"{FEWER}, or give Ray's object store more memory (ray start --object-store-memory)"),
    (DIED, f"a process or a machine of Ray's died, most often for want of memory: {FEWER}"),
    (
        "AuthenticationError",
        "RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names, must hold the cluster's token",
    ),
    (r"^(botocore|aiohttp|aiobotocore)\.", "see whether S3 can be reached from here, and what AWS_ENDPOINT_URL says"),
    ("RuntimeEnvSetupError", "the workers' environment could not be made: see whether their network is up"),
    (r"^FileNotFoundError: \[Errno 2\] No such file or directory$", "perhaps the folder this runs in was removed"),
    ("Protocol not known", "wanted a path, or a URI such as s3://bucket/folder"),
)


class Raised(NamedTuple):
    """What was raised, wherever that was."""

    kind: str
    """The class, with its module if that is neither Python's nor ours."""
    message: str
    frames: list[tuple[str, int, str]]
    """(file, line, code), the innermost last."""


def explain(error: BaseException) -> tuple[str, bool]:
    """What to tell of an error.

    Returns:
        The paragraph, and whether the same command may get through once something outside of it has changed.
    """
    raised = _raised(error)
    message = " ".join(raised.message.split())
    whole = f"{raised.kind}: {message}"
    ours = [(match[1], line) for file, line, _ in raised.frames if (match := OURS.search(file))]
    if raised.frames and OURS.search(raised.frames[-1][0]) and raised.frames[-1][2].startswith("raise "):
        return raised.message, False  # told on purpose
    for pattern, remedy in REMEDIES:
        if re.search(pattern, whole):
            return f"{whole if '.' in raised.kind else message}; {remedy}", True
    if isinstance(error, OSError) and not isinstance(error, RayError):
        return message, False
    where = " at {}:{}".format(*ours[-1]) if ours else ""
    return (
        f"{whole}{where}. This was not foreseen: run the same again with --debug for the traceback; if it is a bug of "
        "posec3d, report it with that",
        False,
    )


def _raised(error: BaseException) -> Raised:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return _raised(next(iter(error.worker_failures.values())))
    if isinstance(error, ControllerError):
        return _raised(error.controller_failure)
    if isinstance(error, RayError) and 'File "' in str(error):
        return _read(str(error))
    frames = [
        (frame.filename, frame.lineno or 0, frame.line or "") for frame in traceback.extract_tb(error.__traceback__)
    ]
    home = type(error).__module__
    message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    inner = home == "builtins" or home.split(".")[0] in ("posec3d", "pipelines", "jobs")
    return Raised(type(error).__name__ if inner else f"{home}.{type(error).__name__}", message, frames)


def _read(text: str) -> Raised:
    """What the text of a traceback from a worker says."""
    sections = SECTIONS.split(re.sub(r"\x1b\[[0-9;]*m", "", text))
    if len(sections) > 1 and "UserCodeException: " in sections[-1]:
        sections.pop()
    found = list(FRAME.finditer(sections[-1]))
    frames = [(match["file"], int(match["line"]), (match["code"] or "").strip()) for match in found]
    after = sections[-1][found[-1].end() :] if found else sections[-1]
    said = re.search(r"^([A-Za-z_][\w.]*)(?:: (.*))?\Z", after.strip("\n"), re.MULTILINE | re.DOTALL)
    return Raised(said[1], said[2] or "", frames) if said else Raised("RayError", after.strip(), frames)
