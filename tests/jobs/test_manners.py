"""What a job's user sees: four flags, one live line, errors of one paragraph, Ctrl-C; on a terminal and in a pipe."""

import contextlib
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jobs import _errors, _job, _terminal, compact, version
from posec3d import actors
from posec3d.table import Clip, write_table
from posec3d.video import write_video

ROOT = Path(__file__).resolve().parents[2]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("table"))
    clips = []
    for i in range(12):
        truth = actors.make_clip(actors.ACTIONS[i % 2], actor=i, num_frames=6)
        names = {"label": i % 2, "label_name": actors.ACTIONS[i % 2], "splits": ("test" if i > 7 else "train",)}
        clips.append(Clip(f"c{i}", 6, 240, 320, truth.keypoints, np.ones(truth.keypoints.shape[:3]), **names))
    write_table(clips, uri)
    return uri


@pytest.fixture
def as_before(monkeypatch):
    """A test may give the flags; those after it have none, and their own Ctrl-C."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield monkeypatch
    _terminal.take([])
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def check(as_before, capsys, tmp_path):
    """jobs.compact in this process; gives the exit code, stdout and stderr."""

    def run(*words, work=compact.run):
        as_before.setattr(sys, "argv", ["compact", *map(str, words)])
        code = _job.main(lambda: _job.parse(compact.Compact), work)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def raising(error):
    def work(job):
        raise error

    return work


def start(module, *words, **streams):
    dropped = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    command = [sys.executable, "-m", f"jobs.{module}", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=env | {"TERM": "xterm"}, text=True, **streams)


class OnTerminal:
    """A process whose terminal this test is."""

    def __init__(self, module, *words):
        self.master, slave = pty.openpty()
        self.process = start(module, *words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.said = ""

    def read(self, until=None, seconds=200):
        """Read until that is seen, or to the end."""
        deadline = time.monotonic() + seconds
        while until is None or not re.search(until, self.said):
            assert time.monotonic() < deadline, self.said
            if select.select([self.master], [], [], 0.5)[0]:
                try:
                    self.said += os.read(self.master, 65536).decode()
                except OSError:  # it is over
                    assert until is None, self.said
                    break
        return self.said

    def ctrl_c(self):
        os.killpg(self.process.pid, signal.SIGINT)  # as a terminal does: to all that are in front


def test_version_is_told_without_importing_what_takes_seconds(as_before):
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jobs.train", "demo", "--version"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert said.returncode == 0
    assert said.stdout == version() + "\n"
    assert re.fullmatch(r"posec3d \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+, torch \S+, ray 2\.\S+\)\n", said.stdout)
    assert not re.search(r"\| +(ray|torch|numpy)$", said.stderr, re.MULTILINE)


def test_the_version_is_that_of_the_package():
    assert f'version = "{version().split()[1]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("words", [["compact", "--help"], ["train", "--help"], ["tune", "demo", "--help"]])
def test_help_tells_of_the_flags_of_every_job(words, as_before, capsys):
    import importlib

    module = importlib.import_module(f"jobs.{words[0]}")
    as_before.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        _job.main(getattr(module, "parse", lambda: _job.parse(compact.Compact)), lambda job: {})
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert _terminal.HELP in said
    assert ("PRESET --help" in said) == (words == ["train", "--help"])


def test_json_is_summary_json_and_all_there_is_on_stdout(check, table):
    code, out, err = check(table, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert out.rstrip("\n") == (Path(table) / "_check/summary.json").read_text()

    def chatty(job):
        print("what a library says")
        return {"path": table, "n": 1}

    code, out, err = check("--json", table, work=chatty)
    assert json.loads(out)["n"] == 1 and "what a library says" in err


def test_a_path_that_spells_an_emoji_is_told_as_it_is(check, tmp_path):
    code, out, _ = check(tmp_path / "x:fire:y", "--json", work=lambda job: {"path": job.tables[0]})
    assert code == 0 and json.loads(out)["path"] == f"{tmp_path}/x:fire:y"


def test_quiet_says_nothing_but_warnings_and_errors(check, table, tmp_path):
    assert check("--quiet", table) == (0, "", "")
    code, out, err = check("--quiet", "/nowhere")
    assert (code, out) == (2, "") and err.startswith("error: no keypoint table at /nowhere")


def test_what_a_job_found_is_in_its_json_beside_the_error(check, tmp_path):
    (tmp_path / "x.parquet").write_text("no table")
    code, out, err = check(tmp_path, "--json")
    said = json.loads(out)
    assert code == said["exit_code"] == 1 and said["error"] in err
    assert said["problems"][0]["examples"][0]["file"].endswith("x.parquet")
    assert json.loads((tmp_path / "_check/summary.json").read_text()) == {
        key: value for key, value in said.items() if key not in ("error", "exit_code")
    }


def test_wrong_usage_is_json_too(as_before, capsys):
    as_before.setattr(sys, "argv", ["compact", "--rows-per-fil", "3", "--json"])
    with pytest.raises(SystemExit):
        _job.main(lambda: _job.parse(compact.Compact), compact.run)
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == 2 and "--rows-per-file" in said.err


def test_a_bug_is_one_paragraph_and_its_traceback_is_for_debug(check, table):
    def bug(job):
        return {}["nothing"]

    for words in ((), ("--debug",)):
        code, _, err = check(table, *words, work=bug)
        assert code == 1
        assert re.fullmatch(
            r"error: KeyError: 'nothing' at jobs/_job\.py:\d+\. This was not foreseen: run the same again with --debug "
            "for the traceback; if it is a bug of posec3d, report it with that",
            err.splitlines()[-1],
        )
        assert ("Traceback (most recent call last)" in err) == bool(words)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/etc/x"), "error: /etc/x: Permission denied; give a place"),
        (OSError(28, "No space left on device"), "No space left on device; free some space there; this job keeps"),
        (MemoryError("Unable to allocate 9 GiB"), "error: Unable to allocate 9 GiB; take fewer --actors or --workers"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), "error: a.csv: No such file or directory\n"),
        (FileNotFoundError(2, "No such file or directory"), "directory; perhaps the folder this runs in was removed"),
        (KeyboardInterrupt(), "error: interrupted; this job keeps nothing of a run that did not end"),
    ],
)
def test_what_is_the_machines_doing_is_told_with_a_remedy(check, table, error, said):
    code, _, err = check(table, work=raising(error))
    assert code == 1 and said in err and "not foreseen" not in err and "Traceback" not in err


def test_an_interrupted_job_tells_the_command_that_does_the_rest(check, table, tmp_path):
    words = (table, "--out", tmp_path / "a b", "--quiet")
    _, _, err = check(*words, work=raising(KeyboardInterrupt()))
    assert err == (
        "error: interrupted; what was done is written, and the same command again does the rest: "
        f"python -m jobs.compact {table} --out '{tmp_path}/a b' --quiet\n"
    )


def test_secrets_are_told_neither_by_the_log_nor_by_what_a_job_found(check, table, as_before):
    as_before.setenv("AWS_SECRET_ACCESS_KEY", "/JalrXUtnFEMI")
    as_before.setenv("RAY_AUTH_TOKEN_PATH", str(table))

    def work(job):
        said = "http://me:hunter2@host/x?X-Amz-Signature=5ec2e7 failed: /JalrXUtnFEMI"
        _terminal._Log().emit(logging.LogRecord("posec3d", logging.WARNING, "", 0, said, (), None))
        return {"path": str(table), "video": "http://me:hunter2@host/x?X-Amz-Signature=5ec2e7"}

    for words in ((), ("--json",)):
        code, out, err = check(table, *words, work=work)
        assert code == 0 and "http://me:***@host/x" in err and "http://me:***@host/x" in out
        assert not re.search("JalrXUtnFEMI|hunter2|5ec2e7", out + err)
        assert str(table) in out.replace("\n", "")


def test_secrets_are_not_told(check, table, as_before):
    as_before.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    error = ValueError("wJalrXUtnFEMI refused by http://me:hunter2@host/x")
    for words in ((), ("--debug", "--json")):
        code, out, err = check(table, *words, work=raising(error))
        assert code == 1 and "http://me:***@host/x" in err
        assert not re.search("wJalrXUtnFEMI|hunter2", out + err)


WORKER = """\x1b[36mray::MapBatches(read)()\x1b[39m (pid=7, ip=10.0.0.1)
  File "/somewhere/pipelines/worker.py", line 61, in read
    rows = decode(batch)
  File "/somewhere/posec3d/{file}.py", line 115, in decode
    {code}
{error}

The above exception was the direct cause of the following exception:

\x1b[36mray::MapBatches(read)()\x1b[39m (pid=7, ip=10.0.0.1)
ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s)."""


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"file": "table", "code": 'raise ValueError(f"{a} is not b")', "error": "ValueError: a is not b"},
            "a is not b",
        ),
        (
            {"file": "clips", "code": "x + y", "error": "ValueError: operands could not be broadcast"},
            r"ValueError: operands could not be broadcast at posec3d/clips\.py:115\. This was not foreseen: .* --debug",
        ),
        (
            {"file": "clips", "code": "np.empty(n)", "error": "numpy._core._exceptions._ArrayMemoryError: no 9 GiB"},
            "numpy.* no 9 GiB; take fewer --actors",
        ),
        *(  # a library's own refusal, in an environment below a checkout called posec3d
            (
                {
                    "file": f".venv/lib64/python3.11/site-packages/{name}",
                    "code": "raise ValueError()",
                    "error": "ValueError: few",
                },
                r"ValueError: few at pipelines/worker\.py:61\. This was not foreseen: .* --debug",
            )
            for name in ("torch/functional", "transformers/pipelines/base")
        ),
    ],
)
def test_what_ray_wraps_is_unwrapped_to_what_was_raised(parts, told):
    """The text is what Ray 2.60 makes of an exception in a task."""
    from ray.exceptions import RayTaskError, UserCodeException

    error = RayTaskError("read", "Traceback (most recent call last):\n" + WORKER.format(**parts), UserCodeException())
    said, _ = _errors.explain(error.as_instanceof_cause())
    assert re.fullmatch(told + ".*", said), said
    assert "\n" not in said and not CONTROL.search(said)


def test_piped_progress_is_some_plain_lines(as_before, caplog):
    caplog.set_level(logging.INFO)
    with _terminal.progress("work", 1000, "clips") as advance:
        for i in range(1001):
            advance(i, f"{i} seen")
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == "work: 0/1000 clips, 0:00"
    assert re.fullmatch(r"work: 1000/1000 clips, \d+/s, 0:0\d, 1000 seen", caplog.messages[1])
    with _terminal.progress("share", 100, "%") as advance:
        advance(100, "")
    assert caplog.messages[-1] == "share: 100 %, 0:00"


def test_the_rate_leaves_out_start_up_and_what_was_there_before(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stage = _terminal._Stage("train", 30, "epochs")
    for wait, done in ((0, 10), (90, 11), (60, 12), (60, 13)):
        now[0] += wait
        stage.advance(done, "")
        if done < 12:
            assert "left" not in str(stage)  # start-up is in it still
    now[0] += 20
    assert str(stage) == "13/30 epochs, 1.0/min, 3:50, 16:40 left"


@pytest.fixture(scope="module")
def live():
    """What a stage of a second writes on a terminal of 80 columns."""
    code = (
        "import logging, time\nfrom jobs import _terminal\n_terminal.start_log()\n"
        "with _terminal.progress('extract', 8, 'videos') as advance:\n"
        "    for i in range(1, 9):\n"
        "        time.sleep(0.3); advance(i, 'a note that is longer than what is left of the line of this terminal')\n"
        "        if i == 5: logging.getLogger('posec3d').warning('a word between')\n"
    )
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    while True:
        try:
            said += os.read(master, 65536)
        except OSError:
            break
    assert process.wait() == 0
    return said.decode()


def test_on_a_terminal_a_stage_is_one_line_that_is_drawn_again(live):
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", live)
    drawn = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    stages = [line for line in drawn if line.startswith("extract ")]
    assert len(stages) > 4 and all(len(line) <= 80 for line in stages)
    assert re.search(r"━+.* [67]/8 videos, \d\.\d/s, 0:0\d, 0:0\d left, a note that is lo.*…", "\n".join(stages))
    assert [line for line in drawn if not line.startswith("extract ")] == [
        line for line in drawn if line.endswith("posec3d: a word between")
    ]
    assert live.count("\n") <= 3  # the word, and the end of the line
    assert live.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in live[-40:]  # the cursor is back


def test_ctrl_c_ends_the_work_in_order_and_once_more_at_once():
    code = (
        "import time\nfrom jobs import _terminal\n_terminal.listen()\n"
        "with _terminal.progress('work', 8, 'clips'):\n"
        "    try: print('begun', flush=True); time.sleep(60)\n"
        "    except KeyboardInterrupt: print('in order', flush=True); time.sleep(60)\n"
    )
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=slave, stderr=slave)
    os.close(slave)
    said = ""
    for word in ("begun", "in order", "ended at once"):
        while word not in said:
            said += os.read(master, 65536).decode()
        if word != "ended at once":
            process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    assert said.rindex("\x1b[?25l") < said.rindex("\x1b[?25h") and "Traceback" not in said


@pytest.mark.parametrize(
    "words",
    [["{table}"], *(pytest.param(words, marks=pytest.mark.slow) for words in (["--help"], ["{table}", "--json"]))],
)
def test_a_reader_that_leaves_is_no_error(table, words):
    process = start("compact", *[word.format(table=table) for word in words], stdout=subprocess.PIPE, stderr=-1)
    process.stdout.close()
    assert process.stderr.read().count("Traceback") == 0
    assert process.wait() == 0
    process.stderr.close()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for i in range(60):
        clip = actors.make_clip(actors.ACTIONS[i % 3], actor=i, num_frames=12)
        write_video(root / f"{i:02d}.mp4", clip.frames, clip.fps)
    return root


NOISE = re.compile(r"Traceback|ray::|raylet|Received SIGINT|[A-Za-z]+Error")
SMALL = "--clip.length 4 --clip.size 12 --clip.test-size 12 --batch 8 --repeat 2 --epochs 200".split()


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_ends_an_extraction_in_order(videos, movenet, tmp_path):
    words = ("--videos", videos, "--table", tmp_path / "table", "--actors", 1)
    job = OnTerminal("extract", *words)
    job.read(r"[1-9]\d?/60 videos, \d+\.\d/(s|min), \d+:\d\d, \d+:\d\d left, ")
    job.ctrl_c()
    said = job.read()
    assert job.process.wait() == 1
    rest = (
        "error: interrupted; what was done is written, and the same command again does the rest: python -m jobs.extract"
    )
    assert f"{rest} --videos {videos} --table {tmp_path}/table --actors 1" in said
    assert said.index("\x1b[?25l") < said.index("\x1b[?25h") < said.index(rest)  # the cursor is back
    assert not NOISE.search(said), said
    assert list((tmp_path / "table").glob("*.parquet"))


@pytest.mark.slow
def test_ctrl_c_in_a_pipe_ends_a_training_in_order_and_it_goes_on(table, tmp_path):
    words = ("demo", "--table", table, "--out", tmp_path, *SMALL)
    job = start("train", *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (tmp_path / "last.safetensors").exists():
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.2)
    job.send_signal(signal.SIGINT)
    said, _ = job.communicate(timeout=100)
    assert job.returncode == 1, said
    assert (
        "interrupted; what was done is written, and the same command again does the rest: python -m jobs.train" in said
    )
    assert not NOISE.search(said) and not CONTROL.search(said), said


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_job_at_once_and_ray_with_it(videos, movenet, tmp_path):
    job = OnTerminal("extract", "--videos", videos, "--table", tmp_path / "table", "--actors", 1)
    job.read(r"[1-9]\d?/60 videos")
    (folder,) = {found[0] for line in commands(job.process.pid) if (found := re.search(r"posec3d-ray-\w+", line))}
    job.ctrl_c()
    time.sleep(0.1)
    job.ctrl_c()
    began = time.monotonic()
    assert "ended at once" in job.read(seconds=20)
    assert job.process.wait() == 1 and time.monotonic() - began < 10
    while any(folder in line for line in commands()):
        assert time.monotonic() - began < 60
        time.sleep(0.5)


def commands(parent=None):
    """Command lines of all processes, or of those that one started."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended just now
            if parent in (None, int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])):
                yield (process / "cmdline").read_text(errors="replace")
