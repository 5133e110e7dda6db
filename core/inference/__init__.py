"""From image to label map: the segmenter, its options and its result. The backends belong to `core.backends`."""
