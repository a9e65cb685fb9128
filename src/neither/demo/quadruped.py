"""Bodies on four legs, seen from the side or from the front, without a head."""

import cmath
import math
from dataclasses import dataclass
from random import Random

from neither.demo.palette import Color, darker
from neither.demo.sketch import Polygon, Sketch, capsule, hang, limb, mirrored, oval, symmetric


@dataclass(frozen=True)
class Build:
    """How an animal is built; lengths in units of a middling dog's trunk.

    Attributes:
        length: From hip to shoulder.
        leg: From the trunk to the ground.
        chest: Radius of the trunk at the shoulder.
        hip: Radius of the trunk at the hip.
        limb: Radius of a leg.
        neck: From the shoulder to the middle of the head.
        throat: Radius of the neck.
    """

    length: float
    leg: float
    chest: float
    hip: float
    limb: float
    neck: complex
    throat: float


@dataclass(frozen=True)
class Coat:
    """Colors of an animal."""

    fur: Color
    belly: Color
    paw: Color
    spots: Color | None


@dataclass(frozen=True)
class Tail:
    """A tail: its joints relative to the rump, and its radii at the root and at the tip."""

    joints: tuple[complex, ...]
    thick: float
    thin: float
    fill: Color


def standing(
    rng: Random, build: Build, coat: Coat, tail: Tail, stride: float
) -> tuple[Sketch, complex]:
    """Draw a body on its feet, facing right.

    Args:
        rng: For the pose.
        build: Its proportions.
        coat: Its colors.
        tail: Its tail.
        stride: How far the legs swing, in degrees; 0 for none.

    Returns:
        The sketch, and where the middle of the head belongs.
    """
    sketch = Sketch()
    shoulder = complex(build.length, -0.04)
    _add_tail(sketch, tail, complex(-build.hip * 0.75, -build.hip * 0.4))
    phase = rng.choice((-1, 1))

    def leg(top: complex, swing: float, back: bool) -> list[Polygon]:
        knee = top + hang(swing - (10 if back else -2), build.leg * 0.55)
        foot = knee + hang(swing + (12 if back else -4), build.leg * 0.5)
        paw = oval(foot + build.limb * (0.5 + 0.2j), build.limb * 1.35, build.limb * 0.8)
        return [*limb(top, knee, foot, thick=build.limb * 1.35, thin=build.limb * 0.85), paw]

    low = 0.35j * build.hip
    for top, swing, back in (
        (low + 0.14, -stride * phase, True),
        (shoulder + low - 0.16, stride * phase, False),
    ):
        sketch.add(darker(coat.fur, 0.28), leg(top, swing + 6, back))
    near_back = leg(low, stride * phase, True)
    near_front = leg(shoulder + low, -stride * phase, False)
    head = shoulder + build.neck
    sketch.add(
        coat.fur,
        near_back,
        near_front,
        capsule(0, shoulder, build.hip, build.chest),
        oval(low * 0.4 + 0.03, build.hip * 0.95, build.hip * 1.2),
        capsule(shoulder - 0.12j * build.chest, head, build.chest * 0.8, build.throat),
    )
    sketch.mark(coat.paw, near_back[-1], near_front[-1])
    belly = complex(build.length * 0.55, build.chest * 0.72)
    sketch.mark(coat.belly, oval(belly, build.length * 0.42, build.chest * 0.2, -4))
    _add_spots(sketch, rng, coat, 0, shoulder, build.hip)
    return sketch, head


def sitting(rng: Random, build: Build, coat: Coat, tail: Tail) -> tuple[Sketch, complex]:
    """Draw a body sitting on its haunches, facing right; returned as by `standing`."""
    sketch = Sketch()
    _add_tail(sketch, tail, complex(-build.hip * 0.9, build.hip * 0.4))
    shoulder = complex(0.42, -0.72) * (0.55 + 0.45 * build.length)
    ground = build.hip * 1.05
    foot = complex(shoulder.real + 0.16, ground - build.limb)
    sketch.add(
        darker(coat.fur, 0.28), limb(shoulder + 0.1, foot + 0.12, thick=build.limb * 1.4, thin=0.1)
    )
    head = shoulder + complex(build.neck.real * 0.6, build.neck.imag)
    paws = [
        oval(foot + 0.06 + 0.02j, build.limb * 1.4, build.limb * 0.8),
        capsule(complex(0.1, ground - 0.09), complex(0.42, ground - 0.08), 0.11, 0.1),
    ]
    sketch.add(
        coat.fur,
        capsule(0, shoulder, build.hip * 1.12, build.chest),
        limb(shoulder + 0.1j, foot, thick=build.limb * 1.5, thin=build.limb),
        paws,
        capsule(shoulder, head, build.chest * 0.85, build.throat),
    )
    sketch.mark(coat.paw, paws)
    sketch.mark(
        coat.belly, oval(shoulder + 0.14 + 0.18j, build.chest * 0.42, build.chest * 0.8, 20)
    )
    _add_spots(sketch, rng, coat, 0, shoulder, build.hip)
    sketch.add(coat.fur, oval(complex(0.1, ground - 0.36), build.hip * 0.88, build.hip * 0.74, -25))
    return sketch, head


