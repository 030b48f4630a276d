"""Layers that hold every oddity a tar can say, one subject each."""

import struct

from .rawtar import (BLOCK_DEVICE, CHAR, CONTIGUOUS, DIRECTORY, FIFO, GNU, GNU_SPARSE, LINK, SYMLINK, TarWriter, header,
                     pad)

KIB, MIB = 1 << 10, 1 << 20


def noise(length: int, seed: int) -> bytes:
    """Bytes that do not compress, the same each time."""
    import random
    return random.Random(seed).randbytes(length)


def links(tar: TarWriter) -> None:
    """Hard links: hundreds of them, to every type, and with headers that disagree with their target."""
    tar.add("links/", DIRECTORY)
    tar.add("links/first", data=b"linked\n", uid=7, mode=0o640)
    for n in range(300):
        tar.add(f"links/name-{n:03}", LINK, link="links/first", uid=7, mode=0o640)
    tar.add("links/symlink", SYMLINK, link="first")
    tar.add("links/to-symlink", LINK, link="links/symlink")
    tar.add("links/fifo", FIFO, mode=0o620)
    tar.add("links/to-fifo", LINK, link="links/fifo", mode=0o620)
    tar.add("links/device", CHAR, device=(10, 200))
    tar.add("links/to-device", LINK, link="links/device")
    tar.add("links/target", data=b"header of the link differs\n", mode=0o600, uid=1, gid=1, mtime=1_000_000_000)
    tar.add("links/other-mode", LINK, link="links/target", mode=0o4755, uid=2000, gid=3000, mtime=1_100_000_000)
    tar.add("links/xattr-target", data=b"x", xattrs={"user.from": b"target"})
    tar.add("links/xattr-link", LINK, link="links/xattr-target", xattrs={"user.from": b"link", "user.more": b"1"})
    tar.add("links/dir/", DIRECTORY)
    tar.add("links/dirlink", SYMLINK, link="dir")
    tar.add("links/dir/inner", data=b"inner\n")
    tar.add("links/through", LINK, link="links/dirlink/inner")
    tar.add("links/absolute", LINK, link="/links/first")
    tar.add("links/dotted", LINK, link="./links/../links/first")
    # The target is replaced after the link was made: the link keeps the old file.
    tar.add("links/replaced", data=b"old\n")
    tar.add("links/keeps-old", LINK, link="links/replaced")
    tar.add("links/replaced", data=b"new\n")
    tar.add("links/empty")
    tar.add("links/to-empty", LINK, link="links/empty")


def names(tar: TarWriter) -> None:
    """Names: unicode, bytes that are no UTF-8, control characters, the longest, the deepest."""
    tar.add("names/", DIRECTORY)
    for n, name in enumerate(["grün", "日本語", "e\u0301 and é", "emoji-🦋", " leading", "trailing ", "with\nnewline", "tab\there",
                              "back\\slash", "quote\"'`$", "*?[glob]", "-dash", "...", "..dots", "a:b,c=d", "\x01\x7f", "%00"]):
        tar.add(f"names/{name}", data=b"%d\n" % n)
    for raw in (b"latin1-\xe4\xf6\xfc", b"\xff\xfe\xfd", b"cut-\xe2\x82", b"\xc0\xaf"):
        tar.add_gnu(b"names/" + raw, data=raw)
    tar.add("names/" + "n" * 255, data=b"255\n")
    tar.add_gnu(b"names/" + b"\xfc" * 255, data=b"255 bytes\n")
    tar.add("names/symlink-255", SYMLINK, link="n" * 255)
    tar.add("names/symlink-long", SYMLINK, link="/".join(["some-directory"] * 250))
    tar.add("names/dangling", SYMLINK, link="/no/such/file")
    tar.add("names/loop", SYMLINK, link="loop")
    tar.add("deep/" + "d/" * 800, DIRECTORY)
    tar.add("deep/" + "d/" * 800 + "file", data=b"deep\n")
    long = "deep/" + "/".join(["long-component-" + "x" * 200] * 14)
    tar.add(long + "/file", data=b"long\n")
    tar.add("./dot-slash", data=b"1\n")
    tar.add("/absolute", data=b"2\n")
    tar.add("names//double///slash", data=b"3\n")
    tar.add("names/./dot/./file", data=b"4\n")
    tar.add("names/up/../beside", data=b"5\n")
    tar.add("missing/parents/of/this", data=b"6\n")
    tar.add("missing/also/of/a/link", LINK, link="dot-slash")
    tar.add("./", DIRECTORY, mode=0o755)
    for n in range(2000):
        tar.add(f"names/many/some-entry-of-a-large-directory-{n:05}", data=b"%d" % n)


