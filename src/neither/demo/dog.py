"""Dogs."""

from dataclasses import dataclass
from random import Random

from neither.demo.palette import CLOTH, FUR, INK, PINK, WHITE, Color, darker, lighter, mix, pick
from neither.demo.quadruped import Build, Coat, Tail, bust, facing, lying, sitting, standing
from neither.demo.sketch import Sketch, blob, capsule, limb, mirrored, oval, symmetric

_POSES = ("stand", "walk", "walk", "sit", "sit", "lie", "face", "face", "portrait", "portrait")


@dataclass(frozen=True)
class _Face:
    """What makes one dog's head differ from another's."""

    fur: Color
    ear: Color
    muzzle: Color
    patch: Color | None
    ears: str
    snout: float
    tongue: bool


def draw_dog(rng: Random) -> Sketch:
    """Draw a dog of any breed in any pose, facing the viewer or right."""
    coat = _coat(rng)
    muzzles = [coat.belly, lighter(coat.fur, 0.4), lighter(coat.fur, 0.6)]
    if sum(coat.fur) < 270:
        muzzles = muzzles[1:]  # a black nose on black fur would not be seen
    face = _Face(
        fur=coat.fur,
        ear=rng.choice(
            (coat.fur, darker(coat.fur, 0.35), darker(coat.fur, 0.5), coat.spots or coat.fur)
        ),
        muzzle=rng.choice(muzzles),
        patch=coat.spots if rng.random() < 0.6 else None,
        ears=rng.choice(("floppy", "floppy", "floppy", "long", "long", "pricked", "folded")),
        snout=rng.uniform(0.35, 0.8),
        tongue=rng.random() < 0.75,
    )
    pose = rng.choice(_POSES)
    looks_here = pose == "face" or rng.random() < 0.35
    head = _front_head(face) if looks_here else _side_head(face)
    collar = pick(rng, CLOTH) if rng.random() < 0.5 else None
    size, tilt = rng.uniform(0.44, 0.56), rng.uniform(-12, 12)
    if pose == "portrait":
        body = bust(coat, 0.72)
        if collar:
            body.add(collar, capsule(-0.74 + 1.05j, 0.74 + 1.05j, 0.16, 0.16))
        body.include(head, 0, tilt=tilt)
        return body
    build = Build(
        length=rng.uniform(0.8, 1.25),
        leg=rng.uniform(0.28, 0.8),
        chest=rng.uniform(0.3, 0.42),
        hip=rng.uniform(0.25, 0.36),
        limb=rng.uniform(0.075, 0.12),
        neck=complex(rng.uniform(0.22, 0.42), rng.uniform(-0.62, -0.42)),
        throat=rng.uniform(0.2, 0.26),
    )
    tail = _tail(rng, coat.fur)
    if pose == "sit":
        body, top = sitting(rng, build, coat, tail)
    elif pose == "lie":
        body, top = lying(rng, build, coat, tail)
    elif pose == "face":
        body, top = facing(rng, build, coat, tail)
    else:
        stride = rng.uniform(14, 28) if pose == "walk" else rng.uniform(0, 5)
        body, top = standing(rng, build, coat, tail, stride)
    if collar:
        side = 0.0 if pose == "face" else -0.1
        body.add(collar, capsule(top + side - 0.22 + 0.36j, top + side + 0.2 + 0.42j, 0.055, 0.055))
    body.include(head, top, size, tilt)
    return body


def _coat(rng: Random) -> Coat:
    fur = pick(rng, FUR)
    belly = lighter(fur, 0.55) if rng.random() < 0.6 else fur
    spots = None
    if rng.random() < 0.35:
        spots = darker(fur, 0.65) if sum(fur) > 400 else lighter(fur, 0.75)
    paw = belly if rng.random() < 0.5 else fur
    return Coat(fur, belly, paw, spots)


def _tail(rng: Random, fur: Color) -> Tail:
    joints = rng.choice(
        (
            (-0.2 - 0.22j, -0.26 - 0.5j, -0.14 - 0.68j),
            (-0.22 - 0.2j, -0.12 - 0.42j, 0.06 - 0.36j),
            (-0.25 + 0.02j, -0.42 + 0.2j, -0.5 + 0.32j),
            (-0.24 - 0.14j, -0.48 - 0.3j),
        )
    )
    thick = rng.uniform(0.08, 0.13)
    return Tail(joints, thick, thick * rng.uniform(0.5, 0.9), fur)