def lying(rng: Random, build: Build, coat: Coat, tail: Tail) -> tuple[Sketch, complex]:
    """Draw a body lying with its head up, facing right; returned as by `standing`."""
    sketch = Sketch()
    shoulder = complex(build.length, -0.04)
    _add_tail(sketch, tail, complex(-build.hip * 0.9, build.hip * 0.3))
    ground = max(build.hip, build.chest)
    head = shoulder + build.neck
    reach = build.length + 0.35 + build.leg * 0.4
    paws = [
        capsule(complex(build.length, ground - 0.14), complex(reach, ground - 0.09), 0.15, 0.1),
        capsule(complex(0.1, ground - 0.08), complex(0.5, ground - 0.07), 0.11, 0.1),
    ]
    sketch.add(darker(coat.fur, 0.28), paws[0] + (0.14 - 0.08j))
    sketch.add(
        coat.fur,
        capsule(0, shoulder, build.hip, build.chest),
        paws,
        capsule(shoulder, head, build.chest * 0.85, build.throat),
    )
    sketch.mark(coat.paw, oval(complex(reach - 0.02, ground - 0.09), 0.1, 0.08))
    _add_spots(sketch, rng, coat, 0, shoulder, build.hip)
    sketch.add(coat.fur, oval(complex(0.06, ground - 0.3), build.hip * 0.9, 0.28, -15))
    return sketch, head


def facing(rng: Random, build: Build, coat: Coat, tail: Tail) -> tuple[Sketch, complex]:
    """Draw a body sitting towards the viewer; returned as by `standing`."""
    sketch = Sketch()
    _add_tail(sketch, tail, complex(-0.4, 0.5))
    height, wide = 0.62 + 0.5 * build.leg, 0.3 + 0.55 * build.hip
    top = complex(0, 0.75 - height)
    body = symmetric(top + 0.3, wide * 0.92 + 0.25j, wide + 0.62j, 0.72j)
    hind = oval(complex(wide * 0.95, 0.68), 0.21, 0.12)
    leg = capsule(0.17 + top + 0.25j, 0.17 + 0.66j, build.limb * 1.35, build.limb)
    paw = oval(0.18 + 0.72j, build.limb * 1.45, build.limb * 0.85)
    sketch.add(coat.fur, body, hind, mirrored(hind))
    _add_spots(sketch, rng, coat, top + 0.25j, 0.45j, wide * 0.8)
    sketch.mark(coat.belly, symmetric(top, 0.2 + 0.1j, 0.35j))
    sketch.add(coat.fur, leg, mirrored(leg), paw, mirrored(paw))
    sketch.mark(coat.paw, paw, mirrored(paw), hind, mirrored(hind))
    return sketch, top - 0.55j * (0.6 + build.throat)


def bust(coat: Coat, throat: float) -> Sketch:
    """Draw neck and shoulders for a head of radius 1 at 0, cut off below."""
    sketch = Sketch(grounded=False, cut=True)
    sketch.add(coat.fur, symmetric(throat, throat * 1.25 + 1.3j, throat * 1.7 + 2.1j, 2.2j))
    sketch.mark(coat.belly, symmetric(0.6j, 0.35 + 1.3j, 0.25 + 2.1j))
    return sketch


def _add_tail(sketch: Sketch, tail: Tail, rump: complex) -> None:
    joints = (rump + 0.12, *(rump + joint for joint in tail.joints))
    sketch.add(tail.fill, limb(*joints, thick=tail.thick, thin=tail.thin))


def _add_spots(
    sketch: Sketch, rng: Random, coat: Coat, start: complex, end: complex, radius: float
) -> None:
    """Scatter spots along the trunk, near enough to its axis to stay inside."""
    if coat.spots is None:
        return
    for _ in range(rng.randint(3, 9)):
        axis = start + (end - start) * rng.random()
        across = cmath.rect(radius * 0.55 * rng.random(), rng.uniform(0, 2 * math.pi))
        size = radius * rng.uniform(0.12, 0.34)
        sketch.mark(coat.spots, oval(axis + across, size, size * 0.75, rng.uniform(0, 90)))
