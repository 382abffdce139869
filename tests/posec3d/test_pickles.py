"""Strangers' annotation pickles: what they hold comes out item by item, in little memory; nothing in them is run."""

import collections
import io
import os
import pickle
import random
import subprocess
import sys
import weakref

import numpy as np
import pytest

from posec3d.annotations import pickles
from posec3d.annotations.pickles import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def annotation(i):
    return {
        "frame_dir": f"clip{i}",
        "total_frames": 3,
        "img_shape": (20, 30),
        "label": np.int64(i % 3),
        "keypoint": np.arange(i, i + 2 * 3 * 4 * 2, dtype=np.float16).reshape(2, 3, 4, 2),
        "keypoint_score": np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4),
        "extra": [1.5, None, True, {"nested": [i, -(2**40)]}, b"\xff\x00", {"a"}],
    }


def read(data):
    return [(key, value) for key, value, _ in read_pickle(lambda: io.BytesIO(data), len(data))]


def items(pickled):
    """What is to come out, by Python's own reader."""
    if isinstance(pickled, list):
        return [(None, item) for item in pickled]
    return [(key, item) for key, value in pickled.items() for item in (value if isinstance(value, list) else [value])]


def plain(value):
    """A value that == compares, with its types."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.str, value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [type(value), *map(plain, value)] if isinstance(value, list | tuple) else value


ANNOTATIONS = [annotation(i) for i in range(5)]
MANY = [{"frame_dir": f"clip{i}", "keypoint": np.float32([i])} for i in range(1003)]  # written in batches of 1,000
FILES = {
    "list": ANNOTATIONS,
    "long list": MANY,
    "split form": {"split": {"train": [f"clip{i}" for i in range(1001)], "val": ["a"]}, "annotations": MANY},
    "one split": {"split": {"train": ["clip0", "clip1"]}, "annotations": ANNOTATIONS[:2]},
    "annotations first": {"annotations": ANNOTATIONS[:1], "split": {"train": ["clip0"]}},
    "annotations only": {"annotations": ANNOTATIONS[:3]},
    "columns": {"pose": [np.ones((i, 2)) for i in range(4)], "label": list("abcd")},
    "entries": {f"clip{i}": {"keypoint": np.full((1, 3), i)} for i in range(1002)},
    "ordered": collections.OrderedDict(split=collections.defaultdict(list, a=["x"]), annotations=ANNOTATIONS[:1]),
    "empty list": [],
    "empty dict": {},
    "empty lists": {"split": {}, "annotations": []},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", FILES)
def test_every_form_and_protocol_reads_as_python_reads_it(name, protocol):
    got, wanted = read(pickle.dumps(FILES[name], protocol)), items(FILES[name])
    assert [plain(item) for item in got] == [plain(item) for item in wanted]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.zeros((0, 17, 3), np.float32),
        np.array(7.5),
        np.array(["ab", "c"]),
        np.array([True, False]),
    ],
    ids=["big endian", "fortran order", "transposed", "empty", "no dimension", "strings", "bool"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_every_layout(array, protocol):
    (_, first), (_, second) = read(pickle.dumps([array, array + array if array.dtype.kind == "f" else array], protocol))
    for got in (first, second if array.dtype.kind != "f" else second / 2):
        assert got.shape == array.shape
        np.testing.assert_array_equal(got, array)


def test_python_2_and_numpy_1_wrote_this():
    # By hand, with strings where Python 3 has bytes: [array([1.5, -2, 0], float32), 'clip']
    data = (
        b"\x80\x02]q\x00(cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06"
        b"(K\x01K\x03\x85q\x07cnumpy\ndtype\nq\x08U\x02f4q\tK\x00K\x01\x87q\nRq\x0b(K\x03U\x01<q\x0cNNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tq\rb\x89U\x0c\x00\x00\xc0\x3f\x00\x00\x00\xc0\x00\x00\x00\x00q\x0etq\x0fbU\x04clipq\x10e."
    )
    (_, array), (_, name) = read(data)
    assert name == "clip"
    assert array.dtype == np.float32
    assert array.tolist() == [1.5, -2, 0]


def test_what_is_fetched_from_the_memo_is_the_same_thing_again():
    shape, name = (20, 30), "clip"
    annotations = [{"frame_dir": name, "img_shape": shape, "n": i} for i in range(5)]
    got = read(pickle.dumps({"split": {"train": [name]}, "annotations": annotations}, 4))
    assert [value["img_shape"] for key, value in got if key == "annotations"] == [shape] * 5
    assert got[0] == ("split", {"train": [name]})


def test_what_is_fetched_again_is_forgotten_after_that(tmp_path):
    arrays = [np.full(100_000, i, np.float64) for i in range(60)]
    data = pickle.dumps([{"once": array, "again": array} for array in arrays], 4)
    weak = []
    for _, item, _ in read_pickle(lambda: io.BytesIO(data), len(data)):
        assert item["once"] is item["again"]
        weak.append(weakref.ref(item["once"]))
        del item
        assert sum(ref() is not None for ref in weak) <= 3


def test_items_come_while_the_file_is_read():
    data = pickle.dumps({"annotations": MANY}, 4)
    positions = [position for _, _, position in read_pickle(lambda: io.BytesIO(data), len(data))]
    assert positions == sorted(positions)
    assert positions[1] < len(data) / 100
    assert len(data) / 2.2 < positions[len(positions) // 2] < len(data) / 1.8


def test_importing_takes_a_small_part_of_the_memory_of_the_file(tmp_path):
    size = 100_000_000
    keypoint = np.random.default_rng(0).random((2, 300, 17, 2)).astype(np.float16)
    count = size // keypoint.nbytes
    with (tmp_path / "big.pkl").open("wb") as file:  # as pickle writes it, but without having it all in memory
        file.write(b"\x80\x03}q\x00(" + pickle.dumps("annotations", 3)[2:-1] + b"](")
        for i in range(count):
            file.write(pickle.dumps({"frame_dir": f"clip{i}", "keypoint": keypoint}, 3)[2:-1])
            file.write(b"e(" if i % 1000 == 999 else b"")
        file.write(b"eu.")
    program = (
        "import resource, sys; from pathlib import Path; from posec3d.annotations.pickles import read_pickle\n"
        "file = Path(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(1 for _ in read_pickle(lambda: file.open('rb'), file.stat().st_size))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    out = subprocess.check_output([sys.executable, "-c", program, tmp_path / "big.pkl"], text=True)
    read_items, kilobytes = map(int, out.split())
    assert read_items == count
    assert kilobytes * 1024 < size / 10


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class State:
    """Pickles as a class of this module, with a state."""

    def __init__(self):
        self.x = 1


def asking(name, arguments=b")"):
    """A pickle of a list with one call of a function, by name."""
    module, _, function = name.rpartition(".")
    return b"\x80\x02]c" + module.encode() + b"\n" + function.encode() + b"\n" + arguments + b"Ra."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"


def array(length, data):
    """A pickle of a list with one array of so many doubles, by hand."""
    return b"\x80\x03]" + ARRAY + b"(K\x01J" + length + b"\x85" + DTYPE + b"\x89" + data + b"tba."


HOSTILE = {
    "os.system": lambda mark: pickle.dumps([Call(os.system, f"touch {mark}")]),
    "os.system as a value": lambda mark: pickle.dumps({"split": Call(os.system, f"touch {mark}"), "annotations": []}),
    "os.system outermost": lambda mark: pickle.dumps(Call(os.system, f"touch {mark}")),
    "eval": lambda mark: pickle.dumps([Call(eval, f"open({str(mark)!r}, 'w')")]),
    "exec": lambda mark: pickle.dumps([Call(exec, f"open({str(mark)!r}, 'w')")]),
    "open": lambda mark: pickle.dumps([Call(open, str(mark), "w")], 2),
    "subprocess": lambda mark: pickle.dumps([Call(subprocess.Popen, ["touch", str(mark)])]),
    "getattr": lambda mark: asking("builtins.getattr"),
    "an attribute by a dot": lambda mark: pickle.dumps([Call(bytes.fromhex, "00")]),
    "Python 2's builtins": lambda mark: asking("__builtin__.eval"),
    "numpy's load": lambda mark: asking("numpy.load"),
    "numpy's other functions": lambda mark: asking("numpy.core.multiarray.fromfile"),
    "a class of this file": lambda mark: pickle.dumps([State()]),
    "a codec": lambda mark: pickle.dumps([Call(__import__("codecs").encode, "x", "zlib")]),
    "a codec that is none": lambda mark: asking("_codecs.encode", b"X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86"),
    "REDUCE on a string": lambda mark: b"\x80\x02]X\x01\x00\x00\x00x)Ra.",
    "REDUCE without a tuple": lambda mark: b"\x80\x02]c_codecs\nencode\nX\x01\x00\x00\x00xRa.",
    "REDUCE on a class": lambda mark: b"\x80\x02]cnumpy\nndarray\n)Ra.",
    "BUILD on a function": lambda mark: b"\x80\x02]c_codecs\nencode\n}X\x01\x00\x00\x00xNsba.",
    "BUILD on a dict": lambda mark: b"\x80\x02]}}ba.",
    "BUILD on an array": lambda mark: b"\x80\x02]" + ARRAY + b"}ba.",
    "NEWOBJ": lambda mark: b"\x80\x02]cnumpy\nndarray\n)\x81a.",
    "NEWOBJ_EX": lambda mark: b"\x80\x04]cnumpy\nndarray\n)}\x92a.",
    "INST": lambda mark: b"](ios\nsystem\na.",
    "OBJ": lambda mark: b"](cos\nsystem\noa.",
    "a name from the stack": lambda mark: b"\x80\x04]\x8c\x02os\x8c\x06system\x93a.",
    "a name that is a number": lambda mark: b"\x80\x04]K\x01K\x02\x93a.",
    "EXT1": lambda mark: b"\x80\x02]\x82\x01a.",
    "EXT4": lambda mark: b"\x80\x02]\x84\x01\x00\x00\x00a.",
    "a persistent id": lambda mark: b"]Pfile\na.",
    "a persistent id from the stack": lambda mark: b"\x80\x02]NQa.",
    "a buffer of its own": lambda mark: b"\x80\x05]\x97a.",
    "Python objects in an array": lambda mark: pickle.dumps([np.array([1, "a"], object)]),
    "a structured array": lambda mark: pickle.dumps([np.zeros(2, [("a", "f4")])]),
    "dates": lambda mark: pickle.dumps([np.zeros(2, "M8[s]")]),
    "a type that is no type": lambda mark: asking("numpy.dtype", b"X\x05\x00\x00\x00f8,O8\x85"),
    "an array larger than its bytes": lambda mark: array(b"\xff\xff\xff\x7f", b"C\x01b"),
    "an array of a negative size": lambda mark: array(b"\xff\xff\xff\xff", b"C\x00"),
    "a huge string": lambda mark: b"\x80\x04]\x8e\xff\xff\xff\xff\xff\xff\xff\x00xa.",
    "a huge array": lambda mark: b"\x80\x05]\x96\x00\x00\x00\x00\x00\x01\x00\x00xa.",
    "a huge number": lambda mark: b"\x80\x02]\x8b\xff\xff\xff\x7f\x01a.",
    "a list in itself": lambda mark: b"\x80\x02]q\x00h\x00a.",
    "a tuple as a key": lambda mark: b"\x80\x02]}N\x85q\x00" + b"h\x00h\x00\x86q\x00" * 200 + b"Nsa.",
    "a list as a key": lambda mark: b"\x80\x02]}]Nsa.",
    "a memo entry that is not there": lambda mark: b"\x80\x02]h\x07a.",
    "APPEND to a dict": lambda mark: b"\x80\x02]}Naa.",
    "SETITEM of a list": lambda mark: b"\x80\x02]]NNsa.",
    "a mark that is not there": lambda mark: b"\x80\x02]e.",
    "a value that is not there": lambda mark: b"\x80\x02a.",
    "nothing": lambda mark: b"",
    "text": lambda mark: b"not a pickle at all\n",
    "a zip": lambda mark: b"PK\x03\x04" + bytes(50),
    "JSON": lambda mark: b'{"annotations": []}',
    "a string alone": lambda mark: pickle.dumps("annotations"),
    "several values": lambda mark: b"\x80\x02]].",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_runs_nothing_and_says_why_it_is_refused(name, tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(ValueError, match=r"refused|damaged|cut off|wanted|time|at most") as error:
        read(HOSTILE[name](mark))
    assert len(str(error.value)) < 500
    assert not mark.exists()


def test_the_error_names_what_was_asked_for():
    for data, named in (
        (pickle.dumps([Call(os.system, "true")]), "posix.system"),
        (asking("builtins.getattr"), "builtins.getattr"),
        (pickle.dumps([np.array([None])]), "Python objects"),
        (b"\x80\x02]\x82\x01a.", "EXT1"),
        (b"\x80\x02]X\x01\x00\x00\x00x)Ra.", "a str"),
        (
            b"\x80\x03]" + ARRAY.replace(b"cnumpy\nndarray", b"ccollections\nOrderedDict") + b"a.",
            "a NumPy array that is collections",
        ),
    ):
        with pytest.raises(ValueError, match=f"{named}.*nothing in it was run"):
            read(data)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x80\x02](" + b"N" * 11_000 + b"e.",
        b"\x80\x02]" + b"(" * 11_000,
        b"\x80\x02]}" + b"]" * 11_000,
        b"\x80\x02]N" + b"\x85" * 51_000 + b"a.",
        b"\x80\x02]q\x00N\x85" + b"q\x01h\x01h\x01\x86" * 13_000 + b"a.",
    ],
    ids=["values", "marks", "lists", "nested tuples", "doubled tuples"],
)
def test_a_pickle_that_grows_in_memory_is_stopped(bomb, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STACK", 10_000)
    monkeypatch.setattr(pickles, "MAX_STEPS", 50_000)
    with pytest.raises(ValueError, match="more than"):
        read(bomb)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_file_is_an_error_wherever_it_ends(protocol):
    data = pickle.dumps({"split": {"train": ["clip0"]}, "annotations": ANNOTATIONS[:2]}, protocol)
    for end in range(0, len(data) - 1, 3):
        with pytest.raises(ValueError, match=r"damaged|cut off"):
            read(data[:end])


def test_damage_is_an_error_or_other_data_but_never_a_crash():
    rng = random.Random(0)  # noqa: S311
    originals = [pickle.dumps(FILES["one split"], protocol) for protocol in PROTOCOLS]
    refused = 0
    for _ in range(1500):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice((1, 3))):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        try:
            read(bytes(data))
        except ValueError:
            refused += 1
    assert refused > 500
