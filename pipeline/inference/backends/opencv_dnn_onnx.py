"""ONNX by OpenCV's dnn module, for models whose ``opencv_dnn`` is a Caffe file."""

from __future__ import annotations

from pipeline.inference.backends.opencv_dnn import Config, OpenCvDnn, create

__all__ = ["Config", "OpenCvDnn", "create"]
