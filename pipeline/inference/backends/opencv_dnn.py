"""Caffe and ONNX by OpenCV's dnn module."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StartupError
from pipeline.inference.backend import BackendConfig, check_batch, contradiction, failed, no_device, unreadable
from pipeline.inference.model_card import ModelCard
from pipeline.inference.weights import RuntimeFiles


class Config(BackendConfig):
    """Reads the roles ``prototxt`` and ``caffemodel``, or ``onnx``.

    threads: OpenCV has one number of threads for a whole process; the last backend made sets it.
    """


class OpenCvDnn:
    """A pool of nets: a ``cv2.dnn.Net`` serves one thread at a time, so each call borrows one or makes one."""

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise StartupError(f"OpenCV {cv2.__version__} reads no Caffe files: pip install 'opencv-python>=4.11,<5'")
        if config.device == "cuda" and not cv2.cuda.getCudaEnabledDeviceCount():
            raise no_device("opencv_dnn", config.device, "this OpenCV is built without CUDA, or finds no GPU")
        self._cuda = config.device == "cuda"
        cv2.setNumThreads(config.threads)
        cv2.setLogLevel(0)  # what it refuses is raised, and said there
        self._files = files
        self._roles = ("prototxt", "caffemodel") if files.has("caffemodel") else ("onnx",)
        self._content = tuple(np.frombuffer(files.read(role), np.uint8) for role in self._roles)
        self._spec = card.input
        self._input = files.tensors.input
        self._outputs = [files.tensors.boxes, files.tensors.scores]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        net = self._read()
        try:
            names = set(net.getLayerNames())
        except UnicodeDecodeError as error:
            raise unreadable(files.name(self._roles[-1]), "opencv_dnn", error) from error
        for field, name in (("boxes", files.tensors.boxes), ("scores", files.tensors.scores)):
            if name not in names:
                raise contradiction(files.card_path, f"tensors.{field}", repr(name), "no layer of that name")
        self._idle.put(net)

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        check_batch(batch, self._spec)
        try:
            net = self._idle.get_nowait()
        except queue.Empty:
            net = self._read()
        try:
            net.setInput(batch, self._input)
            boxes, scores = net.forward(self._outputs)
        except cv2.error as error:
            raise failed("opencv_dnn", error) from error
        self._idle.put(net)
        return {"boxes": boxes, "scores": scores}

    def close(self) -> None:
        self._content = ()
        while True:
            try:
                self._idle.get_nowait()
            except queue.Empty:
                return

    def _read(self) -> Any:
        read = cv2.dnn.readNetFromCaffe if len(self._roles) == 2 else cv2.dnn.readNetFromONNX
        try:
            net = read(*self._content)
        except cv2.error as error:
            raise unreadable(self._files.name(self._roles[-1]), "opencv_dnn", error) from error
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA if self._cuda else cv2.dnn.DNN_BACKEND_OPENCV)
        net.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA if self._cuda else cv2.dnn.DNN_TARGET_CPU)
        return net


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> OpenCvDnn:
    return OpenCvDnn(config, card, files)
