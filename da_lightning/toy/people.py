"""Pedestrians of two camera networks, drawn from numbers: ``street`` (bright and sharp), ``station`` (dark and tinted).

Both dress their people from the same wardrobe, whose few colours many share: a person is known by the combination of
build, hair, clothes, patterns and bags, seen from any side. What differs is the cameras: white balance, exposure,
contrast, blur, noise, mounting height and scene. The gap is set by design: cameras of the station were tuned until
features learned in the street recognised its people badly, but not hopelessly. So this world shows that an adaptation
method works, not how well it does elsewhere.

Chance comes from `random.Random` and floats see elementary operations only, so the same numbers give the same bytes on
every machine with the same Pillow.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SCALE = 4  # supersampling
_WIDE = 6  # how many pictures fit side by side into the scene of a camera
_WARDROBE = {
    "skin": "f0c8a8 d8a67e a87650 704a34",
    "hair": "1c1816 3a261a 6a4428 b89050 a0a09c",
    "hat": "24262c b03038 3c5488 d8d0c0",
    "top": "26282e 6a6e78 ebe8e2 2e4074 b4343a c8b088 3e7e50 6a9ad0",
    "second": "26282e ebe8e2 2e4074 b4343a dcb440",
    "bottom": "1e2026 2e3e68 646c78 8e7a5a",
    "shoes": "1c1c1e ece8e0 6e4a32 a83038",
    "bag": "22242a 803434 38547e 8e7e52",
}

Network = Literal["street", "station"]
Colour = tuple[int, int, int]
Span = tuple[float, float]
Point = tuple[float, float]  # in heights of the person: to the right of the middle, and up from the ground


@dataclass(frozen=True)
class Style:
    """What the cameras of one network have in common. A `Span` is drawn anew for each camera."""

    wall: str  # hexadecimal colours to choose from
    floor: str
    things: str  # what stands about in the scene
    leafy: float  # chance that such a thing is a bush
    exposure: Span
    cast: Span  # strength of the tint
    fog: Span  # share of tinted haze
    curve: Span  # below 0, mid-tones are darkened
    saturation: Span
    blur: Span
    noise: Span
    tilt: Span  # how much larger the head gets than the feet: mounting height


STYLES: dict[Network, Style] = {
    "street": Style(
        wall="d8c8ac c4a088 b8c4d0 e0d8cc a8b8a0", floor="a8a49c b8b0a4 989aa0", things="7c6450 8898a8 e4dccc 5c7c58",
        leafy=0.45, exposure=(0.8, 1.08), cast=(0.05, 0.13), fog=(0.0, 0.08), curve=(-0.2, 0.2),
        saturation=(0.7, 1.05), blur=(0.0, 0.4), noise=(2.0, 5.0), tilt=(0.0, 0.2),
    ),
    "station": Style(
        wall="8c8c88 a0947c 70787c b4b0a4", floor="6c6a68 84807a 585c60", things="3c4044 c8b43c 5c5048 a8b0b4 28466c",
        leafy=0.0, exposure=(0.7, 0.95), cast=(0.1, 0.18), fog=(0.04, 0.12), curve=(-0.25, 0.1),
        saturation=(0.6, 0.9), blur=(0.3, 0.7), noise=(3.0, 6.0), tilt=(0.1, 0.35),
    ),
}  # fmt: skip


def _paint(rng: random.Random, palette: str, spread: float = 7) -> Colour:
    """A colour of the palette, strayed a little."""
    red, green, blue = bytes.fromhex(rng.choice(palette.split()))
    return _shade((red, green, blue), 1.0, rng.uniform(-spread, spread))


def _shade(colour: Colour, light: float, lift: float = 0.0) -> Colour:
    red, green, blue = (min(max(int(light * value + lift), 0), 255) for value in colour)
    return red, green, blue


class Look:
    """What makes a person: the same in each camera and at all times."""

    def __init__(self, rng: random.Random) -> None:
        self.paints = {part: _paint(rng, palette) for part, palette in _WARDROBE.items()}
        self.tall, self.wide = rng.uniform(0.93, 1.05), rng.uniform(0.82, 1.28)
        self.hair = rng.choice(("bald", "short", "short", "long", "long", "bun"))
        self.hat = rng.random() < 0.2
        self.bottom = rng.choice(("trousers", "trousers", "trousers", "shorts", "skirt", "dress"))
        self.hem = 0.36 if rng.random() < 0.2 and self.bottom != "dress" else rng.uniform(0.46, 0.5)  # a coat or not
        self.sleeve = rng.choice((0.48, 0.48, 0.67, 0.75))
        self.pattern = rng.choice(("plain", "plain", "stripes", "bars", "checks", "block", "print"))
        self.jacket = self.sleeve < 0.5 and rng.random() < 0.45  # open, over a shirt in the second colour
        self.bag = rng.choice(("none", "backpack", "shoulder", "hand"))
        self.boots = self.bottom != "trousers" and rng.random() < 0.4
        self.tights = self.bottom in ("skirt", "dress") and rng.random() < 0.4
        self.hand = rng.choice((-1, 1))  # which hand holds the bag


class Camera:
    """Where a camera hangs, what it sees when nobody passes, and how it renders colours."""

    def __init__(self, rng: random.Random, style: Style, number: int) -> None:
        self.exposure, self.fog, self.curve = (rng.uniform(*s) for s in (style.exposure, style.fog, style.curve))
        self.saturation, self.blur, self.noise = (rng.uniform(*s) for s in (style.saturation, style.blur, style.noise))
        self.tilt, self.scale, cast = rng.uniform(*style.tilt), rng.uniform(0.84, 0.92), rng.uniform(*style.cast)
        hue = 0.618034 * number + rng.uniform(-0.06, 0.06)  # golden steps keep the casts of any number of cameras apart
        self.gains = [1 + cast * (4 * abs((hue + third / 3) % 1 - 0.5) - 1) for third in range(3)]  # a triangle wave
        palettes = style.wall, style.floor, style.things
        self.wall, self.floor, self.edge = (_paint(rng, palette, 16) for palette in palettes)
        self.horizon = rng.uniform(0.3, 0.55) - 0.5 * self.tilt
        self.tiles = rng.choice((0.0, 0.09, 0.16))
        self.things = [
            (
                rng.uniform(0, _WIDE), rng.uniform(0.1, 0.6), rng.uniform(-0.1, 0.3), rng.uniform(-0.06, 0.04),
                _paint(rng, style.things, 24), rng.random() < style.leafy,
            )
            for _ in range(3 * _WIDE)
        ]  # fmt: skip


class Figure:
    """Draws one person on a sheet; facing 0 shows the front, 2 the back, 1 and -1 walk to the right and to the left."""

    def __init__(
        self, pen: ImageDraw.ImageDraw, look: Look, rng: random.Random, feet: Point, tall: float, tilt: float
    ) -> None:
        self.pen, self.look, self.feet, self.tall, self.tilt = pen, look, feet, tall, tilt
        self.facing, self.step = rng.choice((0, 0, 2, 2, 1, -1)), rng.uniform(-1, 1)
        self.side = abs(self.facing) == 1
        self.hand = look.hand * (self.facing if self.side else 1 - self.facing)  # which arm that is in this picture
        self.wide = look.wide * (0.66 if self.side else rng.uniform(0.88, 1.0))

    def at(self, x: float, y: float) -> Point:
        """A camera from above sees the upper parts larger."""
        zoom = self.tall * (1 + self.tilt * (y - 0.5))
        return self.feet[0] + zoom * x, self.feet[1] - self.tall * (y + self.tilt * (y * y - y) / 2)

    def part(self, points: list[Point], colour: Colour) -> None:
        self.pen.polygon([self.at(*point) for point in points], colour)

    def box(self, x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        self.part([(x0, y0), (x0, y1), (x1, y1), (x1, y0)], colour)

    def blob(self, x: float, y: float, a: float, b: float, colour: Colour) -> None:
        (left, low), (right, high) = self.at(x - a, y - b), self.at(x + a, y + b)
        self.pen.ellipse((left, high, right, low), colour)

    def limb(self, joints: list[Point], halves: Span, colour: Colour, until: float = 0.0) -> None:
        """A limb from its first joint, at full thickness, down to its last or to the height ``until``."""
        left, right = [], []
        top, low = joints[0][1], joints[-1][1]
        for (x0, y0), (x, y) in zip([joints[0], *joints], joints, strict=False):
            if y < until:
                x, y = (x0 + (x - x0) * (y0 - until) / (y0 - y), until) if y0 > until else (x0, y0)
            half = halves[0] + (halves[1] - halves[0]) * (top - y) / (top - low)
            left.append((x - half, y))
            right.append((x + half, y))
        self.part([*left, *reversed(right)], colour)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw all parts, from the far side to the near one."""
        look = self.look
        self.blob(0, -0.005, 0.2, 0.025, (50, 48, 50))
        if look.hair == "long" and self.facing != 2:
            self.draw_long_hair()
        if self.side:
            self.draw_arm(-1, 0.82)
        for leg, light in ((-1, 0.82 if self.side else 0.94), (1, 1.0)):
            self.draw_leg(leg, light)
        if look.bottom in ("skirt", "dress"):
            self.draw_skirt()
        if look.bag == "backpack" and self.side:
            self.blob(-self.facing * (self.half(0.7) + 0.035), 0.68, 0.055, 0.12, look.paints["bag"])
        self.draw_torso()
        if not self.side:
            self.draw_arm(-1, 0.94)
        self.draw_head()
        self.draw_arm(1, 1.0)
        if look.hair == "long" and self.facing == 2:
            self.draw_long_hair()
        self.draw_bag()

    def half(self, y: float) -> float:
        """Half the width of the torso at a height."""
        return self.wide * (0.098 + 0.1 * abs(y - 0.62))

    def band(self, y0: float, y1: float, x0: float, x1: float, colour: Colour) -> None:
        """A piece of the torso's cloth; across it goes from -1 to 1."""
        low, high = self.half(y0), self.half(y1)
        self.part([(low * x0, y0), (high * x0, y1), (high * x1, y1), (low * x1, y0)], colour)

    def draw_leg(self, leg: int, light: float) -> None:
        look, step = self.look, leg * self.step
        if self.side:
            lift = 0.05 * max(-step * self.facing, 0)
            joints = [(0.0, 0.52), (0.09 * step + 0.02 * self.facing, 0.28), (0.16 * step, 0.045 + lift)]
        else:
            lift = 0.035 * max(step, 0)
            joints = [(0.05 * leg * self.wide, 0.52), (0.055 * leg * self.wide, 0.28), (0.058 * leg, 0.045 + lift)]
        bare = look.paints["bag" if look.tights else "skin"]
        self.limb(joints, (0.045, 0.028), _shade(bare, light))
        if look.bottom in ("trousers", "shorts"):
            hem = 0.3 if look.bottom == "shorts" else 0.05
            self.limb(joints, (0.053 * look.wide, 0.032), _shade(look.paints["bottom"], light), hem)
        foot, shoes = joints[-1], _shade(look.paints["shoes"], light)
        if look.boots:
            self.limb([joints[1], foot], (0.034, 0.036), shoes)
            self.limb([joints[1], foot], (0.042, 0.028), _shade(bare, light), 0.19 + lift)
        toe = 0.035 * self.facing if self.side else 0.0
        self.blob(foot[0] + toe, foot[1] - 0.01, 0.065 if self.side else 0.042, 0.027, shoes)

    def draw_skirt(self) -> None:
        flare = self.wide * 0.125 + (0.05 * abs(self.step) if self.side else 0.02)
        colour = self.look.paints["top" if self.look.bottom == "dress" else "bottom"]
        self.part([(-0.09 * self.wide, 0.56), (0.09 * self.wide, 0.56), (flare, 0.29), (-flare, 0.29)], colour)

    def draw_torso(self) -> None:
        look, hem = self.look, self.look.hem
        first, second = look.paints["top"], look.paints["second"]
        self.band(hem, 0.62, -1, 1, first)
        self.band(0.62, 0.82, -1, 1, first)
        self.part([(-self.half(0.82), 0.819), (-0.04, 0.85), (0.04, 0.85), (self.half(0.82), 0.819)], first)
        if look.jacket:
            if self.facing != 2:
                x0, x1 = {0: (-0.4, 0.4), 1: (0.45, 1.0), -1: (-1.0, -0.45)}[self.facing]
                for y0, y1 in ((max(hem, 0.48), 0.62), (0.62, 0.83)):
                    self.band(y0, y1, x0, x1, second)
            return
        if look.pattern in ("stripes", "checks"):
            for y in (0.78, 0.7, 0.62, 0.54, 0.46, 0.38)[: int((0.8 - hem) / 0.08)]:
                self.band(y, y + 0.036, -1, 1, second)
        if look.pattern in ("bars", "checks"):
            for x in (-0.75, -0.15, 0.45):
                for y0, y1 in ((hem, 0.62), (0.62, 0.82)):
                    self.band(y0, y1, x, x + 0.3, second)
        elif look.pattern == "block":
            self.band(0.68, 0.82, -1, 1, second)
        elif look.pattern == "print" and self.facing != 2:
            self.blob(0.5 * self.facing * self.half(0.7), 0.7, 0.055 / (1 + self.side), 0.055, second)

    def draw_arm(self, arm: int, light: float) -> None:
        look = self.look
        if self.side:
            swing = -arm * self.step
            joints = [(0.0, 0.8), (0.09 * swing, 0.63), (0.16 * swing + 0.03 * self.facing, 0.48)]
        else:
            out = arm * self.wide
            joints = [(0.105 * out, 0.81), (0.14 * out, 0.63), (0.138 * out, 0.47 + 0.02 * arm * self.step)]
        self.blob(*joints[-1], 0.025, 0.03, _shade(look.paints["skin"], light))
        self.limb(joints, (0.03, 0.022), _shade(look.paints["skin"], light))
        sleeve = look.paints["second" if look.pattern == "block" and not look.jacket else "top"]
        self.limb(joints, (0.036, 0.032), _shade(sleeve, 0.93 * light), look.sleeve)
        if look.bag == "hand" and arm == self.hand:
            x, y = joints[-1]
            wide = 0.075 if self.side else 0.05
            self.box(x - wide, x + wide, y - 0.13, y, look.paints["bag"])

    def draw_head(self) -> None:
        look, paints, forward = self.look, self.look.paints, self.facing if self.side else 0
        self.limb([(0.0, 0.87), (0.0, 0.83)], (0.03, 0.035), _shade(paints["skin"], 0.88))
        self.blob(0.012 * forward, 0.913, 0.05, 0.067, paints["skin"])
        if look.hair != "bald":
            if self.facing == 2:
                self.blob(0, 0.925, 0.055, 0.066, paints["hair"])
            else:
                self.blob(-0.018 * forward, 0.951, 0.055, 0.042, paints["hair"])
            if self.side:
                self.blob(-0.03 * forward, 0.925, 0.035, 0.055, paints["hair"])
            if look.hair == "bun":
                self.blob(-0.055 * forward, 0.985 - 0.03 * self.side, 0.028, 0.028, paints["hair"])
        if look.hat:
            self.blob(0, 0.962, 0.06, 0.045, paints["hat"])
            self.box(0.045 * forward - 0.06, 0.045 * forward + 0.06, 0.945, 0.965, paints["hat"])

    def draw_long_hair(self) -> None:
        back = -0.03 * self.facing if self.side else 0.0
        half = 0.045 if self.side else 0.062
        self.box(back - half, back + half, 0.77, 0.96, _shade(self.look.paints["hair"], 0.92))

    def draw_bag(self) -> None:
        look, colour = self.look, self.look.paints["bag"]
        if look.bag == "backpack":
            if self.facing == 2:
                self.box(-0.08, 0.08, 0.58, 0.8, colour)
                self.blob(0, 0.8, 0.08, 0.03, colour)
                self.box(-0.05, 0.05, 0.6, 0.68, _shade(colour, 0.75))
            elif self.side:
                self.box(-0.015, 0.015, 0.64, 0.83, colour)
            else:
                for x in (-0.55, 0.55):
                    self.band(0.66, 0.83, x - 0.14, x + 0.14, colour)
        elif look.bag == "shoulder":
            x = 0.0 if self.side else self.hand * self.half(0.5)
            top = 0.0 if self.side else -0.7 * self.hand * self.half(0.82)
            self.limb([(top, 0.83), (x, 0.52)], (0.016, 0.016), colour)
            self.blob(x, 0.49, 0.075 if self.side else 0.055, 0.065, colour)


