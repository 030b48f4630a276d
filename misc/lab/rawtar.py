"""Tar members written byte by byte, so that they may be as odd as the tars of the world are."""

import os
from typing import BinaryIO, Callable

EPOCH = 1717200000  # 2024-06-01: the default time of everything, so that images come out the same each time

BLOCK = 512
REGULAR, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO, CONTIGUOUS, GNU_SPARSE = (
    b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S")
USTAR, GNU, V7 = b"ustar\x0000", b"ustar  \0", b"\0" * 8


def pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % BLOCK)


def pax_record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`, where the length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def number(value: int, width: int) -> bytes:
    """Octal where it fits, else GNU's base 256 (also for negative numbers)."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0x80 if value >= 0 else 0xFF]) + value.to_bytes(width - 1, "big", signed=True)


def header(name: bytes, kind: bytes = REGULAR, mode: int = 0o644, uid: int = 0, gid: int = 0, size: int = 0,
           mtime: int = EPOCH, link: bytes = b"", device: tuple[int, int] = (0, 0), prefix: bytes = b"",
           magic: bytes = USTAR) -> bytes:
    """One header block."""
    block = bytearray(BLOCK)

    def put(offset: int, width: int, value: bytes) -> None:
        block[offset:offset + min(len(value), width)] = value[:width]

    put(0, 100, name), put(100, 8, number(mode, 8)), put(108, 8, number(uid, 8)), put(116, 8, number(gid, 8))
    put(124, 12, number(size, 12)), put(136, 12, number(mtime, 12)), put(156, 1, kind), put(157, 100, link)
    put(257, 8, magic)
    if magic != V7:
        put(329, 8, number(device[0], 8)), put(337, 8, number(device[1], 8)), put(345, 155, prefix)
    put(148, 8, b"        ")
    put(148, 8, b"%06o\0 " % sum(block))
    return bytes(block)


class TarWriter:
    """Writes members to a sink. Names are bytes or text; nothing is checked or tidied."""

    def __init__(self, write: Callable[[bytes], object]):
        self.write = write

    def add(self, name, kind: bytes = REGULAR, data: bytes = b"", *, file: BinaryIO | None = None, size: int | None = None,
            mode: int | None = None, uid: int = 0, gid: int = 0, mtime: int = EPOCH, nanos: int = 0, link=b"",
            device: tuple[int, int] = (0, 0), xattrs: dict[str, bytes] | None = None,
            pax: dict[bytes, bytes] | None = None) -> None:
        """A member; what ustar cannot say goes to a PAX header before it."""
        name, link = os.fsencode(name), os.fsencode(link)
        size = len(data) if size is None else size
        mode = (0o755 if kind == DIRECTORY else 0o777 if kind == SYMLINK else 0o644) if mode is None else mode
        records = {b"SCHILY.xattr." + key.encode(): value for key, value in (xattrs or {}).items()}
        if nanos:
            records[b"mtime"] = b"%d.%09d" % (mtime, nanos)
        for key, value, limit in ((b"path", name, 100), (b"linkpath", link, 100)):
            if len(value) > limit or any(byte >= 128 for byte in value):
                records[key] = value
        for key, value, limit in ((b"uid", uid, 8**7), (b"gid", gid, 8**7), (b"size", size, 8**11)):
            if value >= limit:
                records[key] = b"%d" % value
        records.update(pax or {})
        if records:
            self.pax_header(records)
        self.write(header(name[:100], kind, mode, uid, gid, size, max(mtime, 0) if b"mtime" in records else mtime,
                          link[:100], device))
        self.body(data, file, size)

    def add_gnu(self, name, kind: bytes = REGULAR, data: bytes = b"", *, link=b"", **fields) -> None:
        """A member in GNU's own format: long names as members of their own, large numbers in base 256."""
        name, link = os.fsencode(name), os.fsencode(link)
        for value, long_kind in ((link, b"K"), (name, b"L")):
            if len(value) > 100:
                self.write(header(b"././@LongLink", long_kind, 0, size=len(value) + 1, mtime=0, magic=GNU))
                self.write(pad(value + b"\0"))
        self.write(header(name[:100], kind, size=len(data), link=link[:100], magic=GNU, **fields))
        self.body(data, None, len(data))

    def add_v7(self, name, kind: bytes = REGULAR, data: bytes = b"", *, link=b"", **fields) -> None:
        """A member as the tar of 1979 wrote it: no magic, no devices, no prefix."""
        self.write(header(os.fsencode(name), kind, size=len(data), link=os.fsencode(link), magic=V7, **fields))
        self.body(data, None, len(data))

    def pax_header(self, records: dict[bytes, bytes], kind: bytes = b"x") -> None:
        body = b"".join(pax_record(key, records[key]) for key in sorted(records))
        self.write(header(b"PaxHeaders/x", kind, size=len(body), mtime=0))
        self.write(pad(body))

    def body(self, data: bytes, file: BinaryIO | None, size: int) -> None:
        if file is None:
            self.write(pad(data))
            return
        left = size
        while left:
            piece = file.read(min(left, 1 << 20))
            if not piece:
                raise EOFError("file shorter than announced")
            self.write(piece)
            left -= len(piece)
        self.write(b"\0" * (-size % BLOCK))

    def end(self) -> None:
        self.write(b"\0" * (2 * BLOCK))
