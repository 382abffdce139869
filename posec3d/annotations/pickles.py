"""Annotations -> table: a pickle of containers, numbers, strings and NumPy arrays -> its items, one after the other.

A pickle is a program for a small machine that can call any function of Python. Here is a machine that calls none: it
knows how annotation files build what they hold, and refuses every other program by name. It hands the items out while
it reads and forgets them, so that a file of any size takes the memory of one item. Of what a pickle writes into its
memo, which is nearly everything, it keeps what is fetched from there, until it is fetched for the last time; a first
reading finds out when that is.
"""

import contextlib
import pickletools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from posec3d.annotations.pickle_names import REMEDY, call, check_key, kind, named, set_state
from posec3d.annotations.source import BROKEN_ZIP

MAX_ITEM_BYTES = 2**29
"""Longest string or array that is read, whatever length the file declares."""
MAX_STEPS = 5_000_000
"""Instructions between two items that are handed out; the names of a million clips take three million."""
MAX_ITEMS = 10_000_000
"""Items of a file."""
MAX_STACK = 1_000_000
"""Values that wait to be put into a container; Python's own writers put a thousand at a time."""

_MARK = object()
_GETS = ("BINGET", "LONG_BINGET", "GET")


def read_pickle(
    open_file: Callable[[], BinaryIO], size: int, layout: "Layout | None" = None
) -> Iterator[tuple[Any, Any, int]]:
    """Read a pickle item by item.

    Args:
        open_file: opens it at its start.
        size: its bytes.
        layout: from `lay_out`, for who reads it more than once; else it is made first.

    Yields:
        key, value and the position in the file. A pickled list: each of its items, with the key None. A pickled dict:
        each of its values with its key, but of a value that is a list each item, with the key of the list.

    Raises:
        ValueError: no pickle, damaged, of something else than a list or dict, or one that asks for anything that an
            annotation file has no need of; the message names it.
    """
    layout = layout or lay_out(open_file, size)
    with open_file() as file, _no_other_errors():
        yield from _Machine(layout).run(_Bounded(file, size))


def lay_out(open_file: Callable[[], BinaryIO], size: int) -> "Layout":
    """Read a pickle for the first time, from its start to its end, without building anything.

    Raises:
        ValueError: no pickle, damaged, or one that would take more memory than annotations do.
    """
    with open_file() as file, _no_other_errors():
        return _lay_out(_Bounded(file, size))


@contextlib.contextmanager
def _no_other_errors() -> Iterator[None]:
    try:
        yield
    # In an order that no writer has, or in a zip that is damaged further on.
    except (TypeError, IndexError, KeyError, OverflowError, MemoryError, *BROKEN_ZIP) as error:
        raise ValueError(f"damaged, or no pickle of annotations ({type(error).__name__}: {error})"[:300]) from error


def first_key(open_file: Callable[[], BinaryIO], size: int) -> Any:
    """The first key of a pickled dict, None for any other pickle; reads a few bytes.

    Raises:
        ValueError: no pickle.
    """
    outermost = None
    with open_file() as file, _no_other_errors():
        for name, argument, _ in _instructions(_Bounded(file, size)):
            if outermost is None and name in ("EMPTY_DICT", "DICT", "GLOBAL", "STACK_GLOBAL", "EMPTY_LIST", "STOP"):
                outermost = name
                if outermost != "EMPTY_DICT":
                    return None
            elif outermost is not None and isinstance(argument, str):
                return argument
            elif name == "STOP":
                return None
    return None


