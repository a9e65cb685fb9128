"""ICC color profiles made by code (ICC.1:2001-04)."""

import struct

P3 = (0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)
SRGB = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)
_WHITE = (0.9642, 1.0, 0.8249)  # D50


def _profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ") -> bytes:
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">8xI4s4s4s12x4s", 0x02400000, kind, space, pcs, b"acsp").ljust(68, b"\0")
    header = (header + _xyz(_WHITE)[8:]).ljust(128, b"\0")
    tags = {b"wtpt": _xyz(_WHITE), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        start = 128 + 4 + 12 * len(tags) + len(body)
        table += struct.pack(">4sII", name, start, len(content))
        body += content + bytes(-len(content) % 4)
    content = header + table + body
    return struct.pack(">I", len(content)) + content[4:]


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def _curve(gamma: float | None) -> bytes:
    """Return a power function; None: that of sRGB, as a table."""
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))
    levels = [number / 1023 for number in range(1024)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
    return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *(round(65535 * x) for x in linear))


def rgb_profile(primaries: tuple[tuple[float, ...], ...] = P3, gamma: float | None = None) -> bytes:
    """Return a profile of a display with these primaries (XYZ, D50)."""
    names = b"rXYZ", b"gXYZ", b"bXYZ"
    tags = {name: _xyz(values) for name, values in zip(names, primaries, strict=True)}
    return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)))


def gray_profile(gamma: float | None) -> bytes:
    """Return a profile of a gray scanner."""
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Return a profile of a press whose inks are all gray."""
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (number % 4 == 0) for number in range(9)))
    inks = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = b"".join(bytes((255 * (4 - sum(ink)) // 4, 128, 128)) for ink in inks)
    lut = b"mft1\0\0\0\0\4\3\2\0" + matrix + 4 * ramp + table + 3 * ramp
    return _profile(b"CMYK", {b"A2B0": lut}, b"Lab ")
