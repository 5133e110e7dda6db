"""Generated street scenes with a label for every pixel: a pinhole camera looks down a random street."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from training.synthetic.shapes import BICYCLE, BUS, CAR, MOTORCYCLE, PERSON, TRAIN, TRUCK, Part

Point = tuple[float, float]
Colour = tuple[float, float, float]
Scene = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]  # (H, W, 3) RGB and (H, W) Cityscapes label ids

# Cityscapes label ids
EGO, STATIC, ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN = 1, 4, 7, 8, 11, 12, 13, 17, 19, 20
VEGETATION, TERRAIN, SKY, PERSON_ID, RIDER = 21, 22, 23, 24, 25

CAMERA = 1.5  # metres above the road
FAR = 70.0  # metres

# label id, parts, width and height in metres, and how often one stands on the road
VEHICLES: tuple[tuple[int, Sequence[Part], float, float, float], ...] = (
    (26, CAR, 1.9, 1.5, 0.24),
    (27, TRUCK, 2.5, 3.1, 0.11),
    (28, BUS, 2.6, 3.2, 0.10),
    (31, TRAIN, 2.8, 3.6, 0.09),
    (32, MOTORCYCLE, 1.6, 1.5, 0.25),
    (33, BICYCLE, 1.6, 1.4, 0.21),
)


def street_scene(rng: np.random.Generator, height: int = 256, width: int = 512) -> Scene:
    """One scene: RGB (H, W, 3) uint8 and Cityscapes label ids (H, W) uint8; equal for equal generators."""
    street = _Street(rng, height, width)
    street.ground()
    things = [*street.sides(), *street.roadside(), *street.traffic()]
    for _, draw in sorted(things, key=lambda thing: -thing[0]):  # far things first
        draw()
    street.hood()
    return street.photograph(), street.labels


class _Street:
    """The canvas, the camera and the layout of one street; x is metres to the right, z metres ahead, y metres up."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.rgb = np.zeros((height, width, 3), np.uint8)
        self.labels = np.full((height, width), SKY, np.uint8)
        self.focal = width * rng.uniform(0.5, 0.75)
        self.horizon = height * rng.uniform(0.38, 0.5)
        self.centre = width * rng.uniform(0.42, 0.58)
        self.lanes = int(rng.integers(2, 5))
        self.left = -rng.uniform(2.0, 2.0 + 3.2 * (self.lanes - 1))
        self.right = self.left + 3.2 * self.lanes
        self.pavement = rng.uniform(2.0, 4.5, 2)  # its width on the left and on the right
        self.verge = rng.uniform(1.5, 6.0, 2) * (rng.random(2) < 0.45)  # a strip of grass behind it, or none

    def project(self, x: float, y: float, z: float) -> Point:
        """Metres to pixels (column, row)."""
        z = max(z, 0.4)
        return self.centre + self.focal * x / z, self.horizon + self.focal * (CAMERA - y) / z

    def tint(self, colour: Colour, spread: float = 14) -> Colour:
        """A colour near the given one."""
        r, g, b = np.clip(np.array(colour) + self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3), 0, 255)
        return float(r), float(g), float(b)

    def fill(self, points: Sequence[Point], label: int, colour: Colour) -> None:
        """Paint a polygon on the picture and on the label map."""
        limit = 8 * self.width
        corners = np.clip(np.array(points), -limit, limit).round().astype(np.int32)
        cv2.fillPoly(self.rgb, [corners], colour)
        cv2.fillPoly(self.labels, [corners], (label,))

    def strip(self, x0: float, x1: float, label: int, colour: Colour, near: float = 0.5, far: float = FAR) -> None:
        """A piece of the ground."""
        corners = [self.project(x, 0, z) for x, z in ((x0, near), (x1, near), (x1, far), (x0, far))]
        self.fill(corners, label, colour)

    def ground(self) -> None:
        """Sky, a far band of trees or houses, grass, pavements and the road with its markings."""
        rng = self.rng
        top, low = [(self.tint(c), self.tint((205, 215, 225))) for c in ((95, 150, 215), (170, 180, 190), (190, 150, 130))][
            rng.choice(3, p=(0.55, 0.35, 0.1))
        ]
        blend = np.linspace(0, 1, self.height)[:, None, None] / max(self.horizon / self.height, 0.1)
        self.rgb[:] = np.clip(np.array(top) * (1 - blend) + np.array(low) * blend, 0, 255).astype(np.uint8)
        skyline = self.horizon - self.height * rng.uniform(0.01, 0.09, 24).cumsum() % (self.height * 0.09)
        columns = np.linspace(0, self.width, 24)
        band = [*zip(columns, skyline, strict=True), (self.width, self.height), (0, self.height)]
        far_label = VEGETATION if rng.random() < 0.6 else BUILDING
        self.fill(band, far_label, self.tint((60, 95, 50) if far_label == VEGETATION else (120, 112, 105)))
        self.fill([(0, self.horizon), (self.width, self.horizon), (self.width, self.height), (0, self.height)], TERRAIN,
                  self.tint((115, 140, 70)))  # fmt: skip
        paving = self.tint((165, 150, 150))
        self.strip(self.left - self.pavement[0], self.left, SIDEWALK, paving)
        self.strip(self.right, self.right + self.pavement[1], SIDEWALK, paving)
        self.strip(self.left, self.right, ROAD, self.tint((82, 82, 86)))
        for lane in range(1, self.lanes):
            for z in np.arange(rng.uniform(1, 4), 45, 5.0):
                x = self.left + 3.2 * lane
                self.strip(x - 0.07, x + 0.07, ROAD, self.tint((220, 220, 215), 6), z, z + 2)
        for x in (self.left, self.right):  # kerbs
            self.strip(x - 0.1, x + 0.1, SIDEWALK, self.tint((190, 185, 180), 6))

    def sides(self) -> list[tuple[float, Callable[[], None]]]:
        """Fronts of houses, walls and fences along both sides."""
        things: list[tuple[float, Callable[[], None]]] = []
        for side in (0, 1):
            sign = 2 * side - 1
            x = (self.left, self.right)[side] + sign * (self.pavement[side] + self.verge[side])
            z = self.rng.uniform(-4, 3)
            while z < FAR:
                length = self.rng.uniform(7, 18)
                kind = self.rng.choice(5, p=(0.6, 0.13, 0.13, 0.08, 0.06))
                if kind == 0:
                    things.append((z + length, self._later(self.house, x, sign, z, length)))
                elif kind < 3:
                    things.append((z + length, self._later(self.barrier, x, z, length, kind == 2)))
                z += length + self.rng.choice((0.0, 0.0, 2.0))
        return things

    @staticmethod
    def _later(draw: Callable[..., None], *arguments: object) -> Callable[[], None]:
        return lambda: draw(*arguments)

    def wall(self, x: float, z0: float, z1: float, y0: float, y1: float, label: int, colour: Colour) -> None:
        """An upright rectangle along the street."""
        z0, z1 = max(z0, 0.45), max(z1, 0.5)
        self.fill([self.project(x, y, z) for y, z in ((y0, z0), (y1, z0), (y1, z1), (y0, z1))], label, colour)

    def house(self, x: float, sign: int, z: float, length: float) -> None:
        """A front with rows of windows and the end that faces the camera."""
        rng = self.rng
        tall = rng.uniform(5, 20)
        colour = self.tint([(150, 120, 100), (125, 75, 62), (175, 165, 145), (120, 122, 128)][rng.integers(4)])
        if z > 0.5:
            ends = [self.project(x + d, y, z) for d, y in ((0, 0), (0, tall), (sign * 14, tall), (sign * 14, 0))]
            self.fill(ends, BUILDING, self.tint((colour[0] * 0.8, colour[1] * 0.8, colour[2] * 0.8), 4))
        self.wall(x, z, z + length, 0, tall, BUILDING, colour)
        glass, step = self.tint((70, 80, 95)), rng.uniform(1.8, 3.0)
        for floor in np.arange(1.0, tall - 1.5, 3.0):
            for start in np.arange(z + 0.6, z + length - 1.0, step):
                if start > 0.5:
                    self.wall(x, start, start + step * 0.55, floor, floor + 1.5, BUILDING, glass)

    def barrier(self, x: float, z: float, length: float, fence: bool) -> None:
        """A wall of stones, or a fence of posts and rails in front of what stands behind it."""
        tall = self.rng.uniform(1.6, 3.2)
        if not fence:
            self.wall(x, z, z + length, 0, tall, WALL, self.tint((148, 140, 165)))
            self.wall(x, z, z + length, tall - 0.25, tall, WALL, self.tint((175, 168, 185), 6))
            return
        self.wall(x, z, z + length, 0, tall, FENCE, self.tint((165, 125, 95)))
        dark = self.tint((95, 62, 45), 8)
        for start in np.arange(z, z + length, 0.7):
            if start > 0.5:
                self.wall(x, start, start + 0.18, 0, tall, FENCE, dark)

    def roadside(self) -> list[tuple[float, Callable[[], None]]]:
        """Trees, poles, lights, signs and people on both pavements, and a bin now and then."""
        things: list[tuple[float, Callable[[], None]]] = []
        draws = (self.tree, self.pole, self.light, self.sign, self.pedestrian, self.bin)
        for side in (0, 1):
            sign, edge = 2 * side - 1, (self.left, self.right)[side]
            for _ in range(self.rng.integers(8, 17)):
                z = 5 + 40 * float(self.rng.random()) ** 2  # near ones are seen better
                draw = draws[self.rng.choice(6, p=(0.18, 0.08, 0.16, 0.22, 0.33, 0.03))]
                x = edge + sign * self.rng.uniform(0.3, self.pavement[side] + (self.verge[side] if draw == self.tree else 0))
                things.append((z, self._later(draw, x, z)))
        return things

    def board(self, x: float, z: float, wide: float, tall: float, lift: float = 0) -> Callable[[Point], Point]:
        """Places the unit square (right, up) upright at (x, z), facing the camera."""
        return lambda p: self.project(x + (p[0] - 0.5) * wide, lift + p[1] * tall, z)

    def parts(self, place: Callable[[Point], Point], parts: Sequence[Part], label: int, colours: dict[str, Colour]) -> None:
        """Draw the polygons of a shape; a part that names a label of its own is drawn with that one."""
        for part in parts:
            self.fill([place(p) for p in part.polygon], part.label or label, colours[part.role])

    def tree(self, x: float, z: float) -> None:
        tall, green = self.rng.uniform(4, 9), self.tint((68, 108, 46))
        self.parts(self.board(x, z, 0.35, tall * 0.5), [Part("bark", ((0, 0), (1, 0), (1, 1), (0, 1)))], VEGETATION,
                   {"bark": self.tint((84, 68, 50))})  # fmt: skip
        for _ in range(9):
            radius = tall * self.rng.uniform(0.12, 0.22)
            middle = x + self.rng.normal(0, tall * 0.12), tall * self.rng.uniform(0.45, 0.9)
            angles = np.linspace(0, 2 * np.pi, 11)[:-1]
            reach = radius * self.rng.uniform(0.75, 1.15, 10)
            outline = [
                self.project(middle[0] + r * np.cos(a), middle[1] + r * np.sin(a), z)
                for a, r in zip(angles, reach, strict=True)
            ]
            self.fill(outline, VEGETATION, self.tint(green, 9))

    def post(self, x: float, z: float, tall: float, wide: float = 0.26) -> None:
        box = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
        pixels = max(wide, 2 * z / self.focal)  # a far post is still two pixels wide
        self.parts(self.board(x, z, pixels, tall), [Part("post", box)], POLE, {"post": self.tint((105, 108, 112))})

    def pole(self, x: float, z: float) -> None:
        tall = float(self.rng.uniform(4, 8))
        self.post(x, z, tall, 0.34)
        arm = -np.sign(x) * self.rng.uniform(0.8, 1.8)
        corners = [self.project(x + d, y, z) for d, y in ((0, tall - 0.2), (arm, tall - 0.1), (arm, tall + 0.1), (0, tall))]
        self.fill(corners, POLE, self.tint((105, 108, 112)))

    def light(self, x: float, z: float) -> None:
        tall = float(self.rng.uniform(2.4, 4.2))
        self.post(x, z, tall)
        place = self.board(x, z, 0.85, 1.9, tall)
        self.parts(place, [Part("case", ((0, 0), (1, 0), (1, 1), (0, 1)))], LIGHT, {"case": self.tint((28, 30, 28), 5)})
        lit = self.rng.integers(3)
        for lamp, colour in enumerate(((70, 230, 90), (250, 190, 40), (240, 50, 40))):
            shade = colour if lamp == lit else tuple(0.35 * c for c in colour)
            y = 0.17 + 0.33 * lamp
            outline = [place((0.5 + 0.28 * np.cos(a), y + 0.13 * np.sin(a))) for a in np.linspace(0, 6.28, 9)[:-1]]
            self.fill(outline, LIGHT, (shade[0], shade[1], shade[2]))

    def sign(self, x: float, z: float) -> None:
        tall, size = float(self.rng.uniform(2.0, 2.8)), float(self.rng.uniform(1.2, 1.8))
        self.post(x, z, tall)
        place = self.board(x, z, size, size, tall)
        sides, turn = ((3, 0.52), (4, 0.0), (4, 0.785), (12, 0.0))[self.rng.integers(4)]
        outer, inner = (((215, 35, 40), (240, 240, 235)), ((30, 80, 210), (235, 240, 245)))[self.rng.integers(2)]
        for radius, colour in ((0.5, outer), (0.3, inner)):
            angles = turn + np.linspace(0, 2 * np.pi, sides + 1)[:-1]
            outline = [place((0.5 + radius * np.cos(a), 0.5 + radius * np.sin(a))) for a in angles]
            self.fill(outline, SIGN, self.tint(colour, 7))

    def bin(self, x: float, z: float) -> None:
        self.parts(self.board(x, z, 0.6, 1.0), [Part("box", ((0.1, 0), (0.9, 0), (1, 1), (0, 1)))], STATIC,
                   {"box": self.tint((60, 110, 90))})  # fmt: skip

    def clothes(self) -> dict[str, Colour]:
        """Colours of a person."""
        rng = self.rng
        shirts = ((235, 60, 120), (225, 70, 60), (240, 120, 60), (215, 60, 160))
        return {
            "skin": self.tint(((224, 180, 150), (150, 105, 78))[rng.integers(2)]),
            "shirt": self.tint(shirts[rng.integers(len(shirts))]),
            "legs": self.tint(((45, 50, 90), (60, 55, 50))[rng.integers(2)], 8),
        }

    def vest(self) -> dict[str, Colour]:
        """Colours of a rider: a helmet and a vest that is seen."""
        return {"skin": self.tint((240, 240, 240)), "shirt": self.tint((190, 235, 40))}

    def pedestrian(self, x: float, z: float) -> None:
        tall = float(self.rng.uniform(1.5, 1.95))
        self.parts(self.board(x, z, 0.95, tall), PERSON, PERSON_ID, self.clothes())

    def traffic(self) -> list[tuple[float, Callable[[], None]]]:
        """Vehicles in the lanes, no two in one place."""
        things: list[tuple[float, Callable[[], None]]] = []
        for lane in range(self.lanes):
            z = float(self.rng.uniform(5, 12))
            while z < 45:
                if self.rng.random() < 0.72:
                    x = self.left + 3.2 * (lane + 0.5) + self.rng.normal(0, 0.25)
                    things.append((z, self._later(self.vehicle, x, z)))
                z += float(self.rng.uniform(6, 14))
        return things

    def vehicle(self, x: float, z: float) -> None:
        label, parts, wide, tall, _ = VEHICLES[self.rng.choice(len(VEHICLES), p=[v[4] for v in VEHICLES])]
        paint = {
            26: ((165, 30, 35), (180, 45, 40), (35, 60, 130), (28, 30, 36), (45, 70, 140)),
            27: ((235, 235, 230), (215, 130, 40)),
            28: ((230, 195, 30), (225, 180, 60)),
            31: ((35, 140, 110), (30, 150, 90)),
            32: ((130, 40, 120), (90, 30, 90)),
            33: ((60, 170, 225), (90, 190, 215)),
        }[label]
        colour = self.tint(paint[self.rng.integers(len(paint))])
        dark = {"tyre": self.tint((24, 24, 26), 4), "glass": self.tint((62, 74, 88), 8), "lamp": (225.0, 40.0, 35.0)}
        shadow = [self.project(x + d, 0, z + e) for d, e in ((-wide / 2, 0), (wide / 2, 0), (wide / 2, 1), (-wide / 2, 1))]
        self.fill(shadow, ROAD, self.tint((45, 45, 48), 4))
        size = 1 + self.rng.normal(0, 0.06)
        if label in (32, 33) and self.rng.random() < 0.75:
            self.parts(self.board(x, z, 0.95, 1.25, 0.85), PERSON[:-1], RIDER, self.vest())
        self.parts(self.board(x, z, wide * size, tall * size), parts, label, {"paint": colour, **dark})

    def hood(self) -> None:
        """The bonnet of the camera's own car, in some pictures."""
        if self.rng.random() < 0.4:
            top = self.height * self.rng.uniform(0.91, 0.97)
            edge = [(0.1, 1.0), (0.25, 0.35), (0.5, 0.0), (0.75, 0.35), (0.9, 1.0)]
            points = [(self.width * a, top + (self.height - top) * b) for a, b in edge]
            self.fill([*points, (self.width * 0.9, self.height), (self.width * 0.1, self.height)], EGO, self.tint((45, 47, 52)))

    def photograph(self) -> npt.NDArray[np.uint8]:
        """The picture with texture, light, shade, the lens's blur and the sensor's noise."""
        rng, size = self.rng, (self.width, self.height)
        light = np.ones((self.height, self.width), np.float32)
        for cells, strength in ((4, 0.10), (16, 0.04), (96, 0.05)):
            grid = rng.normal(0, strength, (max(2, cells // 2), cells)).astype(np.float32)
            light += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:  # the shade of something outside the picture
            shade = np.ones((self.height, self.width), np.float32)
            columns = np.sort(rng.uniform(-0.2, 1.2, 2)) * self.width
            slant = rng.normal(0, 0.4) * self.height
            ground = [(columns[0], self.horizon), (columns[1], self.horizon), (columns[1] + slant, self.height),
                      (columns[0] + slant, self.height)]  # fmt: skip
            cv2.fillPoly(shade, [np.array(ground).round().astype(np.int32)], (float(rng.uniform(0.55, 0.8)),))
            light *= cv2.GaussianBlur(shade, (0, 0), 3)
        picture = self.rgb.astype(np.float32) * light[..., None] * rng.uniform(0.75, 1.15) * rng.normal(1, 0.03, 3)
        blurred = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 0.9)) * self.height / 256)
        noise = rng.normal(0, rng.uniform(2, 7), picture.shape)
        return (blurred + noise).clip(0, 255).astype(np.uint8)
