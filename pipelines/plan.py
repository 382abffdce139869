"""Before extraction: a folder or a labels file -> videos; videos and a table -> what there is to do."""

import csv
import hashlib
import logging
import posixpath
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import fsspec
from fsspec.implementations.local import LocalFileSystem

from posec3d import table as tables
from posec3d.redaction import unsigned
from posec3d.storage import exists, files_below, reaching

log = logging.getLogger(__name__)

EXTENSIONS = ".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split()


@dataclass(frozen=True, slots=True)
class Video:
    """One video to extract, and what is known of it; some 300 bytes."""

    clip_id: str
    video: str
    label: int | None = None
    label_name: str | None = None
    splits: tuple[str, ...] = ()
    attempts: int = 0
    """How often it, as a whole, has failed."""
    pieces: tuple[tuple[str, int], ...] = ()
    """Of a video cut into pieces: (clip_id, attempts) of those that need no work or failed before."""


def find_videos(root: str, labels: str | None = None) -> list[Video]:
    """The videos under a folder (or the one file) `root`, or those that a labels file names.

    Args:
        root: any fsspec URI.
        labels: URI of a CSV with the header video,label[,split]: videos relative to `root` or absolute, several
            splits joined by `;`. Without it a video's folder is its label and the folder above that its split, as
            far as there are folders below `root`: root/split/label/x.mp4, root/label/x.mp4, root/x.mp4.

    Raises:
        FileNotFoundError: nothing at `root`.
        ValueError: no video there, a bad header, a video named twice.
    """
    fs, top = fsspec.url_to_fs(root)
    top = top.rstrip("/")

    def uri(path: str) -> str:
        # A name that is not UTF-8 cannot be stored; escaped, it becomes a failure row that shows it.
        path = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return posixpath.normpath(path) if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)

    if labels is not None:
        found = [
            (name if "://" in name else uri(name if name.startswith("/") else f"{top}/{name}"), label, splits)
            for name, label, splits in _read_labels(labels)
        ]
    else:
        with reaching(root):
            if not fs.exists(top):
                raise FileNotFoundError("no folder or video there")
            paths = [top] if fs.isfile(top) else files_below(fs, top)
        found = []
        for path in paths:
            hidden = path.rsplit("/", 1)[-1].startswith(".")
            if not hidden and path[path.rfind(".") :].lower() in EXTENSIONS:
                above = path.removeprefix(top).strip("/").split("/")[:-1]
                found.append((uri(path), above[-1] if above else None, tuple(above[-2:-1])))
    if not found:
        what = f"{labels} names no video" if labels else f"no videos at {root}: looked for {' '.join(EXTENSIONS)}"
        raise ValueError(what)
    seen: set[str] = set()
    for path, _, _ in found:
        if (known := unsigned(path)) in seen:
            raise ValueError(f"{labels}: {known} is named twice; join its splits by ';' in one row")
        seen.add(known)
    return [Video(tables.clip_id(path), path, None, label, splits) for path, label, splits in found]


