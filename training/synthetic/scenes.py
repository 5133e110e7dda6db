"""Generated street scenes with a label for every pixel: the view of a pinhole camera along a random street."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from training.synthetic.shapes import BICYCLE, BUS, CAR, MOTORCYCLE, PERSON, TRAIN, TRUCK, Part

Point = tuple[float, float]  # (column, row) in pixels
Color = tuple[float, float, float]  # RGB, 0..255
Scene = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]  # image (H, W, 3) RGB, label map (H, W) of Cityscapes label ids
SceneObject = tuple[float, Callable[[], None]]  # distance from the camera in meters, and the function that draws it

# Cityscapes label ids
EGO, STATIC, ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN = 1, 4, 7, 8, 11, 12, 13, 17, 19, 20
VEGETATION, TERRAIN, SKY, PERSON_ID, RIDER = 21, 22, 23, 24, 25
CAR_ID, TRUCK_ID, BUS_ID, TRAIN_ID, MOTORCYCLE_ID, BICYCLE_ID = 26, 27, 28, 31, 32, 33

CAMERA_HEIGHT_M = 1.5  # above the road
FAR_PLANE_M = 70.0
LANE_WIDTH_M = 3.2
UNIT_SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


class Vehicle(NamedTuple):
    """A kind of vehicle; the probabilities of all kinds add up to 1."""

    label: int
    parts: Sequence[Part]
    width_m: float
    height_m: float
    probability: float
    paints: tuple[Color, ...]


VEHICLES = (
    Vehicle(CAR_ID, CAR, 1.9, 1.5, 0.24, ((165, 30, 35), (180, 45, 40), (35, 60, 130), (28, 30, 36), (45, 70, 140))),
    Vehicle(TRUCK_ID, TRUCK, 2.5, 3.1, 0.11, ((235, 235, 230), (215, 130, 40))),
    Vehicle(BUS_ID, BUS, 2.6, 3.2, 0.10, ((230, 195, 30), (225, 180, 60))),
    Vehicle(TRAIN_ID, TRAIN, 2.8, 3.6, 0.09, ((35, 140, 110), (30, 150, 90))),
    Vehicle(MOTORCYCLE_ID, MOTORCYCLE, 1.6, 1.5, 0.25, ((130, 40, 120), (90, 30, 90))),
    Vehicle(BICYCLE_ID, BICYCLE, 1.6, 1.4, 0.21, ((60, 170, 225), (90, 190, 215))),
)


def street_scene(rng: np.random.Generator, height: int = 256, width: int = 512) -> Scene:
    """Generate a scene; equal generators give equal scenes.

    Returns:
        The image (H, W, 3), uint8 RGB, and the label map (H, W), uint8 Cityscapes label ids.
    """
    street = _Street(rng, height, width)
    street.draw_ground()
    objects = [*street.buildings(), *street.roadside_objects(), *street.traffic()]
    for _, draw in sorted(objects, key=lambda scene_object: -scene_object[0]):  # near objects cover far ones
        draw()
    street.draw_hood()
    return street.render(), street.labels


class _Street:
    """Canvas, camera and layout of one street; coordinates in meters: x to the right, y up, z ahead of the camera.

    The order in which random numbers are drawn is part of the result: changing it changes every scene.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.rgb = np.zeros((height, width, 3), np.uint8)
        self.labels = np.full((height, width), SKY, np.uint8)
        self.focal_length = width * rng.uniform(0.5, 0.75)  # pixels
        self.horizon = height * rng.uniform(0.38, 0.5)  # row
        self.center = width * rng.uniform(0.42, 0.58)  # column of the vanishing point
        self.lanes = int(rng.integers(2, 5))
        self.left = -rng.uniform(2.0, 2.0 + LANE_WIDTH_M * (self.lanes - 1))  # edges of the road
        self.right = self.left + LANE_WIDTH_M * self.lanes
        self.sidewalk_widths = rng.uniform(2.0, 4.5, 2)  # on the left and on the right
        self.verge_widths = rng.uniform(1.5, 6.0, 2) * (rng.random(2) < 0.45)  # grass behind the sidewalks, often none

    def project(self, x: float, y: float, z: float) -> Point:
        """Project a point in meters onto the image."""
        z = max(z, 0.4)
        return self.center + self.focal_length * x / z, self.horizon + self.focal_length * (CAMERA_HEIGHT_M - y) / z

    def vary(self, color: Color, spread: float = 14) -> Color:
        """Return a random color near the given one."""
        r, g, b = np.clip(np.array(color) + self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3), 0, 255)
        return float(r), float(g), float(b)

    def fill(self, points: Sequence[Point], label: int, color: Color) -> None:
        """Fill a polygon in the image and in the label map."""
        limit = 8 * self.width  # far outside the image; OpenCV overflows at larger coordinates
        corners = np.clip(np.array(points), -limit, limit).round().astype(np.int32)
        cv2.fillPoly(self.rgb, [corners], color)
        cv2.fillPoly(self.labels, [corners], (label,))

    def fill_ground(self, x0: float, x1: float, label: int, color: Color, near: float = 0.5, far: float = FAR_PLANE_M) -> None:
        """Fill a rectangle on the ground."""
        self.fill([self.project(x, 0, z) for x, z in ((x0, near), (x1, near), (x1, far), (x0, far))], label, color)

    def fill_wall(self, x: float, z0: float, z1: float, y0: float, y1: float, label: int, color: Color) -> None:
        """Fill an upright rectangle parallel to the street."""
        z0, z1 = max(z0, 0.45), max(z1, 0.5)
        self.fill([self.project(x, y, z) for y, z in ((y0, z0), (y1, z0), (y1, z1), (y0, z1))], label, color)

    def billboard(self, x: float, z: float, width: float, height: float, bottom: float = 0) -> Callable[[Point], Point]:
        """Return the map from the unit square to an upright rectangle that faces the camera and is centered at x."""
        return lambda p: self.project(x + (p[0] - 0.5) * width, bottom + p[1] * height, z)

    def fill_parts(
        self, to_image: Callable[[Point], Point], parts: Sequence[Part], label: int, colors: dict[str, Color]
    ) -> None:
        """Fill the polygons of a shape, in the colors of their roles."""
        for part in parts:
            self.fill([to_image(p) for p in part.polygon], part.label or label, colors[part.role])

    def draw_ground(self) -> None:
        """Draw sky, a distant band of trees or houses, grass, sidewalks, and the road with its markings."""
        rng = self.rng
        skies = [(self.vary(color), self.vary((205, 215, 225))) for color in ((95, 150, 215), (170, 180, 190), (190, 150, 130))]
        top, bottom = skies[rng.choice(3, p=(0.55, 0.35, 0.1))]
        blend = np.linspace(0, 1, self.height)[:, None, None] / max(self.horizon / self.height, 0.1)
        self.rgb[:] = np.clip(np.array(top) * (1 - blend) + np.array(bottom) * blend, 0, 255).astype(np.uint8)
        skyline = self.horizon - self.height * rng.uniform(0.01, 0.09, 24).cumsum() % (self.height * 0.09)
        columns = np.linspace(0, self.width, 24)
        band = [*zip(columns, skyline, strict=True), (self.width, self.height), (0, self.height)]
        far_label = VEGETATION if rng.random() < 0.6 else BUILDING
        self.fill(band, far_label, self.vary((60, 95, 50) if far_label == VEGETATION else (120, 112, 105)))
        self.fill([(0, self.horizon), (self.width, self.horizon), (self.width, self.height), (0, self.height)], TERRAIN,
                  self.vary((115, 140, 70)))  # fmt: skip
        paving = self.vary((165, 150, 150))
        self.fill_ground(self.left - self.sidewalk_widths[0], self.left, SIDEWALK, paving)
        self.fill_ground(self.right, self.right + self.sidewalk_widths[1], SIDEWALK, paving)
        self.fill_ground(self.left, self.right, ROAD, self.vary((82, 82, 86)))
        for lane in range(1, self.lanes):
            for z in np.arange(rng.uniform(1, 4), 45, 5.0):
                x = self.left + LANE_WIDTH_M * lane
                self.fill_ground(x - 0.07, x + 0.07, ROAD, self.vary((220, 220, 215), 6), z, z + 2)
        for x in (self.left, self.right):  # curbs
            self.fill_ground(x - 0.1, x + 0.1, SIDEWALK, self.vary((190, 185, 180), 6))

    def buildings(self) -> list[SceneObject]:
        """Lay out houses, walls and fences along both sides."""
        objects: list[SceneObject] = []
        for side in (0, 1):
            sign = 2 * side - 1
            x = (self.left, self.right)[side] + sign * (self.sidewalk_widths[side] + self.verge_widths[side])
            z = self.rng.uniform(-4, 3)
            while z < FAR_PLANE_M:
                length = self.rng.uniform(7, 18)
                kind = self.rng.choice(5, p=(0.6, 0.13, 0.13, 0.08, 0.06))  # house, wall, fence, or one of two kinds of gap
                if kind == 0:
                    objects.append((z + length, partial(self.draw_house, x, sign, z, length)))
                elif kind < 3:
                    objects.append((z + length, partial(self.draw_barrier, x, z, length, kind == 2)))
                z += length + self.rng.choice((0.0, 0.0, 2.0))
        return objects

    def draw_house(self, x: float, sign: int, z: float, length: float) -> None:
        """Draw the front with rows of windows, and the end wall that faces the camera."""
        rng = self.rng
        height = rng.uniform(5, 20)
        color = self.vary([(150, 120, 100), (125, 75, 62), (175, 165, 145), (120, 122, 128)][rng.integers(4)])
        if z > 0.5:
            end = [self.project(x + d, y, z) for d, y in ((0, 0), (0, height), (sign * 14, height), (sign * 14, 0))]
            self.fill(end, BUILDING, self.vary((color[0] * 0.8, color[1] * 0.8, color[2] * 0.8), 4))
        self.fill_wall(x, z, z + length, 0, height, BUILDING, color)
        glass, spacing = self.vary((70, 80, 95)), rng.uniform(1.8, 3.0)
        for floor in np.arange(1.0, height - 1.5, 3.0):
            for start in np.arange(z + 0.6, z + length - 1.0, spacing):
                if start > 0.5:
                    self.fill_wall(x, start, start + spacing * 0.55, floor, floor + 1.5, BUILDING, glass)

    def draw_barrier(self, x: float, z: float, length: float, is_fence: bool) -> None:
        """Draw a stone wall with a coping, or a wooden fence with posts."""
        height = self.rng.uniform(1.6, 3.2)
        if not is_fence:
            self.fill_wall(x, z, z + length, 0, height, WALL, self.vary((148, 140, 165)))
            self.fill_wall(x, z, z + length, height - 0.25, height, WALL, self.vary((175, 168, 185), 6))
            return
        self.fill_wall(x, z, z + length, 0, height, FENCE, self.vary((165, 125, 95)))
        dark = self.vary((95, 62, 45), 8)
        for start in np.arange(z, z + length, 0.7):
            if start > 0.5:
                self.fill_wall(x, start, start + 0.18, 0, height, FENCE, dark)

    def roadside_objects(self) -> list[SceneObject]:
        """Lay out trees, poles, traffic lights, signs, people and an occasional trash can on both sidewalks."""
        objects: list[SceneObject] = []
        kinds = (self.draw_tree, self.draw_pole, self.draw_light, self.draw_sign, self.draw_pedestrian, self.draw_trash_can)
        for side in (0, 1):
            sign, edge = 2 * side - 1, (self.left, self.right)[side]
            for _ in range(self.rng.integers(8, 17)):
                z = 5 + 40 * float(self.rng.random()) ** 2  # more objects near the camera, where they are large enough to learn
                draw = kinds[self.rng.choice(6, p=(0.18, 0.08, 0.16, 0.22, 0.33, 0.03))]
                verge_width = self.verge_widths[side] if draw == self.draw_tree else 0
                x = edge + sign * self.rng.uniform(0.3, self.sidewalk_widths[side] + verge_width)
                objects.append((z, partial(draw, x, z)))
        return objects

    def draw_tree(self, x: float, z: float) -> None:
        """Draw a trunk and a crown of nine overlapping patches."""
        height, green = self.rng.uniform(4, 9), self.vary((68, 108, 46))
        trunk = self.billboard(x, z, 0.35, height * 0.5)
        self.fill_parts(trunk, [Part("bark", UNIT_SQUARE)], VEGETATION, {"bark": self.vary((84, 68, 50))})
        for _ in range(9):
            radius = height * self.rng.uniform(0.12, 0.22)
            center = x + self.rng.normal(0, height * 0.12), height * self.rng.uniform(0.45, 0.9)
            angles = np.linspace(0, 2 * np.pi, 11)[:-1]
            radii = radius * self.rng.uniform(0.75, 1.15, 10)
            outline = [
                self.project(center[0] + r * np.cos(a), center[1] + r * np.sin(a), z)
                for a, r in zip(angles, radii, strict=True)
            ]
            self.fill(outline, VEGETATION, self.vary(green, 9))

    def draw_post(self, x: float, z: float, height: float, width: float = 0.26) -> None:
        """Draw a post that is at least two pixels wide at any distance."""
        width = max(width, 2 * z / self.focal_length)
        post = self.billboard(x, z, width, height)
        self.fill_parts(post, [Part("post", UNIT_SQUARE)], POLE, {"post": self.vary((105, 108, 112))})

    def draw_pole(self, x: float, z: float) -> None:
        """Draw a street lamp: a post with an arm over the road."""
        height = float(self.rng.uniform(4, 8))
        self.draw_post(x, z, height, 0.34)
        arm = -np.sign(x) * self.rng.uniform(0.8, 1.8)
        offsets = ((0, height - 0.2), (arm, height - 0.1), (arm, height + 0.1), (0, height))
        self.fill([self.project(x + d, y, z) for d, y in offsets], POLE, self.vary((105, 108, 112)))

    def draw_light(self, x: float, z: float) -> None:
        """Draw a traffic light with one of three lamps on."""
        height = float(self.rng.uniform(2.4, 4.2))
        self.draw_post(x, z, height)
        to_image = self.billboard(x, z, 0.85, 1.9, height)
        self.fill_parts(to_image, [Part("case", UNIT_SQUARE)], LIGHT, {"case": self.vary((28, 30, 28), 5)})
        lit = self.rng.integers(3)
        for lamp, color in enumerate(((70, 230, 90), (250, 190, 40), (240, 50, 40))):
            brightness = 1 if lamp == lit else 0.35
            y = 0.17 + 0.33 * lamp
            outline = [to_image((0.5 + 0.28 * np.cos(a), y + 0.13 * np.sin(a))) for a in np.linspace(0, 6.28, 9)[:-1]]
            self.fill(outline, LIGHT, (brightness * color[0], brightness * color[1], brightness * color[2]))

    def draw_sign(self, x: float, z: float) -> None:
        """Draw a traffic sign: a triangle, a diamond, a square or a disk with a border."""
        height, size = float(self.rng.uniform(2.0, 2.8)), float(self.rng.uniform(1.2, 1.8))
        self.draw_post(x, z, height)
        to_image = self.billboard(x, z, size, size, height)
        corners, rotation = ((3, 0.52), (4, 0.0), (4, 0.785), (12, 0.0))[self.rng.integers(4)]
        border, face = (((215, 35, 40), (240, 240, 235)), ((30, 80, 210), (235, 240, 245)))[self.rng.integers(2)]
        for radius, color in ((0.5, border), (0.3, face)):
            angles = rotation + np.linspace(0, 2 * np.pi, corners + 1)[:-1]
            outline = [to_image((0.5 + radius * np.cos(a), 0.5 + radius * np.sin(a))) for a in angles]
            self.fill(outline, SIGN, self.vary(color, 7))

    def draw_trash_can(self, x: float, z: float) -> None:
        """Draw a trash can, which is not a scored class."""
        outline = Part("can", ((0.1, 0), (0.9, 0), (1, 1), (0, 1)))
        self.fill_parts(self.billboard(x, z, 0.6, 1.0), [outline], STATIC, {"can": self.vary((60, 110, 90))})

    def draw_pedestrian(self, x: float, z: float) -> None:
        """Draw a person with random skin and clothes."""
        rng = self.rng
        height = float(rng.uniform(1.5, 1.95))
        shirts = ((235, 60, 120), (225, 70, 60), (240, 120, 60), (215, 60, 160))
        colors = {
            "skin": self.vary(((224, 180, 150), (150, 105, 78))[rng.integers(2)]),
            "shirt": self.vary(shirts[rng.integers(len(shirts))]),
            "legs": self.vary(((45, 50, 90), (60, 55, 50))[rng.integers(2)], 8),
        }
        self.fill_parts(self.billboard(x, z, 0.95, height), PERSON, PERSON_ID, colors)

    def traffic(self) -> list[SceneObject]:
        """Lay out vehicles in the lanes without overlap."""
        objects: list[SceneObject] = []
        for lane in range(self.lanes):
            z = float(self.rng.uniform(5, 12))
            while z < 45:
                if self.rng.random() < 0.72:
                    x = self.left + LANE_WIDTH_M * (lane + 0.5) + self.rng.normal(0, 0.25)
                    objects.append((z, partial(self.draw_vehicle, x, z)))
                z += float(self.rng.uniform(6, 14))
        return objects

    def draw_vehicle(self, x: float, z: float) -> None:
        """Draw a vehicle with its shadow; most bicycles and motorcycles have a rider."""
        vehicle = VEHICLES[self.rng.choice(len(VEHICLES), p=[v.probability for v in VEHICLES])]
        half_width = vehicle.width_m / 2
        colors = {
            "paint": self.vary(vehicle.paints[self.rng.integers(len(vehicle.paints))]),
            "tire": self.vary((24, 24, 26), 4),
            "glass": self.vary((62, 74, 88), 8),
            "lamp": (225.0, 40.0, 35.0),
        }
        corners = ((-half_width, 0), (half_width, 0), (half_width, 1), (-half_width, 1))
        self.fill([self.project(x + d, 0, z + e) for d, e in corners], ROAD, self.vary((45, 45, 48), 4))
        scale = 1 + self.rng.normal(0, 0.06)
        if vehicle.label in (MOTORCYCLE_ID, BICYCLE_ID) and self.rng.random() < 0.75:
            rider = {"skin": self.vary((240, 240, 240)), "shirt": self.vary((190, 235, 40))}  # a helmet and a safety vest
            self.fill_parts(self.billboard(x, z, 0.95, 1.25, 0.85), PERSON[:-1], RIDER, rider)
        outline = self.billboard(x, z, vehicle.width_m * scale, vehicle.height_m * scale)
        self.fill_parts(outline, vehicle.parts, vehicle.label, colors)

    def draw_hood(self) -> None:
        """Draw the hood of the camera's own car, in some scenes."""
        if self.rng.random() < 0.4:
            top = self.height * self.rng.uniform(0.91, 0.97)
            edge = [(0.1, 1.0), (0.25, 0.35), (0.5, 0.0), (0.75, 0.35), (0.9, 1.0)]
            points = [(self.width * a, top + (self.height - top) * b) for a, b in edge]
            self.fill([*points, (self.width * 0.9, self.height), (self.width * 0.1, self.height)], EGO, self.vary((45, 47, 52)))

    def render(self) -> npt.NDArray[np.uint8]:
        """Return the image with texture, lighting, a shadow, lens blur and sensor noise added."""
        rng, size = self.rng, (self.width, self.height)
        light = np.ones((self.height, self.width), np.float32)
        for cells, strength in ((4, 0.10), (16, 0.04), (96, 0.05)):
            grid = rng.normal(0, strength, (max(2, cells // 2), cells)).astype(np.float32)
            light += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:  # the shadow of something outside the image
            shadow = np.ones((self.height, self.width), np.float32)
            columns = np.sort(rng.uniform(-0.2, 1.2, 2)) * self.width
            slant = rng.normal(0, 0.4) * self.height
            ground = [(columns[0], self.horizon), (columns[1], self.horizon), (columns[1] + slant, self.height),
                      (columns[0] + slant, self.height)]  # fmt: skip
            cv2.fillPoly(shadow, [np.array(ground).round().astype(np.int32)], (float(rng.uniform(0.55, 0.8)),))
            light *= cv2.GaussianBlur(shadow, (0, 0), 3)
        image = self.rgb.astype(np.float32) * light[..., None] * rng.uniform(0.75, 1.15) * rng.normal(1, 0.03, 3)
        blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 0.9)) * self.height / 256)
        noise = rng.normal(0, rng.uniform(2, 7), image.shape)
        return (blurred + noise).clip(0, 255).astype(np.uint8)
