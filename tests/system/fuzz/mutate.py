"""Valid inputs, damaged: bytes flipped, cut and repeated, and JSON values replaced by nasty ones."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

NASTY: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    10**400,
    1e308,
    -1e-320,
    0.5,
    "",
    "a",
    "\0",
    "../x",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "$(touch pwned)",
    "`x`",
    "'; DROP",
    '"',
    "a\nb",
    "\x1b[2J",
    "\ud800",
    "é" * 300,
    "x" * 5000,
    [],
    {},
    [[]],
    {"": None},
    [1, 2, 3, 4],
    [0] * 100,
    "NaN",
    "Infinity",
]
TOKENS = [
    b"NaN",
    b"Infinity",
    b"-",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 2000,
    b"\\ud800",
    b"\xff",
    b"\0",
    b'"',
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The input with one to four changes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(BYTES)(data, rng)
    return data


def damaged_json(data: bytes, rng: random.Random) -> bytes:
    """JSON with values or keys exchanged; a third of the time damaged as bytes as well."""
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        content = _change(content, rng)
    text = json.dumps(content).encode()
    return damaged(text, rng) if rng.random() < 1 / 3 else text


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 64) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.randrange(1, 64)]
    return data[:start] + part * rng.randrange(1, 5) + data[start:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(TOKENS) + data[start:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = rng.randbytes(rng.randrange(1, 32))
    return data[:start] + part + data[start + len(part) :]


BYTES: list[Callable[[bytes, random.Random], bytes]] = [_flip, _flip, _cut, _remove, _repeat, _insert, _noise]


def _change(content: Any, rng: random.Random) -> Any:
    """One change somewhere inside."""
    places: list[tuple[Any, Any]] = []
    stack = [content] if isinstance(content, dict | list) else []
    while stack:
        node = stack.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    if not places:
        return copy.deepcopy(rng.choice(NASTY))
    node, key = rng.choice(places)
    what = rng.randrange(5)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[str(rng.choice(NASTY))] = node.pop(key)
    elif what == 2:
        other, place = rng.choice(places)
        node[key] = copy.deepcopy(other[place])
    elif what == 3 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    else:
        node[key] = copy.deepcopy(rng.choice(NASTY))
    return content
