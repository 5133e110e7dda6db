"""The web service: `POST /segment` answers a photograph with its mask."""
