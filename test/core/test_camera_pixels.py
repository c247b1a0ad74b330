"""One decoder for every camera: what encodings, JPEG and PNG become, and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_core import camera_pixels, messages
from efm_core.bags import BagError
from efm_core.bags import decode as fast
from efm_core.camera_description import CameraDescription
from efm_core.camera_intake import CameraIntake
from efm_core.camera_ledger import Arrival
from efm_core.camera_pixels import PictureError

H, W = 4, 6
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(0, 160, 5), np.arange(0, 240, 10), [90], indexing="ij"),
                  -1).astype(np.uint8)[:, :, 0]  # fmt: skip


def raw(encoding: str, rows: np.ndarray, padding: int = 0, big_endian: bool = False):
    """A sensor_msgs/Image of bytes (H, step), rows padded by as many bytes."""
    message = messages.image(1, "front", RGB)
    message.encoding, message.is_bigendian = encoding, int(big_endian)
    rows = np.pad(rows.reshape(H, -1), ((0, 0), (0, padding)), constant_values=255)
    message.step, message.data = rows.shape[1], rows.reshape(-1)
    return message


def plain(encoding: str) -> np.ndarray:
    """RGB in another order of bytes."""
    alpha = np.full((H, W, 1), 17, np.uint8)
    grey = RGB[:, :, :1]
    return {
        "rgb8": RGB, "bgr8": RGB[:, :, ::-1], "rgba8": np.dstack([RGB, alpha]),
        "bgra8": np.dstack([RGB[:, :, ::-1], alpha]), "mono8": grey, "8UC1": grey,
    }[encoding]  # fmt: skip


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC1"])
@given(padding=st.integers(0, 9))
def test_eight_bit_pictures_are_read_without_a_copy_whatever_their_step(encoding, padding):
    message = raw(encoding, np.ascontiguousarray(plain(encoding)), padding)
    picture = camera_pixels.decode(message)
    expected = np.repeat(RGB[:, :, :1], 3, axis=2) if "1" in encoding or "mono" in encoding else RGB
    np.testing.assert_array_equal(picture, expected)
    assert np.shares_memory(picture, message.data)
    camera_pixels.check(message, W, H)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bgr16"])
def test_of_sixteen_bits_the_upper_eight_count(encoding, big_endian):
    channels = RGB[:, :, :1] if encoding == "mono16" else RGB
    ordered = channels[:, :, ::-1] if encoding == "bgr16" else channels
    words = ordered.astype(">u2" if big_endian else "<u2") * 256 + 201
    message = raw(encoding, words.astype(">u2" if big_endian else "<u2").view(np.uint8), 4,
                  big_endian)  # fmt: skip
    expected = np.broadcast_to(channels, RGB.shape)
    np.testing.assert_array_equal(camera_pixels.decode(message), expected)


def bt601(y: float, u: float, v: float) -> list[float]:
    """ITU-R BT.601, limited range: Y 16..235, Cb and Cr 16..240 about 128 -> RGB 0..255."""
    luma, cb, cr = 1.164 * (y - 16), u - 128, v - 128
    return [luma + 1.596 * cr, luma - 0.392 * cb - 0.813 * cr, luma + 2.017 * cb]


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_yuv_422_follows_the_standard(encoding, order):
    rng = np.random.default_rng(1)
    luma = rng.integers(60, 180, (H, W))
    u, v = rng.integers(110, 146, (2, H, W // 2))
    pairs = {"u": u, "v": v}
    parts = []
    for at, name in enumerate(order):
        parts.append(luma[:, at // 2 :: 2] if name == "y" else pairs[name])
    rows = np.stack(parts, -1).astype(np.uint8).reshape(H, -1)
    picture = camera_pixels.decode(raw(encoding, rows, padding=6))
    for row in range(H):
        for column in range(W):
            wanted = bt601(luma[row, column], u[row, column // 2], v[row, column // 2])
            np.testing.assert_allclose(picture[row, column], wanted, atol=2.0)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_bayer_picture_of_one_colour_has_that_colour(pattern):
    colour = {"r": 200, "g": 120, "b": 40}
    rows = np.zeros((H, W), np.uint8)
    for at, name in enumerate(pattern):
        rows[at // 2 :: 2, at % 2 :: 2] = colour[name]
    picture = camera_pixels.decode(raw(f"bayer_{pattern}8", rows))
    np.testing.assert_array_equal(picture[1:-1, 1:-1].reshape(-1, 3)[0], [200, 120, 40])


def packed(kind: str, rgb: np.ndarray = SMOOTH) -> bytes:
    return cv2.imencode(f".{kind}", rgb[:, :, ::-1])[1].tobytes()


def test_png_comes_back_bit_by_bit_and_jpeg_nearly():
    png = messages.compressed_image(5, "front", "png", packed("png"))
    np.testing.assert_array_equal(camera_pixels.decode(png), SMOOTH)
    jpeg = messages.compressed_image(5, "front", "rgb8; jpeg compressed bgr8", packed("jpg"))
    near = camera_pixels.decode(jpeg).astype(int)
    assert np.abs(near - SMOOTH).max() <= 12
    for message in (png, jpeg):
        assert camera_pixels.size_of(message) == (SMOOTH.shape[1], SMOOTH.shape[0])
        wire = messages.serialize(message, "sensor_msgs/msg/CompressedImage")
        back = messages.deserialize(wire, "sensor_msgs/msg/CompressedImage")
        np.testing.assert_array_equal(messages.read_image(back), messages.read_image(message))


def test_exif_does_not_turn_a_picture():
    """A JPEG with orientation 6 (turned by 90 degrees) keeps its width and height."""
    entry = bytes.fromhex("1201 0300 01000000 06000000")  # orientation, short, one of it, 6
    tiff = b"II*\x00" + bytes([8, 0, 0, 0, 1, 0]) + entry + bytes(4)
    segment = b"Exif\x00\x00" + tiff
    data = packed("jpg")
    turned = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    message = messages.compressed_image(0, "", "jpeg", turned)
    assert camera_pixels.decode(message).shape == SMOOTH.shape
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape != SMOOTH.shape


def test_a_jpeg_padded_with_zeros_is_whole():
    message = messages.compressed_image(0, "", "jpeg", packed("jpg") + bytes(100))
    camera_pixels.check(message, SMOOTH.shape[1], SMOOTH.shape[0])


@given(st.sampled_from(["jpg", "png"]), st.data())
def test_a_cut_file_is_refused_wherever_it_is_cut(kind, data):
    whole = packed(kind)
    end = data.draw(st.integers(1, len(whole) - 1))
    message = messages.compressed_image(0, "", kind, whole[:end])
    with pytest.raises(PictureError):
        camera_pixels.check(message, SMOOTH.shape[1], SMOOTH.shape[0])
    with pytest.raises(PictureError):
        camera_pixels.decode(message)


@pytest.mark.parametrize(
    ("change", "field", "match"),
    [
        ({"encoding": "32FC1"}, "encoding", "'32FC1' is not understood; have the camera publish"),
        ({"step": 3}, "step", "step >= width x bytes per pixel = 6 x 3"),
        ({"data": np.zeros(5, np.uint8)}, "data", "holds 5 bytes, expected height x step = 4 x 18"),
        ({"width": 5}, "width", "picture is 5x4, the robot's description says 6x4"),
        ({"height": 9}, "height", "picture is 6x9"),
    ],
)
def test_a_refusal_says_which_field(change, field, match):
    message = messages.image(0, "front", RGB)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(PictureError, match=match) as caught:
        camera_pixels.check(message, W, H)
    assert caught.value.field == field


def test_yuv_of_an_odd_width_and_a_file_of_another_kind_are_refused():
    message = raw("yuyv", np.zeros((H, 10), np.uint8))
    message.width = 5
    with pytest.raises(PictureError, match="'yuyv' needs an even width, this one is 5"):
        camera_pixels.check(message, 5, H)
    depth = messages.compressed_image(0, "", "16UC1; compressedDepth", bytes(12) + packed("png"))
    with pytest.raises(PictureError, match="'16UC1; compressedDepth' and holds neither") as caught:
        camera_pixels.check(depth, W, H)
    assert caught.value.field == "format"


def test_a_picture_is_decoded_once_and_only_when_asked_for(monkeypatch):
    decoded = []
    real = camera_pixels.decode
    monkeypatch.setattr(camera_pixels, "decode", lambda m: (decoded.append(m), real(m))[1])
    height, width = SMOOTH.shape[:2]
    intake = CameraIntake(CameraDescription(width=width, height=height), lockstep=False)
    frame = intake.take(messages.compressed_image(10**9, "", "jpeg", packed("jpg")), 10**9)
    assert (frame.arrival, decoded) == (Arrival.ON_TIME, [])
    assert frame.rgb is frame.rgb
    assert frame.readable
    assert len(decoded) == 1


def test_the_fast_reader_of_bags_gives_the_same():
    for encoding in ("rgb8", "bgra8", "mono8"):
        message = raw(encoding, np.ascontiguousarray(plain(encoding)), 2)
        wire = messages.serialize(message, "sensor_msgs/msg/Image")
        np.testing.assert_array_equal(fast.image(wire).rgb, camera_pixels.decode(message))
    kind = "sensor_msgs/msg/CompressedImage"
    message = messages.compressed_image(7, "wrist", "jpeg", packed("jpg"))
    shown = fast.picture(messages.serialize(message, kind), kind)
    assert (shown.stamp_ns, shown.frame_id) == (7, "wrist")
    np.testing.assert_array_equal(shown.rgb, camera_pixels.decode(message))
    cut = messages.compressed_image(7, "wrist", "jpeg", packed("jpg")[:-9])
    with pytest.raises(BagError, match="is cut: it has no end"):
        fast.picture(messages.serialize(cut, kind), kind)
