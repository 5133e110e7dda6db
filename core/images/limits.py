"""Default limits on the size of an image. Imports nothing, so that `--help` can show them."""

MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384  # height and width in pixels