class _Bounded:
    """What pickletools reads from: never more than there is, or than fits, whatever length a pickle declares."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def read(self, length: int) -> bytes:
        if length > self._size - self._at and length > 1:
            raise ValueError(
                f"cut off: byte {self._at} announces {length} bytes and the file ends after {self._size - self._at}"
            )
        if length > MAX_ITEM_BYTES:
            raise ValueError(f"a string or array of {length} bytes at byte {self._at}, wanted at most {MAX_ITEM_BYTES}")
        data = self._file.read(length)
        self._at += len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(MAX_ITEM_BYTES)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at


def _instructions(file: _Bounded) -> Iterator[tuple[str, Any, int]]:
    """Names of the instructions of a pickle, their arguments and where they begin."""
    try:
        for instruction, argument, position in pickletools.genops(file):  # type: ignore[arg-type]
            yield instruction.name, argument, position or 0
    except ValueError as error:
        text = str(error)
        what = text if text.startswith(("cut off", "a string")) else f"damaged, cut off or no pickle: {text}"
        raise ValueError(f"{what[:300]}; make or fetch the file again") from error
    except (OverflowError, MemoryError) as error:
        raise ValueError(f"damaged or no pickle ({type(error).__name__})") from error


@dataclass
class Layout:
    """What the first reading finds out, all of it as positions in the file or numbers of the memo."""

    fetched: dict[int, int] = field(default_factory=dict)
    """Entries of the memo that are fetched, and where for the last time."""
    lists: set[int] = field(default_factory=set)
    """Lists whose items are handed out."""
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    """Where the next item begins, of those that are written in batches: what came before is complete then."""


def _lay_out(file: _Bounded) -> Layout:
    # The stack has, of each value, where its first instruction is.
    layout, stack, marks = Layout(), list[int](), list[int]()
    candidates: dict[int, array[int]] = {}  # lists that may be values of the outermost dict -> starts of their items
    for name, argument, position in _instructions(file):
        pops, pushes, to_mark = _EFFECTS[name]
        if name in _GETS:
            layout.fetched[argument] = position
        if name == "MARK":
            marks.append(len(stack))
        if name == "STOP":
            break
        first = position
        if to_mark:
            start = marks.pop()
            values, first = stack[start + 1 :], stack[start]
            del stack[start:]
        else:
            values = stack[len(stack) - pops :] if pops else []
            del stack[len(stack) - pops :]
            first = values[0] if pops else position
        if name in ("APPENDS", "SETITEMS", "ADDITEMS"):  # what they add to stays below the mark
            first = stack.pop()
        elif name in ("APPEND", "SETITEM"):
            values = values[1:]
        stack += [first] * pushes
        if len(stack) > MAX_STACK:
            raise ValueError(f"byte {position}: more than {MAX_STACK} values outside of any container")
        if name in ("APPEND", "APPENDS") and _may_be_handed_out(len(stack) - 1, marks):
            candidates.setdefault(first, array("Q")).extend(values if to_mark else [])
        elif name in ("SETITEM", "SETITEMS") and len(stack) == 1:
            for value in values[1::2]:
                if value in candidates:
                    layout.lists.add(value)
                    layout.starts += candidates[value]
            candidates.clear()
            layout.starts.extend(values[::2] if to_mark else [])
        if max(len(layout.starts), len(layout.fetched)) > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS} items or entries of the memo; no data set has so many clips")
    if stack and stack[0] in candidates:
        layout.lists.add(stack[0])
        layout.starts += candidates[stack[0]]
    layout.starts = array("Q", sorted(layout.starts))
    return layout


def _may_be_handed_out(place: int, marks: list[int]) -> bool:
    """Whether a list at this place of the stack is the outermost container, or can be a value of the outermost dict.

    Under it are then that dict, perhaps a mark, keys and values. A dict that begins a value looks the same until its
    items are set.
    """
    return place == 0 or (marks in ([], [1]) and (place - len(marks)) % 2 == 0)


class _HandedOut(list[Any]):
    """Stands in the place of a list whose items are handed out."""


class _Machine:
    """Runs a pickle. `stack` holds what is being built, marks among it, the outermost container at the bottom."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.memo: dict[int, Any] = {}
        self.memoized = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []

    def run(self, file: _Bounded) -> Iterator[tuple[Any, Any, int]]:
        starts = iter(self.layout.starts)
        start, steps = next(starts, -1), 0
        for name, argument, position in _instructions(file):
            items: Iterable[tuple[Any, Any]] = ()
            if position == start:
                items, start = self.flush(), next(starts, -1)
            if name in _CONSTANTS:
                constant = _CONSTANTS[name](argument)
                self.stack.append(_HandedOut() if position in self.layout.lists else constant)
            elif name in ("APPEND", "APPENDS"):
                items = [*items, *self.append(self.popped(name == "APPENDS"))]
            elif name in ("SETITEM", "SETITEMS"):
                items = [*items, *self.set_items(self.popped(name == "SETITEMS", 2))]
            elif name == "STOP":
                break
            elif name not in ("PROTO", "FRAME"):
                step = getattr(self, f"do_{name.lower()}", None)
                if step is None:
                    raise ValueError(f"the pickle instruction {name} at byte {position}: {REMEDY}")
                step(argument)
                if name in _GETS and self.layout.fetched[argument] == position:
                    self.memo.pop(argument)
                if name == "LIST" and position - 1 in self.layout.lists:  # protocol 0: a mark and LIST, for []
                    self.stack[-1] = _HandedOut()
            steps += 1
            for key, value in items:
                steps = 0
                yield key, value, position
            if steps > MAX_STEPS:
                raise ValueError(f"byte {position}: more than {MAX_STEPS} instructions for one item")
        if len(self.stack) != 1 or not isinstance(self.stack[0], list | dict):
            what = kind(self.stack[0]) if self.stack else "nothing"
            raise ValueError(f"a pickle of {what}, wanted one of a list or a dict of annotations")

    def flush(self) -> list[tuple[Any, Any]]:
        """Take out what is complete above the topmost mark: items of a list, or keys and values of a dict."""
        values = self.stack[self.marks[-1] + 1 :]
        del self.stack[self.marks[-1] + 1 :]
        below = self.stack[: self.marks[-1]]
        return self.set_items(values, below[-1]) if isinstance(below[-1], dict) else self.append(values, below)

    def popped(self, marked: bool, count: int = 1) -> list[Any]:
        """What lies above the topmost mark, or so many values."""
        start = self.marks.pop() if marked else len(self.stack) - count
        values = self.stack[start + marked :]
        if start < 0 or any(value is _MARK for value in values):
            raise ValueError("damaged: the pickle takes a value that is not there")
        del self.stack[start:]
        return values

    def append(self, values: list[Any], below: list[Any] | None = None) -> list[tuple[Any, Any]]:
        """Add to the list on top of `below`; what is to be handed out is returned with its key instead."""
        below = self.stack if below is None else below
        target = below[-1]
        if isinstance(target, _HandedOut):
            key = below[-2] if len(below) > 1 else None
            return [(key, value) for value in values]
        if not isinstance(target, list):
            raise ValueError(f"the pickle adds items to {kind(target)}, wanted a list")
        target.extend(values)
        return []

    def set_items(self, values: list[Any], target: Any = None) -> list[tuple[Any, Any]]:
        """Fill the dict on top; keys and values of the outermost one are returned instead."""
        target = self.stack[-1] if target is None else target
        if not isinstance(target, dict):
            raise ValueError(f"the pickle sets items of {kind(target)}, wanted a dict: {REMEDY}")
        pairs = [(check_key(key), value) for key, value in zip(values[::2], values[1::2], strict=True)]
        if target is not self.stack[0]:
            target.update(pairs)
            return []
        # Lists are empty here, or were fetched from the memo.
        return [(key, item) for key, value in pairs for item in (value if isinstance(value, list) else [value])]

    def keep(self, index: int) -> None:
        """Write the top of the stack into the memo, if it is ever fetched from there."""
        if index in self.layout.fetched:
            if isinstance(self.stack[-1], _HandedOut):
                raise ValueError("the pickle refers to its list of annotations a second time")
            self.memo[index] = self.stack[-1]

    def do_memoize(self, _: None) -> None:
        self.keep(self.memoized)
        self.memoized += 1

    def do_put(self, index: int) -> None:
        self.keep(index)

    do_binput = do_long_binput = do_put

    def do_get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"damaged: the pickle fetches entry {index} of its memo, which is not there")
        self.stack.append(self.memo[index])

    do_binget = do_long_binget = do_get

    def do_mark(self, _: None) -> None:
        self.marks.append(len(self.stack))
        self.stack.append(_MARK)

    def do_tuple(self, _: None) -> None:
        self.stack.append(tuple(self.popped(True)))

    def do_tuple1(self, _: None) -> None:
        self.stack.append(tuple(self.popped(False, 1)))

    def do_tuple2(self, _: None) -> None:
        self.stack.append(tuple(self.popped(False, 2)))

    def do_tuple3(self, _: None) -> None:
        self.stack.append(tuple(self.popped(False, 3)))

    def do_list(self, _: None) -> None:
        self.stack.append(self.popped(True))

    def do_dict(self, _: None) -> None:
        values = self.popped(True)
        for key in values[::2]:
            check_key(key)
        self.stack.append(dict(zip(values[::2], values[1::2], strict=True)))

    def do_additems(self, _: None) -> None:
        values = self.popped(True)
        if not isinstance(self.stack[-1], set):
            raise ValueError(f"the pickle adds items to {kind(self.stack[-1])}, wanted a set")
        self.stack[-1].update(map(check_key, values))

    def do_frozenset(self, _: None) -> None:
        self.stack.append(set(map(check_key, self.popped(True))))

    def do_global(self, argument: str) -> None:
        self.stack.append(named(*argument.split(" ", 1)))

    def do_stack_global(self, _: None) -> None:
        module, name = self.popped(False, 2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError(f"the pickle asks for a function whose name is {kind(name)}; {REMEDY}")
        self.stack.append(named(module, name))

    def do_reduce(self, _: None) -> None:
        function, arguments = self.popped(False, 2)
        self.stack.append(call(function, arguments))

    def do_build(self, _: None) -> None:
        thing, state = self.popped(False, 2)
        set_state(thing, state)
        self.stack.append(thing)


def _same(value: Any) -> Any:
    return value


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys("INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT".split(), _same),
    **dict.fromkeys("STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split(), _same),
    **dict.fromkeys("BINBYTES SHORT_BINBYTES BINBYTES8".split(), _same),
    "BYTEARRAY8": bytes,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_SET": lambda _: set(),
}
_EFFECTS = {
    op.name: (len(op.stack_before), len(op.stack_after), pickletools.markobject in op.stack_before)
    for op in pickletools.opcodes
}
"""Of each instruction: how many values it takes, how many it leaves, and whether it takes all down to a mark."""
