"""Files of pictures, put together byte by byte, for what no library writes."""

import struct
import zlib

import pytest


@pytest.fixture
def png():
    """png(width, height, bits, colour, rows, *chunks): a PNG; `rows` are its bytes, each row behind a zero."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def make(width, height, bits, colour, rows, *chunks):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        middle = b"".join(chunk(kind, data) for kind, data in chunks)
        return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    return make


@pytest.fixture
def tiff():
    """tiff(data, tag=value, ...): a grey TIFF of 64 x 64 pixels whose pixels are `data`, tags by their number."""

    def make(data, **changed):
        tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1}
        tags |= {int(name.strip("_")): value for name, value in changed.items()}
        start = 14 + 12 * (len(tags) + 2 if 324 not in tags else len(tags))
        if 324 not in tags:  # not tiled: one strip
            tags = {273: start, 279: len(data), **tags}
        fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + bytes(4) + data

    return make