def _side_head(face: _Face) -> Sketch:
    """Draw a head of radius 1 looking right."""
    head = Sketch()
    tip = complex(0.9 + face.snout, 0.36)
    if face.ears in ("pricked", "folded"):
        head.add(
            darker(face.ear, 0.25),
            blob(-0.3 - 0.7j, -0.05 - 1.3j, 0.2 - 1.55j, 0.42 - 1.1j, 0.5 - 0.6j),
        )
    if face.tongue:
        head.add(darker(face.muzzle, 0.2), capsule(0.4 + 0.6j, tip - 0.3 + 0.42j, 0.3, 0.17))
        head.add(PINK, capsule(tip - 0.3 + 0.3j, tip - 0.2 + 0.75j, 0.17, 0.18))
    snout = capsule(0.4 + 0.26j, tip, 0.54, 0.33)
    head.add(face.fur, oval(0, 1.0, 0.94), snout)
    if face.muzzle != face.fur:
        head.mark(face.muzzle, capsule(0.75 + 0.4j, tip + 0.02j, 0.32, 0.26))
    head.mark(
        darker(face.fur, 0.6),
        limb(tip + 0.1 + 0.27j, 0.75 + 0.68j, 0.5 + 0.55j, thick=0.05, thin=0.04),
    )
    head.mark(INK, oval(tip + 0.2 - 0.16j, 0.27, 0.22, 15))
    head.mark(lighter(INK, 0.5), oval(tip + 0.2 - 0.23j, 0.07, 0.04))
    if face.patch:
        head.mark(face.patch, oval(0.3 - 0.25j, 0.38, 0.34, 20))
    _add_eye(head, 0.36 - 0.24j, 0.15)
    if face.ears == "floppy":
        head.add(
            face.ear,
            blob(-0.45 - 0.82j, 0.02 - 0.6j, 0.0 + 0.2j, -0.3 + 0.72j, -0.72 + 0.5j, -0.75 - 0.3j),
        )
    elif face.ears == "long":
        head.add(
            face.ear,
            blob(-0.5 - 0.7j, -0.05 - 0.45j, 0.02 + 0.6j, -0.3 + 1.3j, -0.75 + 1.1j, -0.8 - 0.1j),
        )
    else:
        head.add(
            face.ear, blob(-0.82 - 0.4j, -0.72 - 1.2j, -0.42 - 1.65j, -0.08 - 1.2j, 0.14 - 0.7j)
        )
        if face.ears == "folded":
            head.add(
                lighter(face.ear, 0.12),
                blob(-0.74 - 1.15j, -0.42 - 1.72j, 0.05 - 1.25j, 0.2 - 0.8j, -0.2 - 0.95j),
            )
        else:
            head.mark(mix(face.ear, PINK, 0.5), blob(-0.58 - 0.7j, -0.45 - 1.35j, -0.12 - 0.85j))
    return head


def _front_head(face: _Face) -> Sketch:
    """Draw a head of radius 1 looking at the viewer."""
    head = Sketch()
    if face.ears in ("pricked", "folded"):
        ear = blob(0.12 - 0.75j, 0.4 - 1.35j, 0.8 - 1.62j, 1.02 - 1.1j, 0.98 - 0.25j)
        head.add(face.ear, ear, mirrored(ear))
        if face.ears == "pricked":
            inner = blob(0.42 - 0.8j, 0.75 - 1.35j, 0.85 - 0.5j)
            head.mark(mix(face.ear, PINK, 0.5), inner, mirrored(inner))
    jaw = oval(0.42j, 0.66 + 0.15 * face.snout, 0.62)
    head.add(face.fur, oval(0, 1.0, 0.94), jaw)
    if face.patch:
        head.mark(face.patch, oval(0.42 - 0.22j, 0.36, 0.4, 15))
    if face.tongue:
        head.add(PINK, symmetric(0.2 + 0.75j, 0.2 + 1.15j, 1.28j))
    cheek = oval(0.24 + 0.56j, 0.34, 0.3)
    head.add(face.muzzle, cheek, mirrored(cheek), oval(0.3j, 0.34, 0.34))
    head.mark(darker(face.muzzle, 0.6), limb(0.3j, 0.62j, thick=0.045, thin=0.04))
    smile = limb(0.62j, 0.2 + 0.76j, 0.42 + 0.68j, thick=0.045, thin=0.04)
    head.mark(darker(face.muzzle, 0.6), smile, [mirrored(part) for part in smile])
    head.mark(INK, symmetric(0.04j, 0.34 + 0.12j, 0.24 + 0.34j, 0.45j))
    head.mark(lighter(INK, 0.5), oval(-0.08 + 0.16j, 0.1, 0.05))
    _add_eye(head, 0.42 - 0.2j, 0.16)
    _add_eye(head, -0.42 - 0.2j, 0.16)
    if face.ears in ("floppy", "long"):
        down = 0.55 if face.ears == "floppy" else 1.05
        ear = blob(
            0.5 - 0.85j,
            0.98 - 0.7j,
            1.3 + 0.1j,
            complex(1.2, down),
            complex(0.88, down - 0.05),
            0.78 - 0.2j,
        )
        head.add(face.ear, ear, mirrored(ear))
    elif face.ears == "folded":
        fold = blob(0.3 - 1.15j, 0.72 - 1.65j, 1.1 - 1.2j, 1.12 - 0.55j, 0.8 - 0.5j)
        head.add(lighter(face.ear, 0.1), fold, mirrored(fold))
    return head


def _add_eye(head: Sketch, at: complex, radius: float) -> None:
    head.mark(WHITE, oval(at, radius * 1.2))
    head.mark(INK, oval(at + radius * 0.1, radius))
    head.mark(WHITE, oval(at - radius * (0.25 + 0.35j), radius * 0.34))
