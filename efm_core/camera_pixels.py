"""Pictures from camera messages: the one decoder of robot, recorder and trainer.

`check` looks at a message without decoding it, `decode` gives its pixels. OpenCV is loaded with
the first picture that needs it; raw RGB, BGR and grey pictures are views of the message's bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BYTES = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1,
    "rgb16": 6, "bgr16": 6, "mono16": 2,
    "yuv422": 2, "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2,
    "bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1,
}  # fmt: skip
"""Encodings of sensor_msgs/Image that are understood -> bytes per pixel."""
_CONVERSIONS = {
    "yuv422": "COLOR_YUV2RGB_UYVY", "uyvy": "COLOR_YUV2RGB_UYVY",
    "yuv422_yuy2": "COLOR_YUV2RGB_YUY2", "yuyv": "COLOR_YUV2RGB_YUY2",
    "bayer_rggb8": "COLOR_BayerRGGB2RGB", "bayer_bggr8": "COLOR_BayerBGGR2RGB",
    "bayer_gbrg8": "COLOR_BayerGBRG2RGB", "bayer_grbg8": "COLOR_BayerGRBG2RGB",
}  # fmt: skip
"""Encodings that OpenCV converts -> name of its conversion."""
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class PictureError(ValueError):
    """A picture that cannot be used; `field` is the message's field that is wrong."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def is_compressed(message: Any) -> bool:
    """Whether this is a sensor_msgs/CompressedImage; otherwise it is a sensor_msgs/Image."""
    return hasattr(message, "format")


def size_of(message: Any) -> tuple[int, int]:
    """(width, height) in px as the message says, a compressed one in its JPEG or PNG header.

    Raises PictureError for something that is neither JPEG nor PNG.
    """
    if not is_compressed(message):
        return int(message.width), int(message.height)
    data = memoryview(message.data)
    if data[:3] == _JPEG:
        return _jpeg_size(data)
    if data[:8] == _PNG and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    raise PictureError(
        "format",
        f"compressed image says '{message.format}' and holds neither JPEG nor PNG; "
        "have the camera publish one of the two",
    )


def check(message: Any, width: int, height: int) -> None:
    """Look at a message without decoding it; expected: width x height px.

    Raises PictureError naming the field for another size, an unknown encoding or format, data of
    another length than the message says, a JPEG or PNG without its end.
    """
    found = size_of(message)
    if found != (width, height):
        raise PictureError(
            "width" if found[0] != width else "height",
            f"picture is {found[0]}x{found[1]}, the robot's description says {width}x{height}; "
            "change one of them",
        )
    if is_compressed(message):
        _check_end(memoryview(message.data))
    else:
        _check_rows(len(message.data), height, width, message.encoding, message.step)


def decode(message: Any) -> NDArray[np.uint8]:
    """A sensor_msgs/Image or CompressedImage -> uint8 (H, W, 3), RGB.

    Raw: rgb8, bgr8 (channels reversed by strides), rgba8 and bgra8 (alpha left out) and mono8 or
    8UC1 (three equal channels, read only) are views of the message's bytes; so are rgb16, bgr16
    and mono16, of which the upper eight bits count. yuv422 (alias uyvy), yuv422_yuy2 (alias yuyv)
    and 8-bit Bayer patterns are converted by OpenCV, JPEG and PNG decoded by it (EXIF rotation is
    ignored: it would change the size). Raises PictureError naming the field.
    """
    if is_compressed(message):
        return _decompress(message)
    return pixels(
        message.data, message.height, message.width, message.encoding, message.step,
        bool(message.is_bigendian),
    )  # fmt: skip


def pixels(
    data: Any, height: int, width: int, encoding: str, step: int, big_endian: bool = False
) -> NDArray[np.uint8]:
    """Raw bytes of an image, rows of `step` bytes -> uint8 (H, W, 3) RGB; see `decode`."""
    flat = np.frombuffer(data, dtype=np.uint8)
    _check_rows(flat.size, height, width, encoding, step)
    size = _BYTES[encoding]
    rows = flat.reshape(height, step)[:, : width * size].reshape(height, width, size)
    if encoding in _CONVERSIONS:
        return _converted(rows, encoding)
    if encoding.endswith("16"):
        rows = rows[:, :, (0 if big_endian else 1) :: 2]
    if encoding.startswith("bgr"):
        return rows[:, :, 2::-1]
    if rows.shape[2] == 1:
        return np.broadcast_to(rows, (height, width, 3))
    return rows[:, :, :3]


def _check_rows(size: int, height: int, width: int, encoding: str, step: int) -> None:
    if encoding not in _BYTES:
        raise PictureError(
            "encoding",
            f"image encoding '{encoding}' is not understood; "
            f"have the camera publish one of {', '.join(_BYTES)}",
        )
    needed = _BYTES[encoding]
    if step < width * needed or size != height * step:
        raise PictureError(
            "step" if step < width * needed else "data",
            f"image data holds {size} bytes, expected height x step = {height} x {step} with "
            f"step >= width x bytes per pixel = {width} x {needed}; the picture is cut or "
            "mislabelled",
        )
    if ("yu" in encoding or encoding == "uyvy") and width % 2:
        raise PictureError(
            "width", f"image encoding '{encoding}' needs an even width, this one is {width}"
        )


def _converted(rows: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8]:
    import cv2

    code = getattr(cv2, _CONVERSIONS[encoding])
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rows), code), dtype=np.uint8)


def _decompress(message: Any) -> NDArray[np.uint8]:
    import cv2

    size = size_of(message)
    _check_end(memoryview(message.data))
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(message.data, dtype=np.uint8), flags)
    if bgr is None or bgr.shape[1::-1] != size:
        raise PictureError("data", f"compressed image of {len(message.data)} bytes is damaged")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _check_end(data: memoryview) -> None:
    """OpenCV fills the missing rows of a cut JPEG with grey and says nothing."""
    whole = data[-12:] == _PNG_END if data[:8] == _PNG else data[-2:] == _JPEG_END
    # Some cameras pad their JPEGs with zeros.
    if not whole and not bytes(data).rstrip(b"\0").endswith((_JPEG_END, _PNG_END)):
        raise PictureError("data", f"compressed image of {len(data)} bytes is cut: it has no end")


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    """(width, height) from the frame header (SOF) of a JPEG, ITU-T T.81, B.2.2."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise PictureError("data", f"JPEG of {len(data)} bytes is cut before its frame header")
