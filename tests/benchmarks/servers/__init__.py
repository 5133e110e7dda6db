"""Services around the same checkpoint, written the plain way, that ours is measured against."""
