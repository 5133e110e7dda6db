"""From an encoded image to an encoded mask: admission, batching, pipeline, model registry."""
