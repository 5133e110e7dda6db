"""Tests of core.images.decode: supported formats match Pillow, and everything else is an ImageError with its code."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from core.errors import ImageError, InputError
from core.images.decode import decode_image, decode_reduced, load_image, read_label
from tests.support.paths import ROOT
from tests.support.sample_images import (
    BROKEN_PNGS,
    PNG_SIGNATURE,
    VALID_PNGS,
    animated_image,
    decode_with_pillow,
    encode_image,
    huge_png,
    rotated_image,
    sample_image,
)


def error_code(data: bytes, **limits: int) -> str:
    """Return the code of the error that decoding `data` raises."""
    with pytest.raises(ImageError) as error:
        decode_image(data, **limits)
    return error.value.code


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_lossless_image_is_unchanged(rgb_image: np.ndarray, format: str) -> None:
    assert np.array_equal(decode_image(encode_image(format, rgb_image, lossless=True)), rgb_image)


def test_jpeg_is_decoded_as_rgb() -> None:
    red = np.zeros((32, 32, 3), np.uint8) + np.array([250, 10, 20], np.uint8)
    assert decode_image(encode_image("JPEG", red))[16, 16, 0] > 200


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_png_modes_match_pillow(rgb_image: np.ndarray, mode: str) -> None:
    image = Image.fromarray(rgb_image).convert(mode)
    assert np.array_equal(decode_image(encode_image("PNG", image)), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_is_close_to_pillow(rgb_image: np.ndarray) -> None:
    data = encode_image("JPEG", Image.fromarray(rgb_image).convert("CMYK"), quality=95)
    assert np.abs(decode_image(data).astype(int) - decode_with_pillow(data)).max() <= 3


def test_16_bit_gray_is_rescaled() -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    assert np.array_equal(decode_image(encode_image("PNG", values))[..., 0], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    data = rotated_image(orientation, "PNG")
    assert np.array_equal(decode_image(data), decode_with_pillow(data))
    assert decode_image(data).shape[:2] == ((40, 60) if orientation < 5 else (60, 40))


@pytest.mark.parametrize("format", ["JPEG", "JPEG progressive"])
@pytest.mark.parametrize(("needed", "factor"), [(40, 1), (30, 2), (20, 2), (16, 2), (15, 4), (8, 4), (7, 8), (1, 8)])
def test_reduced_jpeg_matches_pillow(format: str, needed: int, factor: int) -> None:
    rgb = sample_image(60, 90)
    data = encode_image("JPEG", rgb, quality=90, progressive=format.endswith("progressive"))
    reduced, size = decode_reduced(data, lambda height, width: (needed, needed * width // height))
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (90 // factor, 60 // factor))
        expected = np.asarray(image)
    assert size == (60, 90) and np.array_equal(reduced, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_jpeg_is_upright(orientation: int) -> None:
    data = rotated_image(orientation)
    reduced, size = decode_reduced(data, lambda height, width: (height // 2, width // 2))
    upright = decode_image(data)
    assert size == upright.shape[:2] and reduced.shape[:2] == (size[0] // 2, size[1] // 2)
    average = cv2.resize(upright, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - average).mean() < 4


def test_reduced_jpeg_that_is_damaged_is_rejected() -> None:
    data = encode_image("JPEG", sample_image(60, 90))
    with pytest.raises(ImageError, match="damaged or incomplete"):
        decode_reduced(data[: len(data) // 2], lambda *_: (8, 8))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_other_formats_are_not_reduced(rgb_image: np.ndarray, format: str) -> None:
    data = encode_image(format, rgb_image, lossless=True)
    assert np.array_equal(decode_reduced(data, lambda *_: (1, 1))[0], rgb_image)


def test_whole_image_of_reduced_one_is_decoded_on_demand() -> None:
    data = encode_image("JPEG", sample_image(60, 90))
    loaded = load_image(data, lambda *_: (8, 8))
    assert loaded.pixels.shape == (15, 23, 3) and loaded.size == (60, 90)
    assert np.array_equal(loaded.full, decode_image(data))


@pytest.mark.parametrize("path", VALID_PNGS, ids=lambda path: path.stem)
def test_valid_png_of_pngsuite_matches_pillow(path: Path) -> None:
    assert np.array_equal(decode_image(path.read_bytes()), decode_with_pillow(path.read_bytes()))


@pytest.mark.parametrize("path", BROKEN_PNGS, ids=lambda path: path.stem)
def test_broken_png_of_pngsuite_is_rejected(path: Path) -> None:
    assert error_code(path.read_bytes()) == BROKEN_PNGS[path]


def test_pngsuite_is_complete() -> None:
    """The two tests above have as many cases as there are files."""
    assert (len(VALID_PNGS), len(BROKEN_PNGS)) == (160, 14)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "PPM"])
def test_other_image_format_is_unsupported(rgb_image: np.ndarray, format: str) -> None:
    assert error_code(encode_image(format, rgb_image)) == "unsupported_image_format"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
        (b"\0\0\0\x14ftypqt  " + bytes(40), "a video"),
        (b"\0\0\0\x08wide\0\0\0\x10mdat", "a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "a video"),
        (b"RIFF\x24\0\0\0AVI LIST", "a video"),
        (b"\0\0\x01\xba" + bytes(40), "a video"),
        (b"\0\0\x01\xb3" + bytes(40), "a video"),
        ((b"G" + bytes(187)) * 3, "a video"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC or AVIF image"),
        (b"\0\0\0\x1cftypavif" + bytes(40), "a HEIC or AVIF image"),
        (encode_image("GIF"), "a GIF"),
    ],
    ids=["mp4", "mov", "mov without ftyp", "mkv", "avi", "mpeg-ps", "mpeg-2", "mpeg-ts", "heic", "avif", "gif"],
)
def test_error_names_other_format(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"this looks like {name}"):
        decode_image(data)


def test_text_is_not_called_a_video() -> None:
    with pytest.raises(ImageError, match="this is not an image"):
        decode_image(b"the free encyclopedia")


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"<html></html>", b"%PDF-1.7", b"\0\0\0\x18ftypheic", b"<svg/>"],
    ids=["empty", "one byte", "html", "pdf", "heic", "svg"],
)
def test_other_file_is_unsupported(data: bytes) -> None:
    assert error_code(data) == "unsupported_image_format"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.999])
def test_truncated_image_is_corrupt(rgb_image: np.ndarray, format: str, fraction: float) -> None:
    data = encode_image(format, rgb_image)
    assert error_code(data[: max(12, int(len(data) * fraction))]) == "corrupt_image"


def opencv_rgb(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


@pytest.mark.parametrize("orientation", [*range(0, 10), 0x0600])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little endian", "big endian"])
def test_jpeg_has_pixels_and_orientation_of_opencv(rgb_image: np.ndarray, orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112] = "maker", orientation
    data = encode_image("JPEG", rgb_image, exif=exif)
    assert np.array_equal(decode_image(data), opencv_rgb(data))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2, "quality": 30},
        {"restart_marker_blocks": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_has_pixels_of_opencv(rgb_image: np.ndarray, mode: str, options: dict[str, Any]) -> None:
    data = encode_image("JPEG", Image.fromarray(rgb_image).convert(mode), **options)
    assert np.array_equal(decode_image(data), opencv_rgb(data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
@pytest.mark.parametrize("damage", ["zeroed", "missing"])
def test_jpeg_with_damaged_middle_is_corrupt(options: dict[str, Any], damage: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    data = encode_image("JPEG", noise, **options)
    middle = len(data) // 2
    damaged = data[:middle] + bytes(4096) * (damage == "zeroed") + data[middle + 4096 :]
    assert opencv_rgb(damaged) is not None  # which invents the lower half
    assert error_code(damaged) == "corrupt_image"


def test_jpeg_with_bytes_before_its_end_is_accepted(rgb_image: np.ndarray) -> None:
    """Some cameras write them; libjpeg warns of them as of damage."""
    data = encode_image("JPEG", rgb_image)
    assert np.array_equal(decode_image(data[:-2] + b"\x00" * 20 + data[-2:]), decode_image(data))


def test_signature_without_content_is_corrupt() -> None:
    assert error_code(PNG_SIGNATURE) == "corrupt_image"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animation_is_rejected(format: str) -> None:
    assert error_code(animated_image(format)) == "animated_image"


def test_huge_png_is_rejected_by_its_header() -> None:
    assert error_code(huge_png(30_000, 30_000)) == "too_large"


def test_long_side_is_rejected(rgb_image: np.ndarray) -> None:
    assert error_code(encode_image("PNG", rgb_image), max_side=100) == "too_large"


def test_mutated_images_decode_or_raise_image_error() -> None:
    """The fuzzer runs in its own process, because a mutated image could crash a decoder."""
    completed = subprocess.run(
        [sys.executable, "-m", "tests.support.image_fuzzer", "20000"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_load_image_names_the_file_in_its_error(tmp_path: Path) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"street\.png"):
        load_image(path)


def test_read_label_keeps_palette_indices_and_16_bits(tmp_path: Path) -> None:
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    palette_image = Image.fromarray(indices, "P")
    palette_image.putpalette(list(range(255, -1, -1)) * 3)
    palette_image.save(tmp_path / "palette.png")
    Image.fromarray(indices.astype(np.uint16) * 1000).save(tmp_path / "gray16.png")
    label = read_label(tmp_path / "palette.png")
    assert np.array_equal(label.values, indices)
    assert label.palette is not None and label.palette[:2].tolist() == [[255, 254, 253], [252, 251, 250]]
    assert np.array_equal(read_label(tmp_path / "gray16.png").values, indices.astype(np.uint16) * 1000)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_read_label_keeps_colors(tmp_path: Path, rgb_image: np.ndarray, mode: str) -> None:
    Image.fromarray(rgb_image).convert(mode).save(tmp_path / "color.png")
    assert np.array_equal(read_label(tmp_path / "color.png").values, rgb_image)


def test_read_label_rejects_gray_with_alpha(tmp_path: Path) -> None:
    Image.new("LA", (4, 4)).save(tmp_path / "la.png")
    with pytest.raises(InputError, match="mode LA; expected class ids"):
        read_label(tmp_path / "la.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_read_label_rejects_gray_below_8_bits(tmp_path: Path, bits: int) -> None:
    """White in such a gray image can mean the largest value or 255; palette indices have only one meaning."""
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2**bits
    image = Image.fromarray(indices)
    image.putpalette(range(48))
    image.save(tmp_path / "palette.png", bits=bits)
    assert np.array_equal(read_label(tmp_path / "palette.png").values, indices)
    data = (tmp_path / "palette.png").read_bytes()
    header = data[12:25] + b"\0" + data[26:29]  # the same header with color type 0: gray
    (tmp_path / "gray.png").write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])
    with pytest.raises(
        InputError, match=rf"with {bits} bits per pixel is ambiguous \(white can mean {2**bits - 1} or 255\); save it with 8"
    ):
        read_label(tmp_path / "gray.png")
