"""The front camera: fixed matrices that frame the board, a renderer call, point projection."""

from __future__ import annotations

import numpy as np
import pybullet
from numpy.typing import ArrayLike, NDArray

NEAR, FAR = 0.5, 3.0
PITCH_DEG = 70.0
"""How far the camera looks down."""
DISTANCE = 1.8
"""Metres from the middle of the board; far away, so that scale hardly changes over the board."""


class FrontCamera:
    """Looks at the board from the side opposite the robot.

    `low`, `high`: corners (x, y) in m, base frame, of the rectangle on the board that the image
    must hold; the principal point is shifted so that it fills the image, whatever the aspect
    ratio. In the image the top is near the robot (-x) and the right is +y.
    `supersampling`: each pixel is the mean of its square of that many rendered pixels a side, as
    a real sensor averages over a pixel; 1 samples one point per pixel.
    """

    def __init__(
        self, width: int, height: int, low: ArrayLike, high: ArrayLike, supersampling: int = 1
    ) -> None:
        self.width, self.height, self.supersampling = width, height, supersampling
        self._background: NDArray[np.uint8] | None = None
        (x0, y0), (x1, y1) = np.asarray(low, float), np.asarray(high, float)
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2, 0.0])
        pitch = np.deg2rad(PITCH_DEG)
        eye = middle + DISTANCE * np.array([np.cos(pitch), 0.0, np.sin(pitch)])
        self.view = pybullet.computeViewMatrix(eye.tolist(), middle.tolist(), [0.0, 0.0, 1.0])
        corners = np.array([[x, y, 0.0, 1.0] for x in (x0, x1) for y in (y0, y1)])
        seen = corners @ np.array(self.view).reshape(4, 4)
        slopes = seen[:, :2] / -seen[:, 2:3] * NEAR
        left, bottom = slopes.min(axis=0)
        right, top = slopes.max(axis=0)
        half_width = max(right - left, (top - bottom) * width / height) / 2
        half_height = half_width * height / width
        column, row = (left + right) / 2, (bottom + top) / 2
        self.projection = pybullet.computeProjectionMatrix(
            column - half_width, column + half_width, row - half_height, row + half_height,
            NEAR, FAR,
        )

    def project(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points (N, 3) in m, base frame -> pixels (N, 2): column, row, float64.

        (0, 0) is the outer corner of the first pixel, (0.5, 0.5) its centre.
        """
        array = np.asarray(points, dtype=np.float64)
        homogeneous = np.concatenate([array, np.ones((len(array), 1))], axis=1)
        view = np.array(self.view).reshape(4, 4)
        clip = homogeneous @ view @ np.array(self.projection).reshape(4, 4)
        normal = clip[:, :2] / clip[:, 3:4]
        return np.stack(
            [(normal[:, 0] + 1) * self.width / 2, (1 - normal[:, 1]) * self.height / 2], axis=1
        )

    def keep_background(self, client: int) -> None:
        """Render what the client holds now, and draw it behind everything from now on.

        Half of TinyRenderer's time goes into shading the board, which lies below everything and
        never changes; it is rendered once and only what moves is drawn over it afterwards.
        """
        self._background = self._samples(client, shadows=False)[0].copy()

    def render(self, client: int, shadows: bool = False) -> NDArray[np.uint8]:
        """The picture now: uint8 (height, width, 3), RGB, a fresh array."""
        samples, bodies = self._samples(client, shadows)
        if self._background is not None:
            drawn = np.flatnonzero(bodies >= 0)
            picture = self._background.copy()
            picture[drawn] = samples[drawn]
            samples = picture
        k = self.supersampling
        if k == 1:
            return samples.reshape(self.height, self.width, 3).copy()
        cells = samples.reshape(self.height, k, self.width, k, 3)
        total = np.zeros((self.height, self.width, 3), dtype=np.uint16)
        for i in range(k):
            for j in range(k):
                total += cells[:, i, :, j]
        return ((total + k * k // 2) // (k * k)).astype(np.uint8)

    def _samples(
        self, client: int, shadows: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Rendered samples (N, 3), RGB, and the body behind each (N,), -1 for none; row-major."""
        _, _, rgba, _, bodies = pybullet.getCameraImage(
            self.width * self.supersampling,
            self.height * self.supersampling,
            self.view,
            self.projection,
            lightDirection=[0.35, -0.35, 1.0],
            lightColor=[1.0, 1.0, 1.0],
            lightDistance=3.0,
            shadow=int(shadows),
            lightAmbientCoeff=0.55,
            lightDiffuseCoeff=0.5,
            lightSpecularCoeff=0.0,
            renderer=pybullet.ER_TINY_RENDERER,
            physicsClientId=client,
        )
        pixels = np.asarray(rgba, dtype=np.uint8).reshape(-1, 4)[:, :3]
        return pixels, np.asarray(bodies, dtype=np.int32).reshape(-1)