def escapes(tar: TarWriter) -> None:
    """Attempts to get out of the root: all end inside it."""
    tar.add("../escape-up", data=b"up\n")
    tar.add("../../../escape-far", data=b"far\n")
    tar.add("escape/", DIRECTORY)
    tar.add("escape/out", SYMLINK, link="/escape/real")
    tar.add("escape/real/", DIRECTORY)
    tar.add("escape/out/through-absolute", data=b"1\n")
    tar.add("escape/relative", SYMLINK, link="../../../../escape/real")
    tar.add("escape/relative/through-relative", data=b"2\n")
    tar.add("escape/link", LINK, link="../../escape-up")


def attributes(tar: TarWriter) -> None:
    """Modes, owners, devices, times, xattrs."""
    tar.add("attributes/", DIRECTORY, mode=0o1777)
    for mode in (0, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o111):
        tar.add(f"attributes/mode-{mode:o}", data=b"x", mode=mode)
    tar.add("attributes/setgid/", DIRECTORY, mode=0o2775, gid=50)
    tar.add("attributes/setgid/file", data=b"x")
    for owner in (65534, 65535, 65536, 70000, 2**31 - 1, 2**31 + 5, 2**32 - 2):
        tar.add(f"attributes/owner-{owner}", data=b"x", uid=owner, gid=owner)
    tar.add_gnu("attributes/owner-base256", data=b"x", uid=2**31 + 7, gid=3_000_000)
    for major, minor in ((1, 3), (7, 255), (8, 256), (259, 65536), (4095, 1048575), (511, 4096)):
        tar.add(f"attributes/char-{major}-{minor}", CHAR, device=(major, minor), mode=0o660)
        tar.add(f"attributes/block-{major}-{minor}", BLOCK_DEVICE, device=(major, minor), mode=0o660)
    tar.add("attributes/fifo", FIFO, mode=0o622)
    for name, when, nanos in (("nanos", 1_500_000_000, 123_456_789), ("one-nano", 1, 1), ("zero", 0, 0), ("last", 1_500_000_000, 999_999_999),
                              ("micro", 1_234_567_890, 500_000), ("year-2038", 2**31, 0), ("year-2100", 4_102_444_800, 7)):
        tar.add(f"attributes/time-{name}", data=b"x", mtime=when, nanos=nanos)
        tar.add(f"attributes/time-dir-{name}/", DIRECTORY, mtime=when, nanos=nanos)
        tar.add(f"attributes/time-link-{name}", SYMLINK, link="x", mtime=when, nanos=nanos)
    tar.add("attributes/time-negative", data=b"x", pax={b"mtime": b"-86400"})
    tar.add("attributes/time-negative-fraction", data=b"x", pax={b"mtime": b"-1.5"})
    tar.add_gnu("attributes/time-negative-gnu", data=b"x", mtime=-1000)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # VFS_CAP_REVISION_2, effective: CAP_NET_RAW
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
        (1, 6, 0xFFFFFFFF), (2, 4, 1000), (2, 7, 70000), (4, 4, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)))
    tar.add("attributes/capability", data=b"x", mode=0o755, xattrs={"security.capability": capability})
    tar.add("attributes/acl", data=b"x", mode=0o674, xattrs={"system.posix_acl_access": acl})
    tar.add("attributes/acl-default/", DIRECTORY, mode=0o775, xattrs={"system.posix_acl_default": acl, "system.posix_acl_access": acl})
    tar.add("attributes/user", data=b"x", xattrs={"user.empty": b"", "user.binary": bytes(range(256)), "user.long.name." + "n" * 200: b"v"})
    tar.add("attributes/user-dir/", DIRECTORY, xattrs={"user.on": b"directory"})
    for n in range(20):
        tar.add(f"attributes/shared-xattr-{n}", xattrs={"user.shared": b"the same value in many files " * 8})
    tar.add("attributes/large-xattr", xattrs={"user.large": noise(2500, 1)})


