"""What every backend promises, whichever are there: they are found by themselves, on both of AIZOO's networks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import plugins, resources
from pipeline.errors import StartupError
from pipeline.inference.backend import Backend, BackendConfig, check_outputs, is_available
from pipeline.inference.detector import Detector, build_backend, build_detector
from pipeline.inference.importing.install import import_model
from pipeline.inference.model_card import ModelCard, read_card
from pipeline.inference.verify import BOXES_DIFFERENCE_MAX, SCORES_DIFFERENCE_MAX, picture
from pipeline.types import I420, Layout
from tests.contract import golden
from tests.contract.alone import TIMES
from tests.shared_data import ROOT, read_rgb, shared

KINDS = plugins.kinds("backend")
MODELS = ["aizoo-260", "aizoo-360"]

OWN_FRAMEWORKS = {
    "opencv_dnn": set[str](),
    "opencv_dnn_onnx": set[str](),
    "tflite": {"ai_edge_litert"},
    "tensorflow": {"tensorflow", "keras"},  # it imports Keras itself
    "keras": {"tensorflow", "keras"},
}

Face = tuple[int, float, float, float, float, float]
GOLDEN: dict[str, list[Face]] = {
    "aizoo_demo2.jpg": [(0, 0.907, 222, 49, 327, 198)],
    "aizoo_demo.png": [
        (1, 0.966, 34, 126, 169, 313),
        (1, 0.837, 399, 158, 546, 343),
        (1, 0.778, 290, 92, 441, 284),
    ],
    "aizoo_face.png": [(0, 0.966, 333, 349, 404, 456)],
}
"""aizoo-260 as the original runs it: class, score, corners in whole pixels (cut off, not rounded)."""


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of both networks, made by the importer."""
    folder = tmp_path_factory.mktemp("imported")
    for model in MODELS:
        path = resources.card_path(model)
        import_model(read_card(path), path, shared("models/aizoo"), folder / model)
    return folder


Build = Callable[..., Detector]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*MODELS, "facemask"])
def card(request: pytest.FixtureRequest) -> ModelCard:
    return read_card(resources.card_path(request.param))


@pytest.fixture
def backend(kind: str, card: ModelCard, imported: Path) -> Iterator[Backend]:
    backend = _backend(card, kind, imported)
    yield backend
    backend.close()
    backend.close()


def _backend(card: ModelCard, kind: str, imported: Path) -> Backend:
    if kind not in card.runtimes:
        pytest.skip(f"{card.name} has no files for {kind}")
    try:
        return build_backend(card, resources.card_path(card.name), kind, None, imported)
    except StartupError as error:
        if "which is not installed" in str(error):
            pytest.skip(str(error))
        raise


def _faces(detector: Detector, image: NDArray[np.uint8]) -> list[Face]:
    found = detector.detect_rgb(image)
    return [
        (class_id, score, *xyxy)
        for xyxy, score, class_id in zip(
            found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True
        )
    ]


def _detector(kind: str, imported: Path, model: str = "aizoo-260") -> Detector:
    _backend(read_card(resources.card_path(model)), kind, imported).close()  # skips where it cannot run
    return build_detector(model, kind, nms="agnostic", models_dir=imported, resize="bilinear")


def test_a_plug_in_has_a_config_that_needs_nothing(kind: str) -> None:
    config = plugins.load("backend", kind).config()
    assert isinstance(config, BackendConfig)
    assert (config.threads, config.device, config.precision) == (1, "cpu", "fp32")


def test_outputs_are_what_the_card_says(backend: Backend, card: ModelCard) -> None:
    outputs = backend.infer(picture(card.input, 1))
    assert outputs.keys() == {"boxes", "scores"}
    check_outputs(outputs, 1, card, resources.card_path(card.name))
    assert {str(values.dtype) for values in outputs.values()} == {"float32"}
    assert 0 <= outputs["scores"].min() <= outputs["scores"].max() <= 1


def test_raw_outputs_agree_with_the_default_backend(backend: Backend, card: ModelCard, imported: Path) -> None:
    batch = picture(card.input, 2)
    default = _backend(card, "onnxruntime", imported)
    wanted, outputs = default.infer(batch), backend.infer(batch)
    assert np.abs(outputs["boxes"] - wanted["boxes"]).max() <= BOXES_DIFFERENCE_MAX
    assert np.abs(outputs["scores"] - wanted["scores"]).max() <= SCORES_DIFFERENCE_MAX
    default.close()


def test_a_batch_is_its_pictures_one_by_one(backend: Backend, card: ModelCard) -> None:
    batch = picture(card.input, 3)
    together = {name: np.array(values) for name, values in backend.infer(batch).items()}
    for i in range(3):
        alone = backend.infer(batch[i : i + 1])
        assert np.abs(together["boxes"][i] - alone["boxes"][0]).max() <= BOXES_DIFFERENCE_MAX
        assert np.abs(together["scores"][i] - alone["scores"][0]).max() <= SCORES_DIFFERENCE_MAX


