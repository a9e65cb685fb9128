"""The head of a human, or of a statue of one."""

from neither.demo.face import Face
from neither.demo.palette import INK, PINK, WHITE, darker, lighter, mix
from neither.demo.sketch import Sketch, blob, capsule, limb, mirrored, oval, symmetric


def draw_back(face: Face) -> Sketch:
    """Draw the hair that hangs behind the shoulders; the head has radius 1 around 0."""
    back = Sketch()
    hair = darker(face.hair, 0.18)
    if face.style == "long":
        back.add(hair, symmetric(-1.0j, 0.98 - 0.5j, 1.12 + 0.8j, 1.05 + 1.75j, 1.55j))
    elif face.style == "bob":
        back.add(hair, symmetric(-1.05j, 1.0 - 0.45j, 1.12 + 0.6j, 0.8 + 0.95j))
    elif face.style == "curly":
        curls = [
            oval(0.98 * turn - 0.25j, 0.46)
            for turn in (
                -1 + 0.35j,
                -0.95 - 0.25j,
                -0.6 - 0.75j,
                -0.95j,
                0.6 - 0.75j,
                0.95 - 0.25j,
                1 + 0.35j,
            )
        ]
        back.add(hair, curls)
    elif face.style == "ponytail":
        back.add(hair, limb(0.5 - 0.6j, 1.25 - 0.2j, 1.2 + 0.9j, thick=0.34, thin=0.16))
    elif face.style == "bun":
        back.add(hair, oval(-1.15j, 0.42, 0.38))
    return back


def draw_head(face: Face) -> Sketch:
    """Draw the head itself, of radius 1 around 0, ears and hair included."""
    head = Sketch()
    shift = face.gaze
    ear = oval(0.9 + 0.12j, 0.17, 0.24)
    head.add(face.skin, ear + shift * 0.3, mirrored(ear) + shift * 0.3)
    head.add(face.skin, symmetric(-1.0j, 0.7 - 0.78j, 0.88 + 0.0j, 0.68 + 0.66j, 1.0j))
    if face.beard:
        head.mark(
            face.hair,
            blob(
                -0.84 + 0.1j,
                -0.5 + 0.42j,
                shift + 0.36j,
                0.5 + 0.42j,
                0.84 + 0.1j,
                0.68 + 0.74j,
                1.1j,
                -0.68 + 0.74j,
            ),
        )
    _add_features(head, face, shift)
    if face.hat == "none" or face.style in ("long", "bob"):
        _add_hair(head, face, shift)
    _add_hat(head, face, shift)
    return head


def _add_features(head: Sketch, face: Face, shift: float) -> None:
    line = darker(face.skin, 0.5)
    for side in (-0.36, 0.36):
        at = complex(side * (1 - abs(shift) * 0.5) + shift, -0.02)
        if face.stone:
            head.mark(darker(face.skin, 0.3), oval(at, 0.19, 0.14))
            head.mark(lighter(face.skin, 0.3), oval(at + 0.04j, 0.17, 0.11))
        else:
            head.mark(WHITE, oval(at, 0.2, 0.16))
            head.mark(face.eyes, oval(at + shift * 0.3, 0.13, 0.15))
            head.mark(INK, oval(at + shift * 0.3, 0.07, 0.08))
            head.mark(mix(face.skin, PINK, 0.4), oval(at + side * 0.35 + 0.4j, 0.17, 0.12))
        brow = limb(at - 0.17 - 0.26j, at - 0.31j, at + 0.17 - 0.26j, thick=0.05, thin=0.05)
        head.mark(darker(face.hair, 0.3), brow)
        if face.glasses:
            head.mark(INK, oval(at, 0.31, 0.29))
            head.mark(WHITE, oval(at, 0.26, 0.24))
            head.mark(face.eyes, oval(at + shift * 0.2, 0.14, 0.15))
            head.mark(INK, oval(at + shift * 0.2, 0.08, 0.09))
    if face.glasses:
        head.mark(INK, capsule(shift - 0.12 - 0.04j, shift + 0.12 - 0.04j, 0.035, 0.035))
    head.mark(
        darker(face.skin, 0.22), capsule(shift * 1.3 + 0.08j, shift * 1.45 + 0.27j, 0.06, 0.11)
    )
    mouth = shift * 1.1 + 0.56j
    if face.smile == "open":
        head.mark((150, 52, 58), blob(mouth - 0.32, mouth - 0.04j, mouth + 0.32, mouth + 0.27j))
        head.mark(WHITE, capsule(mouth - 0.2 + 0.03j, mouth + 0.2 + 0.03j, 0.045, 0.045))
    else:
        wide = 0.32 if face.smile == "line" else 0.18
        lips = line if face.stone else mix(line, (190, 60, 66), 0.5)
        head.mark(
            lips,
            limb(mouth - wide - 0.04j, mouth + 0.08j, mouth + wide - 0.04j, thick=0.055, thin=0.05),
        )


def _add_hair(head: Sketch, face: Face, shift: float) -> None:
    if face.style == "bald":
        return
    if face.style == "spiky":
        spikes = [
            -0.92 - 0.1j,
            -1.05 - 0.75j,
            -0.62 - 0.8j,
            -0.5 - 1.35j,
            -0.12 - 1.0j,
            0.1 - 1.42j,
            0.4 - 0.98j,
            0.75 - 1.2j,
            0.78 - 0.7j,
            1.05 - 0.6j,
            0.92 - 0.1j,
            0.7 - 0.4j,
            0.3 - 0.52j,
            -0.3 - 0.5j,
            -0.7 - 0.4j,
        ]
        head.add(
            face.hair,
            capsule(-0.5 - 0.7j, 0.5 - 0.7j, 0.3, 0.3),
            limb(*spikes, thick=0.07, thin=0.07),
            oval(-0.8j, 0.72, 0.34),
        )
        return
    part = shift + 0.2
    head.add(
        face.hair,
        blob(
            -0.98 + 0.1j,
            -1.02 - 0.5j,
            -0.62 - 1.02j,
            -1.16j,
            0.62 - 1.02j,
            1.02 - 0.5j,
            0.98 + 0.1j,
            0.8 - 0.32j,
            part + 0.28 - 0.52j,
            part - 0.74j,
            part - 0.5 - 0.5j,
            -0.82 - 0.3j,
        ),
    )
    head.mark(
        lighter(face.hair, 0.2),
        limb(-0.55 - 0.82j, -0.15 - 0.98j, 0.2 - 0.98j, thick=0.05, thin=0.03),
    )


def _add_hat(head: Sketch, face: Face, shift: float) -> None:
    if face.hat == "none":
        return
    head.add(face.cloth, symmetric(-1.32j, 0.85 - 0.95j, 0.98 - 0.4j, -0.42j))
    if face.hat == "cap":
        bill = 1.0 if shift >= 0 else -1.0
        head.add(darker(face.cloth), capsule(0.1 * bill - 0.45j, 1.15 * bill - 0.38j, 0.13, 0.1))
    elif face.hat == "beanie":
        head.add(lighter(face.cloth), capsule(-0.85 - 0.48j, 0.85 - 0.48j, 0.17, 0.17))
        head.add(lighter(face.cloth), oval(-1.38j, 0.22))
    else:
        head.add(darker(face.cloth), oval(-0.52j, 1.5, 0.22))
