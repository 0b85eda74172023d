"""Shoes drawn from a seed in two looks: lines on white, and the same kind of shoes in coloured materials.

Shape, from a ballet flat to a tall boot, is the content that both looks share; colours and gloss are the style, drawn
independently of it. Each line of a drawing is a dark seam in a photo, so that :func:`edges` finds it again: whether a
translation keeps its outlines is measured by :func:`edge_f1`.

Chance comes from `random.Random` and floats see elementary operations only, so a seed gives the same bytes on every
machine with the same Pillow.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SCALE = 4  # supersampling
_LINE = 1.35  # width of a line in pixels of the picture

Style = Literal["drawing", "photo"]
STYLES: tuple[Style, ...] = ("drawing", "photo")
Colour = tuple[int, int, int]
Span = tuple[float, float]
Point = tuple[float, float]  # along the foot from the toe (0) to the heel (1), and height in sides of the picture


@dataclass(frozen=True)
class Kind:
    """A kind of shoe; a `Span` is drawn anew for each shoe. Heights are in sides of the picture."""

    build: Literal["slipper", "trainer", "shaft"]
    long: Span
    sole: Span
    lift: Span  # of the heel above the ball of the foot
    collar: Span  # height of the upper edge above the insole
    laces: int


KINDS = {
    "trainer": Kind("trainer", (0.72, 0.9), (0.045, 0.1), (0.0, 0.0), (0.22, 0.34), 3),
    "high-top": Kind("shaft", (0.66, 0.84), (0.04, 0.085), (0.0, 0.0), (0.36, 0.54), 5),
    "boot": Kind("shaft", (0.66, 0.84), (0.04, 0.075), (0.015, 0.07), (0.34, 0.5), 0),
    "tall boot": Kind("shaft", (0.6, 0.78), (0.04, 0.07), (0.015, 0.1), (0.5, 0.66), 0),
    "pump": Kind("slipper", (0.64, 0.84), (0.035, 0.055), (0.12, 0.3), (0.17, 0.25), 0),
    "flat": Kind("slipper", (0.7, 0.9), (0.035, 0.06), (0.0, 0.0), (0.17, 0.28), 0),
}
_PAINTS = (
    "d8453c f08a3c f4c542 8cc04a 3ea878 35b0b8 4a8ede 5a62c8 8c5cc8 d868b4 f09ab0 "
    "b8744a d8a870 9c8a78 c8ccd4 f2ead8 6a6e7c 54627c"
)
_PALETTES = {
    "main": _PAINTS,
    "accent": _PAINTS,
    "sole": "fafafa f2ead8 d8a060 6a6a72 c8ccd0",
    "lining": "c8bca8 a08468 aaaab2 807478",
    "lace": "fafafa f2ead8 f4c542",
}


# Catmull-Rom weights of four neighbours, at each step from the second to the third.
_WEIGHTS = [
    ((2 - t) * t * t - t, (3 * t - 5) * t * t + 2, (4 - 3 * t) * t * t + t, (t - 1) * t * t)
    for t in (step / 5 for step in range(1, 6))
]


def smooth(*points: Point) -> list[Point]:
    """A curve through ``points``."""
    padded, curve = [points[0], *points, points[-1]], [points[0]]
    for (a, e), (b, f), (c, g), (d, h) in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        curve += [((k * a + m * b + n * c + o * d) / 2, (k * e + m * f + n * g + o * h) / 2) for k, m, n, o in _WEIGHTS]
    return curve


class Sheet:
    """Layers of a picture: colours, lines, and where anything was drawn."""

    def __init__(self, size: tuple[int, int], long: float, tall: float) -> None:
        height, width = (_SCALE * side for side in size)
        self.unit = min(height, width)
        self.toe, self.long = (width - long * self.unit) / 2, long * self.unit
        self.ground = (height + tall * self.unit) / 2
        self.colours = Image.new("RGB", (width, height))
        self.lines, self.mask = (Image.new("L", (width, height)) for _ in range(2))
        self.pens = [ImageDraw.Draw(layer) for layer in (self.colours, self.lines, self.mask)]

    def at(self, points: Sequence[Point]) -> list[Point]:
        """Where points fall on the layers."""
        return [(self.toe + s * self.long, self.ground - z * self.unit) for s, z in points]

    def line(self, points: Sequence[Point]) -> None:
        self.pens[1].line(self.at(points), 255, round(_SCALE * _LINE))

    def part(self, outline: Sequence[Point], colour: Colour) -> None:
        """Fill an outline, hide the lines beneath and draw its own."""
        corners = self.at(outline)
        fills: tuple[Colour | int, ...] = (colour, 0, 255)
        for pen, fill in zip(self.pens, fills, strict=True):
            pen.polygon(corners, fill)
        self.line([*outline, *outline[:2]])

    def sew(self, cloth: "Sheet", outline: Sequence[Point]) -> None:
        """Cut ``cloth`` along an outline and lay it on."""
        cut = Image.new("L", self.mask.size)
        ImageDraw.Draw(cut).polygon(self.at(outline), 255)
        self.colours.paste(cloth.colours, mask=cut)
        self.lines.paste(cloth.lines, mask=cut)
        self.mask.paste(255, mask=cut)
        self.line([*outline, *outline[:2]])


class Shoe:
    """One shoe: its measures, the curves of its upper, and the sheets it is drawn on.

    Parts of the upper are drawn on ``cloth`` with no care for its outline, which is then cut out and sewn on ``sheet``.
    """

    def __init__(self, rng: random.Random, paints: dict[str, Colour], size: tuple[int, int]) -> None:
        self.rng, self.paints = rng, paints
        self.kind = rng.choice(list(KINDS))
        measures = KINDS[self.kind]
        self.build, self.laces = measures.build, measures.laces
        self.sole, self.lift, self.collar = (rng.uniform(*s) for s in (measures.sole, measures.lift, measures.collar))
        self.spring = rng.uniform(0.0, 0.025)  # of the toe above the ground
        long, tall = rng.uniform(*measures.long), self.sole + self.lift + self.collar
        self.sheet, self.cloth = Sheet(size, long, tall), Sheet(size, long, tall)
        self.front, self.rim, self.far, self.back = self._upper()

    def has(self, chance: float) -> bool:
        return self.rng.random() < chance

    def foot(self, *points: Point) -> list[Point]:
        """Points whose heights are given above the insole."""
        return [(s, z + self.insole(s)) for s, z in points]

    def curve(self, *points: Point) -> list[Point]:
        """The same, and a curve through them."""
        return smooth(*self.foot(*points))

    def piece(self, outline: Sequence[Point], paint: str) -> None:
        """A piece of the upper's cloth."""
        self.cloth.part(outline, self.paints[paint])

    def insole(self, s: float) -> float:
        """Height of the foot above the ground."""
        t, u = max(0.0, 1 - s / 0.3), min(max((s - 0.28) / 0.6, 0.0), 1.0)
        return self.sole + self.spring * t * t + self.lift * u * u * (3 - 2 * u)

    # -- curves of the upper: toe to throat, the near and the far edge of the opening, down the heel -------------------

    def _upper(self) -> tuple[list[Point], ...]:
        return {"slipper": self._slipper, "trainer": self._trainer, "shaft": self._shaft}[self.build]()

    def _toe(self, *more: Point) -> list[Point]:
        puff, tip = self.rng.uniform(-0.02, 0.035), self.rng.uniform(-0.02, 0.03)  # of the toe box; below 0: blunt
        return self.curve((0, 0), (tip, 0.045), (tip + 0.045, 0.095 + puff), (0.15, 0.13 + puff), *more)

    def _slipper(self) -> tuple[list[Point], ...]:
        s, top = self.rng.uniform(0.25, 0.42), self.collar - 0.03
        throat, heel = (s, 0.13), (0.96, top)
        rim = self.curve(throat, (s + 0.1, 0.075), (0.62, 0.05), (0.82, 0.085), heel)
        far = self.curve(heel, (0.8, 0.15), (0.6, 0.11), (s + 0.1, 0.13), throat)
        return self._toe(throat), rim, far, self.curve(heel, (1.0, 0.6 * top), (0.985, 0.03), (1.0, 0))

    def _trainer(self) -> tuple[list[Point], ...]:
        top = self.collar
        throat, heel = (0.5, top), (0.97, top - 0.01)
        rim = self.curve(throat, (0.58, top - 0.065), (0.74, top - 0.1), (0.88, top - 0.05), heel)
        far = self.curve(heel, (0.85, top - 0.01), (0.72, top - 0.04), (0.6, top - 0.02), throat)
        back = self.curve(heel, (1.005, top - 0.1), (0.985, 0.05), (1.0, 0))
        return self._toe((0.29, 0.17), (0.4, 0.23), throat), rim, far, back

    def _shaft(self) -> tuple[list[Point], ...]:
        top, s = self.collar, self.rng.uniform(0.49, 0.54)
        throat, heel = (s, top), (0.98, top + 0.005)
        rim = self.curve(throat, (0.74, top - 0.02), heel)
        far = self.curve(heel, (0.74, top + 0.025), throat)
        back = self.curve(heel, (0.96, 0.26), (1.005, 0.13), (0.985, 0.05), (1.0, 0))
        ankle = self.rng.uniform(0.5, 0.54), 0.32
        return self._toe((0.3, 0.17), (0.42, 0.235), ankle, throat), rim, far, back

    # -- parts ---------------------------------------------------------------------------------------------------------

    def draw(self) -> Sheet:
        """Draw all parts, from the far side to the near one."""
        self.sheet.part([*self.rim, *self.far], self.paints["lining"])
        is_laced = self.laces > 0 or (self.kind == "boot" and self.has(0.5))
        if self.laces:
            self.draw_tongue()
        self.piece([(-1, -1), (-1, 2), (2, 2), (2, -1)], "main")
        if self.has(0.8 if self.kind == "high-top" else 0.5):
            self.draw_toe_cap()
        elif self.build == "shaft" and not is_laced:
            self.draw_vamp()
        if self.has(0.6):
            self.draw_counter()
        if is_laced:
            self.draw_lacing(self.laces or 4)
        elif self.kind == "boot":
            self.draw_gore()
        if self.kind == "trainer":
            self.rng.choice((self.draw_stripes, self.draw_saddle, lambda: None))()
        elif self.kind == "high-top" and self.has(0.6):
            self.draw_patch()
        elif self.kind == "tall boot":
            self.rng.choice((self.draw_cuff, self.draw_strap, lambda: None))()
            if self.has(0.4):
                self.draw_strap()
        elif self.build == "slipper" and self.has(0.5):
            self.draw_band()
        insole = self.foot(*((s / 12, 0.0) for s in range(12, -1, -1)))
        self.sheet.sew(self.cloth, [*self.front, *self.rim[1:], *self.back[1:], *insole[1:-1]])
        if self.lift:
            self.draw_heel()
        self.sheet.part([*insole, *((s, z - self.sole) for s, z in reversed(insole))], self.paints["sole"])
        return self.sheet

    def draw_tongue(self) -> None:
        (s, z), reach = self.rim[0], self.rng.uniform(0.025, 0.05)
        low, tip = (s + 0.06, z - 0.12), (s - 0.045, z + reach)
        front = smooth(low, (s - 0.02, z - 0.02), tip, (s, z + reach + 0.015))
        self.sheet.part([*front, *smooth(front[-1], (s + 0.045, z), low)], self.paints["second"])

    def draw_toe_cap(self) -> None:
        s = self.rng.uniform(0.16, 0.29)
        self.piece([(-1, 1), (-1, -1), *self.curve((s, -0.1), (s + 0.03, 0.05), (s - 0.03, 0.3))], "cap")

    def draw_vamp(self) -> None:
        s = self.rng.uniform(0.5, 0.58)
        self.cloth.line(self.curve((s, -0.05), (s - 0.03, 0.09), (s - 0.13, 0.17), (s - 0.3, 0.26)))

    def draw_counter(self) -> None:
        s, z = self.rng.uniform(0.74, 0.87), self.rng.uniform(0.1, 0.19)
        edge = self.curve((s - 0.02, -0.1), (s, 0.05), (s + 0.06, z), (1.2, z + 0.015))
        self.piece([*edge, (2, -1)], "second")

    def draw_lacing(self, count: int) -> None:
        """The band with the eyelets along the instep, and laces across."""
        path = [point for point in self.front if point[0] > 0.3]
        wide = self.rng.uniform(0.075, 0.11)
        slope = [0.55 * wide * max(0.0, 1 - 1.6 * k / len(path)) for k in range(len(path))]
        inner = [(s + wide, z - dz) for (s, z), dz in zip(path, slope, strict=True)]
        self.piece([*((s - 0.2, z + 0.2) for s, z in path), *reversed(inner)], "second")
        for lace in range(count):
            k = round((lace + 0.5) * (len(path) - 1) / count)
            (s, z), (p, q) = path[k], inner[k]
            dx, dz = s - p, z - q + 0.015
            strip = [(s + 0.8 * dx, z + 0.8 * dz), (p + 0.3 * dx, q + 0.3 * dz)]
            self.piece([*((s, z + 0.019) for s, z in strip), *((s, z - 0.019) for s, z in reversed(strip))], "lace")

    def draw_stripes(self) -> None:
        first = self.rng.uniform(0.5, 0.56)
        for s in (first, first + 0.095):
            self.piece(self.foot((s, -0.02), (s - 0.07, 0.18), (s - 0.025, 0.18), (s + 0.045, -0.02)), "accent")

    def draw_saddle(self) -> None:
        s = self.rng.uniform(0.38, 0.46)
        sides = ((s + 0.03, -0.1), (s, 0.08), (s - 0.06, 0.4)), ((s + 0.2, 0.4), (s + 0.22, 0.08), (s + 0.27, -0.1))
        self.piece([point for side in sides for point in self.curve(*side)], "accent")

    def draw_patch(self) -> None:
        s, z, r = self.rng.uniform(0.72, 0.82), self.sole + self.rng.uniform(0.19, 0.26), self.rng.uniform(0.045, 0.07)
        ring = [(0, 1), (0.7, 0.7), (1, 0), (0.7, -0.7), (0, -1), (-0.7, -0.7), (-1, 0), (-0.7, 0.7), (0, 1)]
        self.piece(smooth(*((s + 1.25 * r * dx, z + r * dz) for dx, dz in ring)), "accent")

    def draw_gore(self) -> None:
        s, top = self.rng.uniform(0.62, 0.67), self.collar
        front = self.curve((s, top + 0.1), (s + 0.02, top - 0.08), (s + 0.08, 0.19))
        back = self.curve((s + 0.1, 0.19), (s + 0.16, top - 0.08), (s + 0.18, top + 0.1))
        self.piece([*front, *back], "second")

    def draw_cuff(self) -> None:
        z = self.collar - self.rng.uniform(0.07, 0.16)
        self.piece([*self.curve((0.3, z), (0.72, z - 0.02), (1.2, z)), (2, 2), (0.3, 2)], "second")

    def draw_strap(self) -> None:
        z = self.rng.uniform(0.22, self.collar - 0.1)
        low, high = (self.curve((0.3, z + dz), (0.66, z + dz - 0.02), (1.2, z + dz + 0.01)) for dz in (0.0, 0.055))
        self.piece([*low, *reversed(high)], "accent")
        self.piece(self.foot((0.63, z - 0.045), (0.63, z + 0.06), (0.75, z + 0.06), (0.75, z - 0.045)), "lace")

    def draw_band(self) -> None:
        s = self.rim[0][0] - self.rng.uniform(0.04, 0.06)
        self.piece(self.foot((s + 0.01, -0.1), (s - 0.04, 0.25), (s + 0.04, 0.25), (s + 0.1, -0.1)), "accent")

    def draw_heel(self) -> None:
        shapes = ((0.84, 0.9, 0.96), (0.72, 0.76, 0.985), (0.45, 0.52, 0.99))
        start, left, right = self.rng.choice(shapes) if self.kind == "pump" else shapes[1]
        seat = [start + (1 - start) * k / 8 for k in range(9)]
        self.sheet.part([*((s, self.insole(s) - self.sole) for s in seat), (right, 0), (left, 0)], self.paints["heel"])


