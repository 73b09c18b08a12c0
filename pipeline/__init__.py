"""A streaming video analytics pipeline: cameras and files in, annotated video and no-mask events out."""

__version__ = "0.1.0"
