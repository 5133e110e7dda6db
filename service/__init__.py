"""The web service: `POST /segment` returns the segmentation mask of an image."""
