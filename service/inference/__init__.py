"""From an encoded image to an encoded mask: admission, batching, pipeline and model registry; no HTTP."""
