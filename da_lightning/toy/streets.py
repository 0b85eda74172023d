"""A street world in two looks, drawn from a seed: labels for free in ``game``, the same classes in ``camera``.

Both looks share the rules of the scene (a straight street of boxes and blobs, seen from a car) and differ in paint,
light, haze, texture and sensor. The gap is set by design: paints and lens were tuned until a small network trained from
scratch on ``game`` did badly, but not hopelessly, on ``camera``. So this world shows that an adaptation method
works, not how well it does elsewhere.

Chance comes from `random.Random` and floats see elementary operations only, so a seed gives the same bytes on every
machine with the same Pillow.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES: dict[str, list[int]] = {
    "road": [128, 64, 128],
    "sidewalk": [244, 35, 232],
    "building": [70, 70, 70],
    "fence": [190, 153, 153],
    "pole": [153, 153, 153],
    "sign": [220, 220, 0],
    "vegetation": [107, 142, 35],
    "sky": [70, 130, 180],
    "person": [220, 20, 60],
    "car": [0, 0, 142],
    "bus": [0, 60, 100],
}
_ID = {name: index for index, name in enumerate(CLASSES)}
_SCALE = 2  # supersampling of the picture; labels keep every second pixel
_NEAR, _FAR = 1.2, 110.0  # metres to the first and the last visible point of the street
_ROUGH = {"vegetation": 2.4, "fence": 1.3, "sky": 0.25, "car": 0.35, "bus": 0.4, "sign": 0.4}  # texture; 1 elsewhere

Colour = tuple[int, int, int]
Point = tuple[float, float, float]  # metres: x to the right, y up from the ground, z ahead of the camera
Face = list[Point]  # corners: near low, near high, far high, far low
Span = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """One look: paints by part, then scene, light, lens and sensor. A `Span` is drawn anew for every image."""

    paints: dict[str, str]  # part -> hexadecimal colours to choose from
    spread: int  # how far a paint strays from its palette, in grey levels
    greenery: float  # chance that a plot has trees and a fence instead of a house
    traffic: float  # chance that a parking place is taken
    leaves: tuple[int, float]  # blobs in the crown of a tree, and their size
    sides: Span  # brightness of the walls in shade and in the sun
    softness: float  # of shadows and clouds, in pixels
    haze: float  # share of haze at the end of the street
    texture: float
    exposure: Span
    gamma: Span
    warmth: Span
    saturation: Span
    vignette: float
    blur: float
    noise: float


_PAINTS = {  # by part: hexadecimal colours to choose from, in the game and through the camera
    "sky": ("489cf5 5cb2ff", "60a0e6 80b4e8 9cbee0"), "horizon": ("bee4ff", "c4dcf4 dcdcdc"),
    "cloud": ("ffffff", "e2e4e8 ccd0d8"), "skyline": ("8caad6", "a8a6a8"),
    "road": ("4a4d5c 545664", "5a5a60 686664 525054"), "lane": ("fafafa ffd646", "bcb8ac"),
    "white": ("fafafa", "bcb8ac"), "sidewalk": ("cec4b6 c2bebe", "a09890 aca092"), "curb": ("e8e4dc", "b4aea6"),
    "wall": ("ec8c62 f6cd7c e26a60 eee2ca 96badc c4a088", "ba8868 c4a87a 965c4e ccc4b4 8a8e96 a87862"),
    "trim": ("fcf6ea", "aca498"), "roof": ("b24a3e 745460", "544844 46484e"),
    "window": ("5ca0de 4680c4", "3a3e44 54585c"), "door": ("784230 2e6c68", "3e322a 363c3a"),
    "fence": ("f6f0e4 aa7042", "967050 beb8ac"), "grass": ("6ac44a", "688a42"),
    "leaf": ("3eac42 5cbe3e 289452", "427034 587a34 38623a 747c36"), "trunk": ("805436", "423830"),
    "pole": ("465468 3c4854", "3e4042 4a4846"), "sign": ("e4282e 1e68e2 ffce1e", "c03034 2c5cae d8ac3c"),
    "case": ("2a2c30", "24262a"),
    "car": ("e82c34 246ee8 ffbe1e f0f0f6 2ab896 383a44", "24262a c4c4c2 7c7e82 4e2222 2c384e a09a8e"),
    "bus": ("ff8c1c e4343c", "b84230 d08a40"), "glass": ("344a6c", "2c3034"), "tyre": ("22222a", "1a1919"),
    "skin": ("f6c4a0 966446 e0ac82", "b8927a 684a3a a07a62"), "hair": ("462c1e 1e1a1e be823c", "2c2420 181616 6e6052"),
    "shirt": ("f03e6e ffd632 368cf0 fafafa 82dc50", "423e46 963638 465c86 b2aa9c 786842"),
    "trousers": ("283c82 464654 8c5a3c", "262832 343232 4c443c"),
}  # fmt: skip

STYLES: dict[str, Style] = {
    "game": Style(
        paints={part: looks[0] for part, looks in _PAINTS.items()},
        spread=14, greenery=0.26, traffic=0.42, leaves=(6, 1.0), sides=(0.78, 1.0), softness=0.0, haze=0.25,
        texture=0.0, exposure=(0.88, 1.08), gamma=(0.9, 1.1), warmth=(-0.03, 0.05), saturation=(0.8, 1.1),
        vignette=0.0, blur=0.0, noise=0.0,
    ),
    "camera": Style(
        paints={part: looks[1] for part, looks in _PAINTS.items()},
        spread=14, greenery=0.34, traffic=0.5, leaves=(13, 0.68), sides=(0.86, 1.0), softness=3.0, haze=0.5,
        texture=0.1, exposure=(0.86, 1.14), gamma=(0.85, 1.1), warmth=(-0.04, 0.06), saturation=(0.5, 0.75),
        vignette=0.24, blur=0.15, noise=4.0,
    ),
}  # fmt: skip


def _clip(red: float, green: float, blue: float) -> Colour:
    return min(max(int(red), 0), 255), min(max(int(green), 0), 255), min(max(int(blue), 0), 255)


class View:
    """A pinhole camera in a street, and the two sheets it draws on: the picture and its labels."""

    def __init__(self, rng: random.Random, style: Style, size: tuple[int, int]) -> None:
        self.rng, self.style = rng, style
        self.height, self.width = (_SCALE * side for side in size)
        self.road, self.walk = rng.uniform(3.6, 5.0), rng.uniform(2.2, 3.6)  # half the road; one sidewalk
        self.x, self.y = rng.uniform(0.2, 0.55) * self.road, rng.uniform(1.7, 2.3)
        self.focal = rng.uniform(0.8, 0.95) * self.height
        # The point of the sheet where the street vanishes.
        self.u, self.v = rng.uniform(0.38, 0.62) * self.width, rng.uniform(0.42, 0.5) * self.height
        self.sun = rng.choice((-1, 1))  # the side of the street whose walls are lit
        self.haze = self.paint("horizon")
        self.sheet = Image.new("RGB", (self.width, self.height))
        self.labels = Image.new("L", (self.width, self.height), _ID["sky"])
        self.pen, self.marker = ImageDraw.Draw(self.sheet), ImageDraw.Draw(self.labels)

    def paint(self, part: str) -> Colour:
        """A paint for this part, strayed a little in brightness and in hue."""
        red, green, blue = bytes.fromhex(self.rng.choice(self.style.paints[part].split()))
        shade, tint = (self.style.spread * (self.rng.random() - 0.5) for _ in range(2))
        return _clip(red + 2 * shade + tint, green + 2 * shade, blue + 2 * shade - tint)

    def light(self, side: int) -> float:
        """Brightness of the walls on this side of the street."""
        return self.style.sides[side == self.sun]

    def at(self, point: Point) -> Span:
        """Where a point of the world falls on the sheets."""
        zoom = self.focal / max(point[2], _NEAR)
        return self.u + zoom * (point[0] - self.x), self.v + zoom * (self.y - point[1])

    def lit(self, colour: Colour, z: float, light: float = 1.0) -> Colour:
        """The colour under this light, seen through ``z`` metres of haze."""
        haze = self.style.haze * min(z / _FAR, 1.0)
        (red, green, blue), (r, g, b), light = colour, self.haze, light * (1 - haze)
        return _clip(light * red + haze * r, light * green + haze * g, light * blue + haze * b)

    def polygon(self, points: list[Point], colour: Colour, name: str | None = None, light: float = 1.0) -> None:
        """Fill a polygon; ``name`` is its class, None leaves the labels as they are."""
        self._fill("polygon", [self.at(point) for point in points], self.lit(colour, points[0][2], light), name)

    def card(self, x: float, z: float, outline: list[Span], colour: Colour, name: str | None = None) -> None:
        """Fill an outline of ``(x offset, height)`` pairs that stands upright and faces us."""
        self.polygon([(x + dx, y, z) for dx, y in outline], colour, name)

    def blob(self, centre: Point, radii: Span, colour: Colour, name: str | None = None, light: float = 1.0) -> None:
        """Fill an upright ellipse of at least one pixel; radii in metres."""
        (u, v), zoom = self.at(centre), self.focal / max(centre[2], _NEAR)
        a, b = max(zoom * radii[0], 0.5), max(zoom * radii[1], 0.5)
        self._fill("ellipse", (u - a, v - b, u + a, v + b), self.lit(colour, centre[2], light), name)

    def post(self, x: float, z: float, tall: float, width: float, colour: Colour, name: str) -> None:
        """A bar from the ground up that never gets thinner than one pixel of the label map."""
        (u, low), (_, high) = self.at((x, 0, z)), self.at((x, tall, z))
        wide = max(round(self.focal / z * width), _SCALE)
        left = round(u - wide / 2)
        self._fill("rectangle", (left, high, left + wide - 1, low), self.lit(colour, z), name)

    def _fill(self, shape: str, place: Sequence[Any], colour: Colour, name: str | None) -> None:
        getattr(self.pen, shape)(place, colour)
        if name:
            getattr(self.marker, shape)(place, _ID[name])

    def box(self, x: float, ys: Span, zs: Span, halves: Span, slant: Span, colour: Colour, name: str) -> list[Face]:
        """A box that may narrow upwards (half widths, slant of both ends). Returns the faces in view, the end last."""
        (y0, y1), (z0, z1), (low, high), (front, rear) = ys, zs, halves, slant
        faces = []
        if y1 < self.y:
            lid = [(x - high, z0 + front), (x + high, z0 + front), (x + high, z1 - rear), (x - high, z1 - rear)]
            self.polygon([(u, y1, z) for u, z in lid], colour, name, 1.12)
        if abs(x - self.x) > low:
            hand = 1 if x < self.x else -1
            near, top = x + hand * low, x + hand * high
            faces.append([(near, y0, z0), (top, y1, z0 + front), (top, y1, z1 - rear), (near, y0, z1)])
            self.polygon(faces[0], colour, name, self.light(-hand))
        faces.append([(x - low, y0, z0), (x - high, y1, z0 + front), (x + high, y1, z0 + front), (x + low, y0, z0)])
        self.polygon(faces[-1], colour, name, 0.9)
        return faces


def inset(face: Face, s0: float, s1: float, t0: float = 0.12, t1: float = 0.88) -> Face:
    """The part of a face between ``s0`` and ``s1`` of its length, ``t0`` and ``t1`` of its height."""

    def mix(a: Point, b: Point, share: float) -> Point:
        return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])

    rows = [(mix(face[0], face[1], t), mix(face[3], face[2], t)) for t in (t0, t1)]
    return [mix(*rows[0], s0), mix(*rows[1], s0), mix(*rows[1], s1), mix(*rows[0], s1)]


def steps(start: float, stop: float, step: float) -> list[float]:
    """Like ``range``, for floats."""
    return [start + step * index for index in range(math.ceil((stop - start) / step))]


def draw_sky(view: View) -> None:
    """A gradient down to the horizon, clouds, and a far skyline."""
    rng, top, low = view.rng, np.array(view.paint("sky"), np.float32), np.array(view.haze, np.float32)
    ramp = np.minimum(np.arange(view.height, dtype=np.float32) / np.float32(view.v), 1)[:, None]
    rows = (top + (low - top) * ramp * ramp).astype(np.uint8)
    view.sheet.paste(Image.fromarray(rows[:, None]).resize(view.sheet.size))
    for _ in range(rng.randint(3, 5)):
        u, v, size = rng.uniform(0, view.width), rng.uniform(0.02, 0.65) * view.v, rng.uniform(0.02, 0.05) * view.width
        cloud = view.paint("cloud")
        for step in range(-2, 3):
            puff = size * (1.2 - 0.22 * abs(step)) * rng.uniform(0.8, 1.1)
            left, right = u + step * size - 1.3 * puff, u + step * size + 1.3 * puff
            view.pen.ellipse((left, v - 0.6 * puff, right, v + 0.6 * puff), cloud)
    if view.style.softness:
        view.sheet.paste(view.sheet.filter(ImageFilter.BoxBlur(2 * view.style.softness)))
    x = -60.0
    while x < 60:
        wide, tall = rng.uniform(5, 12), rng.uniform(4, 17)
        view.card(x, _FAR, [(0, 0), (0, tall), (wide, tall), (wide, 0)], view.paint("skyline"), "building")
        x += wide


def draw_ground(view: View) -> None:
    """Grass, sidewalks with slabs, and the road with its markings, in strips that fade with depth."""
    road, walk, curb, grass, lane, white = map(view.paint, ("road", "sidewalk", "curb", "grass", "lane", "white"))
    inner, outer = view.road, view.road + view.walk
    cuts = (_NEAR, 4, 8, 13, 20, 32, 55, _FAR)

    def strip(x0: float, x1: float, z0: float, z1: float, colour: Colour, name: str, light: float = 1.0) -> None:
        view.polygon([(x0, 0, z0), (x0, 0, z1), (x1, 0, z1), (x1, 0, z0)], colour, name, light)

    for z0, z1 in zip(cuts[:-1], cuts[1:], strict=True):
        strip(-90, 90, z0, z1, grass, "vegetation")
        strip(-outer, outer, z0, z1, walk, "sidewalk")
        strip(-inner - 0.25, inner + 0.25, z0, z1, curb, "sidewalk")
        strip(-inner, inner, z0, z1, road, "road")
    for side in (-1, 1):
        for z in steps(2, 26, 1.8):
            strip(side * (inner + 0.25), side * outer, z, 1.012 * z, walk, "sidewalk", 0.88)
        strip(side * (inner - 0.35), side * (inner - 0.22), _NEAR, 60, lane, "road")
    for z in steps(view.rng.uniform(1.2, 5), 60, 6):
        strip(-0.09, 0.09, z, z + 3, lane, "road")
    if view.rng.random() < 0.35:  # a zebra crossing
        z = view.rng.uniform(6, 16)
        for x in steps(-inner + 0.5, inner - 0.8, 1.1):
            strip(x, x + 0.6, z, z + 2.6, white, "road")


def draw_shadows(view: View, shadows: list[tuple[float, float, float, float]]) -> None:
    """Darken the ground under ``(x0, x1, z0, z1)`` rectangles, all at once so that overlaps do not add up."""
    mask = Image.new("L", view.sheet.size)
    pen = ImageDraw.Draw(mask)
    for x0, x1, z0, z1 in shadows:
        pen.polygon([view.at((x, 0, z)) for x, z in ((x0, z0), (x0, z1), (x1, z1), (x1, z0))], 105)
    if view.style.softness:
        mask = mask.filter(ImageFilter.BoxBlur(view.style.softness))
    view.sheet.paste((18, 20, 34), mask=mask)


def draw_wall(
    view: View, at: Callable[[float, float], Point], long: float, tall: float, paints: dict[str, Colour], light: float
) -> None:
    """A wall with rows of windows, a door and a cornice; ``at`` says where a place (along, up) of the wall is."""

    def patch(t0: float, t1: float, y0: float, y1: float, part: str, shade: float = 1.0) -> None:
        view.polygon([at(t0, y0), at(t0, y1), at(t1, y1), at(t1, y0)], paints[part], "building", light * shade)

    patch(0, long, 0, tall, "wall")
    patch(0, long, 0, 0.5, "wall", 0.72)
    patch(0, long, tall - 0.45, tall, "trim")
    if at(0, 0)[2] > 42:  # too far to see windows
        return
    patch(0, long, 2.7, 2.95, "trim", 0.9)
    columns = int(long / 3)
    pitch = long / columns
    for column in range(columns):
        left, right = (column + 0.28) * pitch, (column + 0.72) * pitch
        patch(left, right, *((0, 2.3, "door") if column == columns // 2 else (0.9, 2.3, "window")))
        for floor in range(1, int(tall / 3)):
            patch(left - 0.1, right + 0.1, 3 * floor + 0.55, 3 * floor + 0.8, "trim")
            patch(left, right, 3 * floor + 0.8, 3 * floor + 2.3, "window", 1.0 if (column + floor) % 3 else 1.18)


def draw_house(view: View, side: int, z0: float, z1: float, tall: float, pitched: bool) -> None:
    """A house along the street: perhaps a pitched roof, the end that faces us, and the street front."""
    x = side * (view.road + view.walk)
    paints = {part: view.paint(part) for part in ("wall", "trim", "window", "door", "roof")}
    if pitched:
        eaves, ridge, back = (x, tall, z0), (x + side * 3.5, tall + 3, z0), (x + side * 7, tall, z0)
        view.polygon([eaves, ridge, back], paints["wall"], "building", 0.85)
        view.polygon([eaves, ridge, (*ridge[:2], z1), (x, tall, z1)], paints["roof"], "building", view.light(side))
    draw_wall(view, lambda t, y: (x + side * t, y, z0), 7.0, tall, paints, 0.9)
    draw_wall(view, lambda t, y: (x, y, z0 + t), z1 - z0, tall, paints, view.light(side))


def draw_fence(view: View, side: int, z0: float, z1: float) -> None:
    """Boards along the back of the sidewalk."""
    x, paint, light = side * (view.road + view.walk), view.paint("fence"), view.light(side)
    view.polygon([(x, 0, z0), (x, 1.3, z0), (x, 1.3, z1), (x, 0, z1)], paint, "fence", 0.72 * light)
    for z in steps(z0, z1 - 0.5, 1.0) if z0 < 40 else ():
        view.polygon([(x, 0, z), (x, 1.4, z), (x, 1.4, z + 0.6), (x, 0, z + 0.6)], paint, "fence", light)


def draw_tree(view: View, x: float, z: float, tall: float) -> None:
    """A trunk and a crown of blobs, dark below and bright towards the sun; fewer blobs far away."""
    count, size = view.style.leaves
    radius = 0.186 * tall * size
    view.post(x, z, 0.6 * tall, 0.05 * tall, view.paint("trunk"), "vegetation")
    leaf = view.paint("leaf")
    places = [(view.rng.uniform(-1, 1), view.rng.uniform(-1, 1)) for _ in range(max(int(12 * count / max(z, 12)), 4))]
    for dx, dy in sorted(places, key=lambda place: place[1]):
        dx *= 1 - 0.4 * abs(dy)
        centre = (x + 0.225 * tall * dx, (0.68 + 0.225 * dy) * tall, z)
        view.blob(centre, (radius, 0.92 * radius), leaf, "vegetation", 0.86 + 0.16 * dy + 0.08 * dx * view.sun)


def draw_lamp(view: View, side: int, z: float) -> None:
    """A street lamp whose arm reaches over the road."""
    x, paint = side * (view.road + 0.5), view.paint("pole")
    view.post(x, z, 6.4, 0.24, paint, "pole")
    view.card(x, z, [(0, 6.4), (0, 6.15), (-side * 1.6, 6.4), (-side * 1.6, 6.6)], paint, "pole")
    view.blob((x - side * 1.6, 6.4, z), (0.35, 0.12), (255, 240, 200), "pole")


def draw_sign(view: View, side: int, z: float) -> None:
    """A round sign, a square sign or a traffic light on its post."""
    x, face, white = side * (view.road + 0.45), view.paint("sign"), view.paint("white")
    view.post(x, z, 2.6, 0.16, view.paint("pole"), "pole")
    kind = view.rng.choice(("round", "square", "light"))
    if kind == "round":
        view.blob((x, 2.9, z), (0.5, 0.5), face, "sign")
        view.blob((x, 2.9, z), (0.3, 0.3), white)
    elif kind == "square":
        view.card(x, z, [(-0.5, 2.4), (-0.5, 3.4), (0.5, 3.4), (0.5, 2.4)], face, "sign")
        view.card(x, z, [(0, 3.2), (-0.3, 2.65), (0.3, 2.65)], white)
    else:
        view.card(x, z, [(-0.3, 2.3), (-0.3, 3.7), (0.3, 3.7), (0.3, 2.3)], view.paint("case"), "sign")
        for y, lamp in ((3.4, (250, 60, 50)), (3.0, (110, 90, 40)), (2.6, (40, 110, 70))):
            view.blob((x, y, z), (0.17, 0.17), lamp)


def draw_running_gear(
    view: View, x: float, z: float, half: float, axles: Span, name: str, end: Face, ahead: bool
) -> None:
    """Wheels of a vehicle; tail or head lights and the plate on the end that faces us."""
    tyre, light = view.paint("tyre"), (238, 36, 34) if ahead else (255, 246, 210)
    for hand in (-1, 1):
        a, b = hand * 0.62 * half, hand * 0.98 * half
        view.card(x, z, [(a, 0), (a, 0.45), (b, 0.45), (b, 0)], tyre, name)
    near = x + half if x < view.x else x - half
    for axle in axles if abs(x - view.x) > half else ():
        squeeze = min(1.0, 1.3 * abs(near - view.x) / (z + axle))  # a wheel seen from behind is narrow
        view.blob((near, 0.36, z + axle), (0.36 * squeeze, 0.36), tyre, name)
    for s in (0.06, 0.76):
        view.polygon(inset(end, s, s + 0.18, 0.55, 0.8), light)
    view.polygon(inset(end, 0.36, 0.64, 0.2, 0.42), view.paint("white"))


def draw_car(view: View, x: float, z: float, ahead: bool) -> None:
    """A body and a cabin with windows; ``ahead`` shows us its tail, otherwise its bonnet."""
    paint, glass = view.paint("car"), view.paint("glass")
    *_, end = view.box(x, (0.28, 0.92), (z, z + 4.2), (0.9, 0.88), (0.0, 0.0), paint, "car")
    slant = (0.5, 1.2) if ahead else (1.2, 0.5)
    *sides, screen = view.box(x, (0.92, 1.5), (z, z + 4.2), (0.86, 0.66), slant, paint, "car")
    for side in sides:
        view.polygon(inset(side, 0.1, 0.5), glass)
        view.polygon(inset(side, 0.55, 0.88), glass)
    view.polygon(inset(screen, 0.09, 0.91), glass)
    draw_running_gear(view, x, z, 0.9, (0.8, 3.4), "car", end, ahead)


def draw_bus(view: View, x: float, z: float, ahead: bool) -> None:
    """A long tall box with a row of windows."""
    glass = view.paint("glass")
    *sides, end = view.box(x, (0.35, 3.1), (z, z + 10), (1.25, 1.25), (0.0, 0.0), view.paint("bus"), "bus")
    for side in sides:
        for s in steps(0.04, 0.95, 0.19):
            view.polygon(inset(side, s, s + 0.16, 0.45, 0.85), glass)
    view.polygon(inset(end, 0.06, 0.94, 0.4, 0.86), glass)
    draw_running_gear(view, x, z, 1.25, (2.0, 8.0), "bus", inset(end, 0, 1, 0, 0.38), ahead)


def draw_person(view: View, x: float, z: float) -> None:
    """Somebody in mid-step: legs, arms, coat and head."""
    size, step = view.rng.uniform(0.9, 1.08), view.rng.uniform(0.05, 0.3)
    shirt, trousers, skin, hair = map(view.paint, ("shirt", "trousers", "skin", "hair"))

    def part(outline: list[Span], colour: Colour) -> None:
        view.card(x, z, [(size * dx, size * y) for dx, y in outline], colour, "person")

    for hand in (-1, 1):
        foot, wrist = hand * (step + 0.08), hand * (0.22 + step / 3)
        part([(hand * 0.17, 0.9), (foot, 0), (foot - hand * 0.16, 0), (-hand * 0.02, 0.9)], trousers)
        part([(hand * 0.2, 1.42), (wrist + hand * 0.05, 0.85), (wrist - hand * 0.06, 0.82), (hand * 0.1, 1.3)], shirt)
    part([(-0.2, 1.44), (-0.19, 0.8), (0.19, 0.8), (0.2, 1.44)], shirt)
    view.blob((x, 1.63 * size, z), (0.13 * size, 0.16 * size), hair, "person")
    view.blob((x, 1.58 * size, z), (0.11 * size, 0.11 * size), skin, "person")


def draw_scene(view: View) -> None:
    """Plan both sides of the street, then draw the sky, the ground, and all that stands on it from far to near."""
    rng, edge = view.rng, view.road
    plots: list[tuple] = []  # (distance, drawing function, its arguments)
    street: list[tuple] = []
    shadows: list[tuple[float, float, float, float]] = []

    def drive(vehicle: Callable[..., None], x: float, z: float, half: float, long: float, ahead: bool) -> None:
        street.append((z, vehicle, x, z, ahead))
        shadows.append((x - half - 0.2, x + half + 0.2, z - 0.3, z + long))

    for side in (-1, 1):
        back, z0 = side * (edge + view.walk), _NEAR
        while z0 < _FAR - 10:
            z1 = z0 + rng.uniform(8, 17)
            if rng.random() < view.style.greenery:
                plots.append((z0, draw_fence, side, z0, z1))
                for _ in range(3):
                    z = rng.uniform(z0 + 1, z1)
                    plots.append((z, draw_tree, back + side * rng.uniform(2.5, 7), z, rng.uniform(4.5, 8)))
            else:
                tall = rng.uniform(5.5, 14)
                plots.append((z0, draw_house, side, z0, z1, tall, rng.random() < 0.45))
                if side != view.sun:
                    shadows.append((back, back - side * min(0.42 * tall, 5.5), z0, z1))
            z0 = z1
        street += [(z, draw_lamp, side, z) for z in steps(rng.uniform(6, 14), 50, rng.uniform(13, 19))]
        street += [(z, draw_sign, side, z) for z in steps(rng.uniform(5, 12), 38, rng.uniform(14, 22))]
        x = side * (edge + 0.8)
        for z in steps(rng.uniform(8, 14), 80, rng.uniform(9, 14)) if rng.random() < 0.5 else ():
            street.append((z, draw_tree, x, z, rng.uniform(4.5, 6.5)))
            shadows.append((x - 1.2, x + 1.2, z - 0.7, z + 0.9))
        for z in steps(rng.uniform(5, 9), 60, 6):
            if rng.random() < view.style.traffic:
                drive(draw_car, side * (edge - 1.15), z, 0.9, 4.4, side > 0)
        for _ in range(rng.randint(3, 5)):
            x, z = side * (edge + rng.uniform(0.8, view.walk - 0.3)), rng.uniform(4.5, 19)
            street.append((z, draw_person, x, z))
            shadows.append((x - 0.35, x + 0.35, z - 0.2, z + 0.3))
    if rng.random() < 0.55:  # somebody comes towards us
        vehicle, half, long = (draw_bus, 1.25, 10.0) if rng.random() < 0.65 else (draw_car, 0.9, 4.4)
        drive(vehicle, -0.42 * edge, rng.uniform(10, 26), half, long, False)

    draw_sky(view)
    draw_ground(view)
    draw_shadows(view, shadows)
    for group in (plots, street):  # nothing on the street is ever hidden behind a plot
        for _, draw, *arguments in sorted(group, key=lambda thing: -thing[0]):
            draw(view, *arguments)


def develop(picture: Image.Image, label: np.ndarray, style: Style, rng: random.Random) -> np.ndarray:
    """What lies between the scene and the file: surface texture, light, lens, sensor noise and coarse chroma."""
    (height, width), resize = label.shape, Image.Resampling.BILINEAR
    exposure, gamma, warmth, saturation = (
        rng.uniform(*span) for span in (style.exposure, style.gamma, style.warmth, style.saturation)
    )

    def dice(*shape: int) -> np.ndarray:
        return np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)

    pixels = np.asarray(picture, np.float32)
    if style.texture:
        grain = np.zeros((height, width), np.float32)
        for cell, weight in ((1, 0.5), (3, 0.5), (12, 0.6)):
            coarse = Image.fromarray(dice(height // cell + 1, width // cell + 1)).resize((width, height), resize)
            grain += np.float32(weight * style.texture) * (np.asarray(coarse, np.float32) / 127.5 - 1)
        rough = np.array([_ROUGH.get(name, 1.0) for name in CLASSES], np.float32)
        pixels = pixels * (1 + rough[label] * grain)[..., None]
    grey = (pixels[..., :1] + pixels[..., 1:2] + pixels[..., 2:]) / 3
    down, right = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    lens = 1 - np.float32(0.5 * style.vignette) * (down * down + right * right)
    light = lens[..., None] * np.array([exposure * (1 + warmth), exposure, exposure * (1 - warmth)], np.float32)
    pixels = (grey + np.float32(saturation) * (pixels - grey)) * light
    curve = np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    image = Image.fromarray(curve[np.clip(pixels, 0, 255).astype(np.uint8)])
    if style.blur:
        image = image.filter(ImageFilter.BoxBlur(style.blur))
    if style.noise:
        noise = dice(height, width, 3).astype(np.float32) + dice(height, width, 3) - 255
        noisy = np.clip(np.asarray(image) + np.float32(style.noise / 128) * noise, 0, 255).astype(np.uint8)
        luma, *chroma = Image.fromarray(noisy).convert("YCbCr").split()
        halved = (channel.reduce(2).resize((width, height), resize) for channel in chroma)
        image = Image.merge("YCbCr", (luma, *halved)).convert("RGB")
    return np.array(image)


def render_street(
    seed: int, style: Literal["game", "camera"], size: tuple[int, int] = (96, 128)
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street.

    Args:
        seed: Names the scene; the two styles draw different scenes from one seed.
        style: ``game`` (clean and colourful) or ``camera`` (dull, hazy, noisy).
        size: Height and width in pixels.

    Returns:
        The uint8 RGB picture ``[H, W, 3]`` and its uint8 class ids ``[H, W]``, indices into `CLASSES`.
    """
    rng = random.Random(len(STYLES) * seed + list(STYLES).index(style))
    view = View(rng, STYLES[style], size)
    draw_scene(view)
    label = np.asarray(view.labels)[1::_SCALE, 1::_SCALE].copy()
    return develop(view.sheet.reduce(_SCALE), label, view.style, rng), label