class Scene:
    """One moment in front of a camera."""

    def __init__(self, rng: random.Random, camera: Camera, size: tuple[int, int]) -> None:
        self.rng, self.camera, self.size = rng, camera, size
        self.height, self.width = (_SCALE * side for side in size)
        self.sheet = Image.new("RGB", (self.width, self.height), camera.wall)
        self.pen = ImageDraw.Draw(self.sheet)

    def draw_place(self) -> None:
        """Wall, floor and what stands about, seen a little further to the left or the right each time."""
        camera, (height, width) = self.camera, (self.height, self.width)
        pan, bob = self.rng.uniform(0, _WIDE - 1), self.rng.uniform(-0.05, 0.05)
        ground = (camera.horizon + 0.25 + bob) * height
        if camera.tiles:
            seam, step = _shade(camera.wall, 0.86), camera.tiles * height
            for row in range(int(ground / step) + 1):
                self.pen.line((0, ground - row * step, width, ground - row * step), seam, 2)
            for column in range(int(width / step) + 2):
                x = (column - pan * width / step % 1) * step
                self.pen.line((x, 0, x, ground), seam, 2)
        self.pen.rectangle((0, ground, width, height), camera.floor)
        self.pen.rectangle((0, ground, width, ground + 0.03 * height), camera.edge)
        for x, wide, top, foot, colour, is_leafy in camera.things:
            box = (x - pan) * width, top * height, (x - pan + wide) * width, ground + foot * height
            if box[2] > 0 and box[0] < width and box[3] > box[1]:
                (self.pen.ellipse if is_leafy else self.pen.rectangle)(box, colour)

    def draw_figure(self, look: Look, x: float, low: float, size: float) -> None:
        """A person whose feet are at (x, low) in sides of the picture, ``size`` of its height tall."""
        feet = x * self.width, low * self.height
        Figure(self.pen, look, self.rng, feet, size * look.tall * self.height, self.camera.tilt).draw()

    def draw_stranger(self, size: float, low: float) -> None:
        """Somebody cut off by the left or the right edge."""
        x = self.rng.choice((0, 1)) + self.rng.uniform(-0.08, 0.08)
        self.draw_figure(Look(random.Random(self.rng.getrandbits(64))), x, low, size)

    def draw_obstacle(self) -> None:
        """A pole or something low in front of the person."""
        rng, (height, width), colour = self.rng, (self.height, self.width), self.camera.edge
        x = rng.uniform(0.15, 0.85) * width
        if rng.random() < 0.4:
            self.pen.rectangle((x, 0, x + rng.uniform(0.06, 0.13) * width, height), _shade(colour, 0.8))
        else:
            half = rng.uniform(0.2, 0.5) * width
            self.pen.rectangle((x - half, rng.uniform(0.66, 0.82) * height, x + half, height), _shade(colour, 0.9))

    def develop(self) -> np.ndarray:
        """Light of the moment, then the colours, the lens and the sensor of the camera."""
        rng, camera, (height, width) = self.rng, self.camera, self.size
        pixels = np.asarray(self.sheet.reduce(_SCALE), np.float32) / 255
        slope = rng.uniform(-0.12, 0.12) * np.linspace(-1, 1, width, dtype=np.float32)[:, None]
        grey = (pixels[..., :1] + pixels[..., 1:2] + pixels[..., 2:]) / 3
        pixels = grey + np.float32(camera.saturation) * (pixels - grey)
        gains, tint = np.array(camera.gains, np.float32), rng.uniform(-0.05, 0.05)
        light = rng.uniform(0.82, 1.15) * camera.exposure * np.array([1 + tint, 1, 1 - tint], np.float32)
        pixels = pixels * (1 + slope) * light * gains
        pixels = pixels + np.float32(camera.fog) * (np.float32(0.55) * gains - pixels)
        pixels = np.clip(pixels, 0, 1)
        pixels = pixels + np.float32(camera.curve) * pixels * (1 - pixels)
        image = Image.fromarray((255 * pixels).astype(np.uint8)).filter(ImageFilter.BoxBlur(camera.blur))
        dice = np.frombuffer(rng.randbytes(2 * height * width * 3), np.uint8).reshape(2, height, width, 3)
        noise = dice.astype(np.float32).sum(0) - 255
        return np.clip(np.asarray(image) + np.float32(camera.noise / 104) * noise, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1024)
