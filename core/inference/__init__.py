"""Image to label map: the segmenter, its options and its result. Back ends are in core.backends."""