def _read_labels(labels: str) -> Iterator[tuple[str, str | None, tuple[str, ...]]]:
    if not exists(labels):
        raise FileNotFoundError(f"no labels file at {labels}; wanted a CSV with the header video,label[,split]")
    with fsspec.open(labels, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            header = reader.fieldnames or []
            if not {"video", "label"} <= set(header):
                raise ValueError(f"{labels}: header is {','.join(header) or 'empty'}, wanted video,label[,split]")
            for row in reader:
                if not row["video"]:
                    raise ValueError(f"{labels}:{reader.line_num}: no video in this row")
                splits = tuple(s.strip() for s in (row.get("split") or "").split(";") if s.strip())
                yield row["video"].strip(), (row["label"] or "").strip() or None, splits
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{labels}: not UTF-8 ({error.reason}, after line {reader.line_num}); save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise ValueError(f"{labels}: not CSV ({error}, after line {reader.line_num})") from error


def hold_out(videos: Sequence[Video], share: float) -> list[Video]:
    """Give videos that have no splits one: `test` to a share of each class, `train` to the others.

    Which are tested is drawn by their names, so the same videos come out alike. It knows nothing of who is in them.

    Args:
        videos: to be sorted.
        share: of each class, in (0, 1); of two or more videos at least one is tested, and one is not.

    Raises:
        ValueError: a video has a split already.
    """
    if given := next((v for v in videos if v.splits), None):
        raise ValueError(f"{given.video} is in a split already ({', '.join(given.splits)}), so none can be drawn")
    classes: defaultdict[str | None, list[Video]] = defaultdict(list)
    for video in videos:
        classes[video.label_name].append(video)
    tested: set[str] = set()
    for of in classes.values():
        drawn = sorted(of, key=lambda v: hashlib.blake2b(v.clip_id.encode()).digest())
        count = min(max(round(share * len(of)), 1), len(of) - 1)
        tested.update(v.clip_id for v in drawn[:count])
    return [replace(v, splits=("test" if v.clip_id in tested else "train",)) for v in videos]


def number_labels(videos: Sequence[Video], known: dict[int, str], *, given: bool = False) -> list[Video]:
    """Number the labels: names a table already has keep their number, new ones follow by sorted name.

    Args:
        videos: to be numbered.
        known: number -> name of labels that have one.
        given: names that are whole numbers, all of them, are the numbers, unless known ones are others, or they are so
            large (above 1,000 and ten times their count) that they are dates or ids: a model has an output for each
            number.
    """
    names = {v.label_name for v in videos if v.label_name is not None}
    numbers = {name: number for number, name in known.items()}
    own: dict[str, int] = {}
    if given and all(name.isdecimal() and name == str(int(name)) for name in names):
        own = {name: int(name) for name in names}
    largest = max((own[name] for name in own.keys() - numbers.keys()), default=0)
    if largest > max(1000, 10 * len(own.keys() | numbers.keys())):
        log.warning("labels are numbers up to %d, which are dates or ids: they are numbered anew", largest)
        own = {}
    if own and all(numbers.get(name, n) == n and known.get(n, name) == name for name, n in own.items()):
        numbers = own
    else:
        start = max(known, default=-1) + 1
        numbers |= {name: start + i for i, name in enumerate(sorted(names - set(numbers)))}
    return [v if v.label_name is None else replace(v, label=numbers[v.label_name]) for v in videos]


DONE = 2**31 - 1
"""Attempts of a piece that is in the table."""


@dataclass(frozen=True)
class Todo:
    """What a table lacks of some videos."""

    missing: tuple[Video, ...]
    """Not in the table, or not with all their pieces, and not given up; in a fixed random order, so that classes come
    mixed and the time left is estimated well."""
    done: int
    given_up: int
    """Videos that failed, as a whole or in a piece, as often as is allowed, and have nothing else missing."""
    relabelled: int
    """Rows whose label or splits are not those of the videos any more."""


def plan(videos: Sequence[Video], table: str, *, max_attempts: int = 3, retry_failed: bool = False) -> Todo:
    """Compare videos with what a table holds and what failed.

    Args:
        videos: no clip_id twice.
        table: URI, of a table that may not exist yet.
        max_attempts: a video that failed so often is given up.
        retry_failed: forget earlier failures.
    """
    wanted = {v.clip_id: v for v in videos}
    done: set[str] = set()
    pieces: defaultdict[str, dict[str, int]] = defaultdict(dict)
    attempts: dict[str, int] = {}
    relabelled = 0
    if tables.data_files(table):
        for group in tables.read_row_groups(table, ["clip_id", "label_name", "splits"]):
            for row in group.to_pylist():
                name, (base, _) = row["clip_id"], tables.base_and_count(row["clip_id"])
                if name not in wanted and base != name:
                    name = base
                    pieces[name][row["clip_id"]] = DONE
                else:
                    done.add(name)
                video = wanted.get(name)
                now = (row["label_name"], tuple(row["splits"] or ()))
                relabelled += video is not None and (video.label_name, video.splits) != now
    for clip_id, row in ({} if retry_failed else tables.read_failures(table)).items():
        base, _ = tables.base_and_count(clip_id)
        if clip_id not in wanted and base != clip_id:
            pieces[base].setdefault(clip_id, row["attempts"])
        else:
            attempts[clip_id] = row["attempts"]
    missing = []
    given_up = 0
    for name, video in wanted.items():
        known = pieces.get(name, {})
        _, count = tables.base_and_count(next(iter(known), ""))
        settled = [n for n in known.values() if n >= max_attempts]
        ended = len(settled) == count  # never of a video that was not cut
        if name in done or (ended and set(settled) == {DONE}):
            done.add(name)
        elif attempts.get(name, 0) >= max_attempts or ended:
            given_up += 1
        else:
            missing.append(replace(video, attempts=attempts.get(name, 0), pieces=tuple(known.items())))
    random.Random(0).shuffle(missing)  # noqa: S311 - an order, not a secret
    return Todo(tuple(missing), len(done & wanted.keys()), given_up, relabelled)