def test_wrong_shapes_and_types_are_refused(backend: Backend, card: ModelCard) -> None:
    good = picture(card.input, 1)
    for wrong in (good[0], good[:, :, :-1], good[:, :1], good[:0], good.transpose(0, 2, 3, 1)):
        with pytest.raises(ValueError, match=r"a batch of this model is \(n, 3, "):
            backend.infer(wrong)
    with pytest.raises(ValueError, match="a batch is float32, not float64"):
        backend.infer(good.astype(np.float64))
    backend.infer(good)


def test_two_live_side_by_side(kind: str, card: ModelCard, imported: Path) -> None:
    batch = picture(card.input, 1)
    first, second = _backend(card, kind, imported), _backend(card, kind, imported)
    wanted = np.array(first.infer(batch)["scores"])
    first.close()
    assert np.array_equal(second.infer(batch)["scores"], wanted)
    second.close()


def test_threads_may_share_one(backend: Backend, card: ModelCard) -> None:
    batch = picture(card.input, 3)
    wanted = [np.array(backend.infer(batch[i : i + 1])["scores"]) for i in range(3)]
    wrong: list[int] = []

    def work(i: int) -> None:
        differences = [np.abs(backend.infer(batch[i : i + 1])["scores"] - wanted[i]).max() for _ in range(3)]
        if max(differences) > SCORES_DIFFERENCE_MAX:
            wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.timeout(300)  # Keras loads itself and its engine, and other tests may share the processors
def test_alone_it_gives_its_memory_back_and_loads_no_other_framework(kind: str, imported: Path) -> None:
    card = read_card(resources.card_path("aizoo-260"))
    if not is_available(kind):
        _backend(card, kind, imported)  # skips
    command = [sys.executable, "-m", "tests.contract.alone", kind, str(imported)]
    for _ in range(3):  # a leak grows every time; the arenas of the allocator do so only now and then
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        assert set(told["frameworks"]) <= OWN_FRAMEWORKS.get(kind, {kind})
        if told["grown_mb"] < TIMES * 4 / 2:  # the weights alone are 4 MB
            return
    pytest.fail(f"{TIMES} loads and closes left {told['grown_mb']} MB behind, three times in a row")


def test_a_picture_of_the_demo_clip_gives_what_it_always_gave(backend: Backend, card: ModelCard) -> None:
    wanted = golden.outputs(card.name)
    outputs = {name: values[0][wanted.rows] for name, values in backend.infer(golden.batch(card.input)).items()}
    assert wanted.scores.max() > 0.5
    assert np.abs(outputs["boxes"] - wanted.boxes).max() <= BOXES_DIFFERENCE_MAX
    assert np.abs(outputs["scores"] - wanted.scores).max() <= SCORES_DIFFERENCE_MAX


def test_a_device_that_is_not_there_is_refused(kind: str, card: ModelCard, imported: Path) -> None:
    _backend(card, kind, imported).close()
    with pytest.raises(StartupError, match="cannot use the device 'cuda': "):
        build_backend(card, resources.card_path(card.name), kind, {"device": "cuda"}, imported)


def test_golden_detections(kind: str, imported: Path) -> None:
    detector = _detector(kind, imported)
    for name, wanted in GOLDEN.items():
        faces = _faces(detector, read_rgb(shared(f"images/{name}")))
        assert [face[0] for face in faces] == [face[0] for face in wanted], name
        for face, original in zip(faces, wanted, strict=True):
            assert face[1] == pytest.approx(original[1], abs=1e-3), name
            assert face[2:] == pytest.approx(original[2:], abs=1), name
    detector.close()


def test_colours_in_the_wrong_order_are_noticed(kind: str, imported: Path) -> None:
    detector = _detector(kind, imported)
    image = read_rgb(shared("images/aizoo_face.png"))
    assert len(detector.detect_rgb(image)) == 1
    assert len(detector.detect_rgb(np.ascontiguousarray(image[..., ::-1]))) == 0
    detector.close()


def test_video_finds_what_the_picture_shows(kind: str, imported: Path) -> None:
    import cv2

    image = cv2.resize(read_rgb(shared("images/aizoo_demo2.jpg")), (464, 330), interpolation=cv2.INTER_AREA)
    frame = I420.view(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).ravel(), Layout(464, 330))
    _backend(read_card(resources.card_path("aizoo-260")), kind, imported).close()
    detector = build_detector("aizoo-260", kind, models_dir=imported)
    still, video = detector.detect_rgb(image), detector.detect_i420(frame)
    assert still.class_id.tolist() == video.class_id.tolist() == [0]
    assert np.abs(still.xyxy - video.xyxy).max() < 3
    assert np.abs(still.confidence - video.confidence).max() < 0.05
    detector.close()