def contents(tar: TarWriter) -> None:
    """Sizes around every boundary, zeros, repetition."""
    tar.add("contents/", DIRECTORY)
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB, MIB + 1, 3 * MIB + 5):
        tar.add(f"contents/size-{size}", data=noise(size, size))
    tar.add("contents/zeros", data=b"\0" * (2 * MIB + 100))
    tar.add("contents/zeros-inside", data=noise(5000, 2) + b"\0" * MIB + noise(300 * KIB, 3) + b"\0" * 8192)
    tar.add("contents/zero-tail", data=b"begin" + b"\0" * 10_000)
    tar.add("contents/same-1", data=noise(400 * KIB, 4))
    tar.add("contents/same-2", data=noise(400 * KIB, 4))
    tar.add("contents/repeated", data=noise(64 * KIB, 5) * 30)
    tar.add("contents/text", data=b"The quick brown fox jumps over the lazy dog.\n" * 40_000)
    tar.add("contents/duplicate", data=b"first\n", mode=0o600, xattrs={"user.from": b"first"})
    tar.add("contents/duplicate", data=b"last wins\n", mode=0o644)
    tar.add("contents/became-link", data=b"a file at first\n")
    tar.add("contents/became-link", SYMLINK, link="text")
    tar.add("contents/became-file", SYMLINK, link="/contents/text")
    tar.add("contents/became-file", data=b"a link at first\n")
    tar.add("contents/became-dir", data=b"a file at first\n")
    tar.add("contents/became-dir/", DIRECTORY, mode=0o700)
    tar.add("contents/became-dir/in", data=b"in\n")
    tar.add("contents/again/", DIRECTORY, mode=0o700, mtime=5)
    tar.add("contents/again/file", data=b"kept\n")
    tar.add("contents/again/", DIRECTORY, mode=0o755, mtime=6, uid=9)


def changed_contents(tar: TarWriter) -> None:
    """Changes what `contents` brought; another `contents` above brings most of it back."""
    tar.add("contents/text", data=b"changed\n", mode=0o600)
    tar.add("contents/.wh.repeated")
    tar.add("contents/again/added", data=b"stays\n")
    tar.add("contents/.wh.became-dir")
    tar.add("contents/size-0/", DIRECTORY)


