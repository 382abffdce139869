"""Jobs: what `ray job submit` runs, one file a job: parse, connect, call, report."""

import os
import secrets

# Ray reads these once, when it is imported, so they are set before any job's own imports. Without a cluster a job
# starts a private local Ray: a token of its own keeps other processes out and Ray from writing one to the home folder.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's core prints an error for every actor that gets its weights from the object store; what matters is raised.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
