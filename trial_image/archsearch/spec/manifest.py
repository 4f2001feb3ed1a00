"""One YAML document, read safely: no tags that make objects, no duplicate keys, no alias bombs, bounded size and depth.

Scalars are read as kubectl reads them: 1e-3 is a number, a date and 1:30 are text.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from archsearch.spec.base import JsonObject
from archsearch.spec.problems import Problem, SpecError

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 100_000  # aliases expanded
_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's numbers and without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag.rsplit(":", 1)[-1] in ("bool", "null", "merge")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*|0o?[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).lower()
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1] not in "xo":
        digits = f"0o{digits}"
    return sign * int(digits, 0)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def read_manifest(source: Path | str) -> JsonObject:
    """The mapping in a file (a path) or in a text (a string).

    Raises:
        SpecError: it cannot be read, or is not one plain YAML mapping; the problem names file, line and what to change.
    """
    origin = str(source) if isinstance(source, Path) else "manifest"
    text = _text(source, origin)
    if len(text.encode()) > MAX_BYTES:
        raise _error(
            origin, f"is larger than {MAX_BYTES // 1024} KiB", "a manifest holds no data: name a file or a store"
        )
    document = parse_yaml(text, origin)
    if document is None:
        raise _error(origin, "is empty", "write a NASExperiment")
    if not isinstance(document, dict):
        raise _error(
            origin, f"holds a {type(document).__name__}, not a mapping", "start with apiVersion, kind, metadata, spec"
        )
    return document


def parse_yaml(text: str, origin: str) -> Any:
    """The value of one YAML text, JSON types only.

    Raises:
        SpecError: see `read_manifest`.
    """
    try:
        _scan(text, origin)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _expanded(root, origin, {})
            value = loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin} line {mark.line + 1}, column {mark.column + 1}" if mark else origin
        detail = ", ".join(part for part in (error.context, error.problem) if part)
        raise _error(where, f"is not YAML: {detail}", "indent with spaces and quote text that holds : or #") from None
    except (yaml.YAMLError, ValueError) as error:
        raise _error(origin, f"is not YAML: {error}", "save it as UTF-8 text without control characters") from None
    return value


def _text(source: Path | str, origin: str) -> str:
    if isinstance(source, str):
        return source
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _error(origin, f"cannot be read: {error.strerror or error}", "give the path of a manifest") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) > MAX_BYTES and error.start >= MAX_BYTES - 4:
            return "#" * (MAX_BYTES + 1)
        raise _error(origin, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None


def _scan(text: str, origin: str) -> None:
    """What the event stream shows before anything is built: tags, depth, more than one document."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = _where(event, origin)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _error(where, "starts a second document", "keep one NASExperiment in a file")
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _CORE_TAGS and tag != "!":
            raise _error(where, f"has the tag {_shown(tag)}; a manifest makes no objects", "remove the tag")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _error(where, f"is nested more than {MAX_DEPTH} deep", "flatten it")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _where(place: yaml.Event | yaml.Node, origin: str) -> str:
    mark = place.start_mark
    return f"{origin} line {mark.line + 1}" if mark else origin


def _shown(tag: str) -> str:
    prefix = "tag:yaml.org,2002:"
    return f"!!{tag.removeprefix(prefix)}" if tag.startswith(prefix) else tag


def _expanded(node: yaml.Node, origin: str, sizes: dict[int, int | None]) -> int:
    """Nodes below `node` with every alias written out; refuses bombs, loops, duplicate and non-text keys, NaN."""
    where = _where(node, origin)
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise _error(where, "has an alias that holds itself", "write it out")
        return known
    sizes[id(node)] = None
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_expanded(child, origin, sizes) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node, origin)
        size += sum(_expanded(child, origin, sizes) for _, child in node.value)
    elif node.tag.endswith(":float") and not math.isfinite(_float(node.value)):
        raise _error(where, f"has the number {node.value}, which JSON cannot hold", "give a finite number")
    if size > MAX_NODES:
        raise _error(
            where, f"grows to more than {MAX_NODES} values when its aliases are written out", "use fewer aliases"
        )
    sizes[id(node)] = size
    return size


def _float(text: str) -> float:
    plain = text.lower().replace("+.", ".").removeprefix("-")
    return math.inf if plain == ".inf" else math.nan if plain == ".nan" else float(plain)


def _check_keys(node: yaml.MappingNode, origin: str) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        where = _where(key, origin)
        if key.tag.endswith(":merge"):
            continue
        if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(":str"):
            shown = getattr(key, "value", "a collection")
            raise _error(where, f"has the key {shown}, which is not text", "put the key in quotes")
        if key.value in seen:
            raise _error(
                where, f"has the key {key.value!r} again; it stands in line {seen[key.value]} too", "keep one of them"
            )
        seen[key.value] = key.start_mark.line + 1


def _error(where: str, message: str, remedy: str) -> SpecError:
    return SpecError([Problem(where, message, remedy=remedy)])