def formats(tar: TarWriter) -> None:
    """Old and odd ways to write a member."""
    tar.pax_header({b"comment": b"0123456789012345678901234567890123456789", b"mtime": b"99"}, b"g")
    tar.add("formats/", DIRECTORY)
    tar.add("formats/after-global", data=b"global headers say nothing about members\n")
    tar.add_v7("formats/v7", data=b"V7\n", mode=0o644)
    tar.add_v7("formats/v7-old-type", b"\0", data=b"type NUL\n")
    tar.add_v7("formats/v7-dir/", b"\0")
    tar.add_v7("formats/v7-link", LINK, link="formats/v7")
    tar.add_v7("formats/v7-symlink", SYMLINK, link="v7")
    tar.add_gnu("formats/gnu/" + "long-name-" * 20, data=b"GNU long name\n")
    tar.add_gnu("formats/gnu/long-symlink", SYMLINK, link="x/" * 300)
    tar.write(header(b"prefixed", prefix=b"formats/prefix", size=4))
    tar.write(pad(b"pre\n"))
    data = noise(1024, 6)
    sparse = pad(b"2\n512\n512\n1048064\n512\n") + data
    tar.add("formats/GNUSparseFile.0/sparse-1.0", data=sparse, pax={
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"formats/sparse-1.0",
        b"GNU.sparse.realsize": b"1048576"})
    tar.add("formats/GNUSparseFile.0/sparse-0.1", data=data, pax={
        b"GNU.sparse.size": b"300000", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.map": b"0,512,299488,512",
        b"GNU.sparse.name": b"formats/sparse-0.1"})
    tar.add("formats/sparse-end", data=pad(b"2\n0\n512\n700000\n0\n") + data[:512], pax={
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"formats/sparse-end",
        b"GNU.sparse.realsize": b"700000"})
    tar.add("formats/pax-size", data=b"12345", pax={b"size": b"5", b"atime": b"1.5", b"ctime": b"2", b"uname": b"nobody", b"gname": b"x"})
    tar.add("formats/pax-ids", data=b"x", pax={b"uid": b"1234567", b"gid": b"7654321"})


def marks_below(tar: TarWriter) -> None:
    """What the marks of `marks` and the entries of `replacements` act on."""
    for case in ("gone", "before", "after", "alone", "nested", "emptied", "reborn", "both", "under"):
        tar.add(f"marks/{case}/", DIRECTORY, mode=0o750, uid=3)
        for name in ("a", "b", "sub/c"):
            tar.add(f"marks/{case}/{name}", data=f"lower {case} {name}\n".encode())
    tar.add("marks/file", data=b"lower\n")
    tar.add("marks/readded", data=b"lower\n")
    tar.add("marks/link", SYMLINK, link="file")
    tar.add("replace/file-by-dir", data=b"a file\n")
    tar.add("replace/dir-by-file/", DIRECTORY)
    tar.add("replace/dir-by-file/in", data=b"in\n")
    tar.add("replace/dir-by-symlink/", DIRECTORY)
    tar.add("replace/dir-by-symlink/in", data=b"in\n")
    tar.add("replace/symlink-by-dir", SYMLINK, link="/replace/elsewhere")
    tar.add("replace/elsewhere/", DIRECTORY)
    tar.add("replace/elsewhere/in", data=b"stays\n")
    tar.add("replace/symlinked", SYMLINK, link="elsewhere")
    tar.add("replace/dir-new-mode/", DIRECTORY, mode=0o755)
    tar.add("replace/dir-new-mode/in", data=b"kept\n")
    tar.add("replace/file", data=b"old\n", xattrs={"user.old": b"1"})
    tar.add("replace/xattr-dir/", DIRECTORY, xattrs={"user.old": b"1"})
    tar.add("replace/xattr-dir/in", data=b"kept\n")


