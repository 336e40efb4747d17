"""Makes an archive readable whose names of files claim to be UTF-8 and are not."""

from __future__ import annotations

import struct

_END = b"PK\x05\x06"
_ENTRY = b"PK\x01\x02"
_IS_UTF8 = 0x800
# Of an entry of the directory: where its flags, the lengths of name, extra field and comment, the
# place of the file's own header and the name stand (APPNOTE.TXT 4.3.12).
_FLAGS, _LENGTHS, _HEADER, _NAME = 8, 28, 42, 46
# Of a file's own header: its flags (4.3.7).
_OWN_FLAGS = 6


def with_plain_names(data: bytes) -> bytes:
    """The archive with such names marked as what they then are: plain bytes (code page 437).

    An archive that can't be followed is given back as it is: whoever opens it finds out.
    """
    end = data.rfind(_END)
    if end < 0 or len(data) < end + 22:
        return data
    size, place = struct.unpack_from("<II", data, end + 12)
    patched = bytearray(data)
    # Bytes in front of the archive, such as a program that unpacks it, shift all places.
    before = end - size - place
    at = end - size
    while at >= 0 and data[at : at + 4] == _ENTRY and at + _NAME <= len(data):
        (flags,) = struct.unpack_from("<H", data, at + _FLAGS)
        name, extra, comment = struct.unpack_from("<HHH", data, at + _LENGTHS)
        if flags & _IS_UTF8 and not _is_utf8(data[at + _NAME : at + _NAME + name]):
            (header,) = struct.unpack_from("<I", data, at + _HEADER)
            for flag_at in (at + _FLAGS, before + header + _OWN_FLAGS):
                if 0 <= flag_at <= len(data) - 2:
                    (found,) = struct.unpack_from("<H", data, flag_at)
                    struct.pack_into("<H", patched, flag_at, found & ~_IS_UTF8)
        at += _NAME + name + extra + comment
    return bytes(patched)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
