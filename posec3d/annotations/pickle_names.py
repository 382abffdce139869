"""Annotations -> table: what a pickle may ask for. It gets names, and the few things here that belong to the names."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

REMEDY = "refused, and nothing in it was run; an annotation file holds containers, numbers, strings and NumPy arrays"
_NUMPY = {"numpy.core", "numpy._core"}  # the first before NumPy 2
_DTYPE = re.compile(r"[<>=|]?([biuf][0-9]{1,2}|[SU][1-9][0-9]{0,8})")


class Name:
    """A function or class that a pickle asks for: a name, and nothing that could be called."""

    def __init__(self, name: str) -> None:
        self.name = name


def named(module: str, name: str) -> Name:
    """What a pickle gets that asks for a function or class.

    Raises:
        ValueError: annotation files have no need of it.
    """
    package, _, last = module.rpartition(".")
    full = f"{'numpy' if package in _NUMPY and last in ('multiarray', 'numeric') else module}.{name}"
    full = full.replace("__builtin__.", "builtins.", 1)
    if full not in _BUILDERS:
        raise ValueError(f"the pickle asks for {module[:100]}.{name[:100]}: {REMEDY}")
    return Name(full)


def call(function: Any, arguments: Any) -> Any:
    """What a pickle gets that calls a function.

    Raises:
        ValueError: it is none of those here, or not with these arguments.
    """
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError(f"the pickle calls {kind(function)}: {REMEDY}")
    return _BUILDERS[function.name](*arguments)


def set_state(thing: Any, state: Any) -> None:
    """Give a new array its content, or a type of numbers its byte order.

    Raises:
        ValueError: it is something else, or they do not fit.
    """
    if isinstance(thing, np.ndarray) and thing.size == 0 and isinstance(state, tuple) and len(state) == 5:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin-1") if isinstance(data, str) else data  # from Python 2
        _check_array(shape, dtype, data)
        thing.__setstate__((1, shape, dtype, fortran is True or fortran == 1, data))  # type: ignore[arg-type]
    elif isinstance(thing, np.dtype) and isinstance(state, tuple) and len(state) == 8:
        _, order, *inner, size, alignment, flags = state
        plain = all(part is None for part in inner) and isinstance(order, str) and order in ("<", ">", "|")
        if (
            not plain
            or size not in (-1, thing.itemsize)
            or alignment not in (-1, thing.alignment)
            or flags != thing.flags
        ):
            raise ValueError(f"a NumPy type that is no plain number or string: {REMEDY}")
        thing.__setstate__((3, order, None, None, None, size, alignment, thing.flags))  # type: ignore[attr-defined]
    else:
        raise ValueError(f"the pickle sets attributes of {kind(thing)}: {REMEDY}")


def kind(thing: Any) -> str:
    """What something is, for a message."""
    if isinstance(thing, Name):
        return thing.name
    if type(thing) is object:  # a mark
        return "nothing"
    article = "an" if type(thing).__name__[0] in "aeiou" else "a"
    return f"{article} {type(thing).__name__}"


def check_key(key: Any) -> Any:
    """A key of a dict, or an item of a set.

    Raises:
        ValueError: it is no plain value.
    """
    # A tuple may be nested so that its hash takes for ever, or all of the C stack.
    if not isinstance(key, str | int | float | bytes | np.generic | None):
        raise ValueError(f"the pickle has {kind(key)} as the key of a dict, wanted a string or number")
    return key


def _check_array(shape: Any, dtype: Any, data: Any) -> None:
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"a NumPy array of {kind(dtype)}: {REMEDY}")
    if not isinstance(shape, tuple) or len(shape) > 16 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a NumPy array whose shape is not as wanted, a tuple of whole numbers")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
        got = f"{len(data)} bytes" if isinstance(data, bytes) else kind(data)
        raise ValueError(f"a NumPy array of {got}, wanted {math.prod(shape)} times {dtype.itemsize} bytes")


def _dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        what = "Python objects" if isinstance(code, str) and code.lstrip("|<>=").startswith("O") else kind(code)
        what = repr(code[:40]) if what == "a str" else what
        raise ValueError(f"a NumPy array of {what}, wanted numbers or strings of a fixed length: {REMEDY}")
    return np.dtype(code, copy=True)  # a copy: its byte order is set later


def _reconstruct(of: Any, shape: Any, code: Any) -> np.ndarray:
    if not isinstance(of, Name) or of.name != "numpy.ndarray":
        raise ValueError(f"a NumPy array that is {kind(of)}: {REMEDY}")
    return np.zeros(0)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> np.ndarray:
    _check_array(shape, dtype, data)
    array = np.frombuffer(data, dtype)
    if order == "K" and isinstance(axes, tuple) and sorted(axes) == list(range(len(shape))):
        return array.reshape(shape).transpose(axes)
    if order not in ("C", "F"):
        raise ValueError(f"a NumPy array in an order that is {kind(order)}: {REMEDY}")
    return array.reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    data = data.encode("latin-1") if isinstance(data, str) else data
    _check_array((), dtype, data)
    return np.frombuffer(data, dtype)[0]


def _encode(text: Any, codec: Any) -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise ValueError(f"the pickle encodes {kind(text)}: {REMEDY}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""  # of an empty array, before protocol 3


def _mapping(*arguments: Any) -> dict[Any, Any]:
    if not all(isinstance(a, Name) and a.name in ("builtins.list", "builtins.dict") for a in arguments):
        raise ValueError(f"a dict with arguments of its own: {REMEDY}")
    return {}


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, list | tuple):
        raise ValueError(f"a set of {kind(items)}")
    return set(map(check_key, items))


def _never(*arguments: Any) -> Any:
    raise ValueError(f"the pickle calls a class itself: {REMEDY}")


_BUILDERS: dict[str, Callable[..., Any]] = {
    "numpy._reconstruct": _reconstruct,
    "numpy._frombuffer": _frombuffer,
    "numpy.scalar": _scalar,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _never,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "builtins.set": _set,
    "builtins.bytes": _no_bytes,
    "builtins.list": _never,
    "builtins.dict": _never,
}
"""What builds the things that an annotation file holds; the names are all that a pickle gets hold of."""