def marks(tar: TarWriter) -> None:
    """Whiteouts and opaque marks, in every order relative to what they touch."""
    opaque, whiteout = ".wh..wh..opq", ".wh."
    tar.add(f"marks/{whiteout}gone")
    tar.add("marks/before/", DIRECTORY, mode=0o711)
    tar.add(f"marks/before/{opaque}")
    tar.add("marks/before/new", data=b"after the mark\n")
    tar.add("marks/after/", DIRECTORY)
    tar.add("marks/after/new", data=b"before the mark\n")
    tar.add("marks/after/sub/new", data=b"before the mark, deeper\n")
    tar.add(f"marks/after/{opaque}")
    tar.add(f"marks/alone/{opaque}")  # no entry for the directory itself
    tar.add(f"marks/nested/sub/{whiteout}c")
    tar.add(f"marks/nested/{whiteout}a")
    tar.add(f"marks/emptied/{whiteout}a"), tar.add(f"marks/emptied/{whiteout}b"), tar.add(f"marks/emptied/{whiteout}sub")
    tar.add(f"marks/{whiteout}reborn")
    tar.add("marks/reborn/", DIRECTORY, mode=0o701)
    tar.add("marks/reborn/only", data=b"reborn\n")
    tar.add(f"marks/both/{opaque}"), tar.add(f"marks/both/{whiteout}a")
    tar.add("marks/both/b", data=b"again\n")
    tar.add(f"marks/under/{opaque}")
    tar.add(f"marks/under/sub/{whiteout}c")
    tar.add(f"marks/{whiteout}file")
    tar.add(f"marks/{whiteout}readded")
    tar.add("marks/readded", data=b"whiteout first\n")
    tar.add(f"marks/{whiteout}link")
    tar.add(f"marks/{whiteout}never-was-there")
    tar.add(f"marks/new-dir/{opaque}")
    tar.add("marks/new-dir/in", data=b"opaque over nothing\n")
    tar.add(f"marks/new-parent/{whiteout}nothing")


def replacements(tar: TarWriter) -> None:
    """Entries of one type over entries of another, and below symlinks of a lower layer."""
    tar.add("replace/file-by-dir/", DIRECTORY)
    tar.add("replace/file-by-dir/in", data=b"now a directory\n")
    tar.add("replace/dir-by-file", data=b"now a file\n")
    tar.add("replace/dir-by-symlink", SYMLINK, link="elsewhere")
    tar.add("replace/symlink-by-dir/", DIRECTORY)
    tar.add("replace/symlink-by-dir/in", data=b"now a directory\n")
    tar.add("replace/symlinked/below", data=b"below a symlink of a lower layer\n")
    tar.add("replace/dir-new-mode/", DIRECTORY, mode=0o2700, uid=12, mtime=77)
    tar.add("replace/file", data=b"new\n")
    tar.add("replace/xattr-dir/", DIRECTORY, xattrs={"user.new": b"1"})
    tar.add("replace/same-layer", SYMLINK, link="elsewhere2")
    tar.add("replace/elsewhere2/", DIRECTORY)
    tar.add("replace/same-layer/below", data=b"below a symlink of the same layer\n")


def one_layer_of_many(number: int):
    """The layers of an image of a hundred: each adds a file, and takes or changes some of the last."""
    def fill(tar: TarWriter) -> None:
        tar.add("many/", DIRECTORY)
        tar.add(f"many/layer-{number:03}", data=f"{number}\n".encode())
        tar.add("many/changed", data=f"by {number}\n".encode())
        tar.add(f"many/dir-{number % 7}/", DIRECTORY, mtime=1000 + number)
        tar.add(f"many/dir-{number % 7}/file-{number}", data=noise(300, number))
        if number % 5 == 4:
            tar.add(f"many/.wh.layer-{number - 2:03}")
        if number % 20 == 19:
            tar.add(f"many/dir-{number % 7}/.wh..wh..opq")
    return fill


def contiguous(tar: TarWriter) -> None:
    tar.add("contiguous", CONTIGUOUS, data=b"type 7\n")


def gnu_sparse(tar: TarWriter) -> None:
    """A member in GNU's old sparse format: map in the header itself."""
    block = bytearray(header(b"sparse", GNU_SPARSE, size=512, magic=GNU))
    block[386:410] = b"00000000000\0" + b"00000001000\0"
    block[483:495] = b"00000100000\0"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    tar.write(bytes(block))
    tar.write(b"s" * 512)


def link_to_lower(tar: TarWriter) -> None:
    tar.add("link-to-lower", LINK, link="bin/busybox")


def whiteout_after(tar: TarWriter) -> None:
    """A whiteout of what the same layer brought: there is no such thing in an overlay's upper directory."""
    tar.add("bin/brought", data=b"x")
    tar.add("bin/.wh.brought")