def mix_paints(rng: random.Random) -> dict[str, Colour]:
    """Colours of all parts: some strayed from a palette, others shades of those."""

    def shade(colour: Colour, light: float) -> Colour:
        red, green, blue = (max(int(light * value), 40) for value in colour)
        return red, green, blue

    paints: dict[str, Colour] = {}
    for part, palette in _PALETTES.items():
        red, green, blue = bytes.fromhex(rng.choice(palette.split()))
        light, warm = rng.uniform(-16, 10), rng.uniform(-10, 10)
        red, green, blue = (min(max(int(v + light + d), 40), 255) for v, d in ((red, warm), (green, 0), (blue, -warm)))
        paints[part] = red, green, blue
    main, sole = paints["main"], paints["sole"]
    paints["second"] = rng.choice((shade(main, 0.78), paints["accent"], (244, 240, 232)))
    paints["cap"] = rng.choice((paints["second"], sole, shade(main, 0.85)))
    paints["heel"] = rng.choice((shade(sole, 0.75), shade(main, 0.75), sole))
    return paints


def develop(sheet: Sheet, rng: random.Random) -> np.ndarray:
    """Light on rounded and more or less glossy material, seams, and a shadow on pale ground."""
    unit, (height, width) = sheet.unit / _SCALE, (sheet.mask.height // _SCALE, sheet.mask.width // _SCALE)

    def soft(layer: Image.Image, radius: float) -> np.ndarray:
        blur = ImageFilter.BoxBlur(radius)
        return np.asarray(layer.filter(blur).filter(blur), np.float32)[..., None] / 255

    mask, lines = sheet.mask.reduce(_SCALE), sheet.lines.reduce(_SCALE)
    body = np.pad(soft(mask, 0.05 * unit), ((1, 1), (1, 1), (0, 0)))
    relief = np.float32(0.1 * unit) * (
        0.9 * (body[2:, 1:-1] - body[:-2, 1:-1]) + 0.45 * (body[1:-1, 2:] - body[1:-1, :-2])
    )
    gloss = np.float32(255 * rng.choice((0.0, 0.25, 0.6)))
    light = 0.97 + 0.3 * relief - 0.22 * soft(lines, 1.0)
    floor = Image.new("L", (width, height))
    left, ground = sheet.toe / _SCALE, sheet.ground / _SCALE
    box = left, ground - 0.02 * unit, left + sheet.long / _SCALE, ground + 0.05 * unit
    ImageDraw.Draw(floor).ellipse(box, 110)
    paper = 250 * (1 - soft(floor, 0.035 * unit) * np.array([0.6, 0.58, 0.52], np.float32))
    covered = np.asarray(mask, np.float32)[..., None] / 255
    shoe = np.asarray(sheet.colours.reduce(_SCALE), np.float32) * light + covered * gloss * np.clip(relief - 0.1, 0, 1)
    seams = np.asarray(lines, np.float32)[..., None] / 255
    return np.clip((shoe + (1 - covered) * paper) * (1 - 0.74 * seams), 0, 255).astype(np.uint8)


def render_shoe(seed: int, style: Style, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Draw one shoe: uint8 RGB ``[H, W, 3]``.

    Args:
        seed: Names the shoe; the two styles draw different shoes from one seed.
        style: ``drawing`` (lines on white) or ``photo``.
        size: Height and width in pixels.
    """
    rng = random.Random(len(STYLES) * seed + STYLES.index(style))
    shape, colours = random.Random(rng.getrandbits(64)), random.Random(rng.getrandbits(64))
    sheet = Shoe(shape, mix_paints(colours), size).draw()
    if style == "photo":
        return develop(sheet, colours)
    return np.repeat(255 - np.asarray(sheet.lines.reduce(_SCALE))[..., None], 3, -1)


def edges(image: np.ndarray) -> np.ndarray:
    """Where a line is: bool ``[H, W]``, pixels darker than 0.8 of the mean of their 5 x 5 neighbourhood.

    Args:
        image: A drawing, a photo or a translation, uint8 ``[H, W, 3]``; lines are one or two pixels wide.
    """
    grey = image.mean(-1, dtype=np.float32)
    padded = np.pad(grey, 2, mode="edge")
    return grey < 0.8 * np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).mean((-2, -1))


def edge_f1(found: np.ndarray, wanted: np.ndarray) -> float:
    """F1 score of edges ``found`` against those ``wanted``, bool ``[H, W]``; one pixel off still counts."""

    def near(mask: np.ndarray) -> np.ndarray:
        return np.asarray(np.lib.stride_tricks.sliding_window_view(np.pad(mask, 1), (3, 3)).any((-2, -1)))

    precision = (found & near(wanted)).sum() / max(found.sum(), 1)
    recall = (wanted & near(found)).sum() / max(wanted.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))
