"""Jobs: what `ray job submit` runs, one file a job: parse, connect, call, report."""

import importlib.metadata
import os
import platform
import secrets
import signal
import sys

from posec3d import __version__


def version() -> str:
    """Of posec3d, and of what its jobs stand on; none of that is imported."""
    said = [f"Python {platform.python_version()}"]
    for name in ("torch", "ray"):
        try:
            said.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            said.append(f"no {name}")
    return f"posec3d {__version__} ({', '.join(said)})"


if sys.argv[0] == "-m":  # `python -m jobs.x`, before the seconds in which torch and Ray are imported
    if "--version" in sys.argv:
        print(version())
        sys.exit()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # There is nothing to end in order yet; `_job.main` sees to it then.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
# Ray reads these once, when it is imported, so they are set before any job's own imports. Without a cluster a job
# starts a private local Ray: a token of its own keeps other processes out and Ray from writing one to the home folder.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's core prints an error for every actor that gets its weights from the object store; what matters is raised.
if "--debug" not in sys.argv:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