def _look(network: Network, person: int) -> Look:
    return Look(random.Random(f"{network} person {person}"))


@lru_cache(maxsize=64)
def _camera(network: Network, camera: int) -> Camera:
    return Camera(random.Random(f"{network} camera {camera}"), STYLES[network], camera)


def render_person(
    person: int, camera: int, view: int, network: Network, size: tuple[int, int] = (64, 32), bad_box: bool = False
) -> np.ndarray:
    """Draw one person in front of one camera: uint8 RGB ``[H, W, 3]``.

    Args:
        person: Names the person; the two networks show different people under one number.
        camera: Names the camera, from 1.
        view: Names the moment: pose, crop, place and whoever is in the way.
        network: ``street`` or ``station``.
        size: Height and width in pixels; height about twice the width.
        bad_box: Whether the detector missed most of the person.
    """
    rng = random.Random(f"{network} {person} {camera} {view}")
    eye = _camera(network, camera)
    scene = Scene(rng, eye, size)
    scene.draw_place()
    if rng.random() < 0.25:
        scene.draw_stranger(rng.uniform(0.5, 0.7), rng.uniform(0.7, 0.85))
    zoom = eye.scale * rng.uniform(0.9, 1.1)
    x, low = 0.5 + rng.uniform(-0.1, 0.1), 0.5 + zoom / 2 + rng.uniform(-0.025, 0.035)
    if bad_box:
        x, low = x + rng.choice((-0.5, 0.5)), low + rng.choice((-0.55, 0.0, 0.55))
    scene.draw_figure(_look(network, person), x, low, zoom)
    if rng.random() < 0.15:
        scene.draw_obstacle()
    elif rng.random() < 0.12:
        scene.draw_stranger(zoom, low + rng.uniform(0.0, 0.1))
    return scene.develop()
