"""Segments: their names, their headers and their bytes.

A commit is the object `ledger/NUMBER.jsonl`: a header line and one line a record. 16**level commits whose first number
is a multiple of that merge into `ledger/FIRST-LAST.jsonl.gz`. So two segments are disjoint or one holds the other, and
whoever merges a range writes the same records.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import IO, cast

from archsearch.errors import StoreError
from archsearch.spec.base import JsonObject
from archsearch.store import Store

FORMAT_VERSION = 1
FOLDER = "ledger"
FAN = 16
TOP_LEVEL = 7  # 268 million commits in one segment
_NAME = re.compile(FOLDER + r"/(\d{12})(?:\.jsonl|-(\d{12})\.jsonl\.gz)")
_BLOCK_BYTES = 1 << 20
_COMPRESSION = 4


class LedgerDamaged(StoreError):
    """The ledger's objects contradict each other or are not what they say."""


@dataclass(frozen=True, order=True)
class Span:
    """The commits `first` to `last` of one segment; `last - first + 1` is a power of 16."""

    first: int
    last: int

    @classmethod
    def parse(cls, key: str) -> Span | None:
        match = _NAME.fullmatch(key)
        return cls(int(match[1]), int(match[2] or match[1])) if match else None

    @property
    def merged(self) -> bool:
        return self.last > self.first

    @property
    def key(self) -> str:
        return (
            f"{FOLDER}/{self.first:012d}-{self.last:012d}.jsonl.gz"
            if self.merged
            else f"{FOLDER}/{self.first:012d}.jsonl"
        )

    @property
    def parent(self) -> Span:
        width = (self.last - self.first + 1) * FAN
        first = self.first // width * width
        return Span(first, first + width - 1)

    @property
    def children(self) -> list[Span]:
        width = (self.last - self.first + 1) // FAN
        return [Span(first, first + width - 1) for first in range(self.first, self.last + 1, width)]


def single(number: int) -> Span:
    return Span(number, number)


@dataclass(frozen=True)
class Header:
    """The first line of a segment.

    Attributes:
        epoch, writer: Who wrote it; of a merged segment the last of its commits' writers.
        nonce: Random, one for each time that a ledger was opened.
        base: Number of records in all segments before this one.
        records: Number of records in this one.
        claims: Numbers of the commits in it that claim an epoch. Their own objects are never deleted: they stand where
            a fenced driver would write next, however late it comes.
        crc32: Of what follows the header; 0 in merged segments, where gzip has its own.
    """

    first: int
    last: int
    epoch: int
    writer: str
    nonce: str
    base: int
    records: int
    claims: tuple[int, ...] = ()
    crc32: int = 0

    @property
    def span(self) -> Span:
        return Span(self.first, self.last)

    def line(self) -> bytes:
        return json.dumps({"formatVersion": FORMAT_VERSION, **asdict(self)}, separators=(",", ":")).encode() + b"\n"


def list_spans(store: Store) -> dict[Span, int]:
    """All segments in the store and their sizes in bytes, in order, the wider of two that start together first."""
    found = {span: info.size for info in store.list(f"{FOLDER}/") if (span := Span.parse(info.key)) is not None}
    return dict(sorted(found.items(), key=lambda item: (item[0].first, -item[0].last)))


def covering(store: Store, number: int) -> Span | None:
    """The merged segment that holds a commit, if there is one.

    Asks from narrow to wide: a narrow one is deleted only after a wider one is there, so none slips through.
    """
    span = single(number)
    for _ in range(TOP_LEVEL):
        span = span.parent
        if store.exists(span.key):
            return span
    return None


def encode_record(record: JsonObject) -> bytes:
    """One compact line.

    Raises:
        ValueError, TypeError: it is no JSON (NaN and infinities are none).
    """
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def encode_commit(header: Header, body: bytes) -> bytes:
    return header.line() + body


def open_segment(span: Span, data: bytes) -> tuple[Header, IO[bytes]]:
    """Header and body of a segment's object.

    Raises:
        LedgerDamaged
    """
    raw = io.BytesIO(data)
    body = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if span.merged else raw
    try:
        fields = json.loads(body.readline())
        version = fields.pop("formatVersion")
        if version != FORMAT_VERSION:
            raise LedgerDamaged(
                f"{span.key} has the format version {version}, this archsearch reads {FORMAT_VERSION}: "
                "use the one that wrote it"
            )
        header = Header(**{**fields, "claims": tuple(fields["claims"])})
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zlib.error) as error:
        raise LedgerDamaged(f"{span.key} is no segment of a ledger: {error}") from error
    if header.span != span:
        raise LedgerDamaged(f"{span.key} holds the commits {header.first} to {header.last}: the object was renamed")
    if not span.merged and zlib.crc32(memoryview(data)[body.tell() :]) != header.crc32:
        raise LedgerDamaged(f"{span.key} is damaged: its CRC-32 sum differs")
    return header, body


def read_records(header: Header, body: IO[bytes], skip: int = 0) -> Iterator[list[JsonObject]]:
    """The records of an opened segment but for the first `skip`, many at a time.

    Raises:
        LedgerDamaged
    """
    count = 0
    try:
        while block := body.read(_BLOCK_BYTES):
            block += body.readline()
            # One array is parsed twice as fast as its lines; a line break cannot stand inside a record.
            records = json.loads(b"[" + block[:-1].replace(b"\n", b",") + b"]")
            count += len(records)
            wanted = len(records) - (count - skip)  # index of the first wanted one in this block
            yield records[wanted:] if wanted > 0 else records
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise LedgerDamaged(f"{header.span.key} is damaged after {count} records: {error}") from error
    if count != header.records:
        raise LedgerDamaged(f"{header.span.key} holds {count} records, its header says {header.records}")


def merge_segments(span: Span, parts: Sequence[bytes]) -> tuple[Header, bytes]:
    """The segment of `span` from the objects of its children. Memory: the compressed parts and the result.

    Raises:
        LedgerDamaged: the parts do not follow each other.
    """
    opened = [open_segment(child, data) for child, data in zip(span.children, parts, strict=True)]
    headers = [header for header, _ in opened]
    for before, after in pairwise(headers):
        if after.base != before.base + before.records or after.epoch < before.epoch:
            raise LedgerDamaged(f"{after.span.key} does not continue {before.span.key}: two drivers wrote at once")
    header = Header(
        first=span.first,
        last=span.last,
        epoch=headers[-1].epoch,
        writer=headers[-1].writer,
        nonce=headers[-1].nonce,
        base=headers[0].base,
        records=sum(part.records for part in headers),
        claims=tuple(claim for part in headers for claim in part.claims),
    )
    target = io.BytesIO()
    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=_COMPRESSION, mtime=0, filename="") as file:
        file.write(header.line())
        for _, body in opened:
            shutil.copyfileobj(body, file, _BLOCK_BYTES)
    return header, target.getvalue()
