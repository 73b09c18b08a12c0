"""A few steps of training on generated pictures: the whole way from COCO files to an exported network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch", reason="training needs torch (pip install torch)")

from models.training import boxes, data, evaluate, frames, loss, network, train  # noqa: E402
from models.training.augment import Augmenter, Mix, Stream  # noqa: E402
from tests.shared_data import shared  # noqa: E402

torch.set_num_threads(1)

SMALL = network.Architecture(
    width=96, height=64, stem=8, widths=(8, 16, 16, 16), depths=(1, 1, 1, 1), pyramid=16, anchors=(12.0, 32.0, 64.0)
)


def generated(folder: Path, count: int = 8) -> Path:
    """Grey pictures with one or two round faces each, every other one masked in light blue."""
    rng = np.random.default_rng(3)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        picture = rng.integers(60, 120, (80, 120, 3), dtype=np.uint8)
        for k in range(1 + i % 2):
            x, y, side = 8 + 55 * k, int(rng.integers(8, 30)), int(rng.integers(24, 40))
            centre = (x + side // 2, y + side // 2)
            cv2.circle(picture, centre, side // 2, (150, 180, 230), -1)
            if i % 2:
                cv2.rectangle(picture, (x, centre[1]), (x + side, y + side), (230, 200, 160), -1)
            annotations.append({"image_id": i, "category_id": 1 - i % 2, "bbox": [x, y, side, side], "ignore": 0})
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture)
        images.append({"id": i, "file_name": f"{i}.png", "width": 120, "height": 80})
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


@pytest.fixture
def samples(tmp_path: Path) -> list[data.Sample]:
    generated(tmp_path / "data" / "train_made")
    data.prepare(tmp_path / "data", tmp_path / "cache", ("train_made",), teacher=None)
    return data.load(tmp_path / "cache")


def test_a_few_steps_lower_the_loss_and_a_resumed_run_goes_on(
    samples: list[data.Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plan = train.Plan(steps=50, batch=4, warmup=5, workers=0, bfloat16=False, ema=0.5)
    torch.manual_seed(plan.seed)  # the network that the training begins with
    before, _ = loss_of(network.FaceMaskNet(SMALL).train(), samples)
    kept = train.train(samples, samples[:2], SMALL, plan, tmp_path / "run")
    trained = train.load_network(kept)
    after, _ = loss_of(trained, samples)
    assert after < before
    train.train(samples, [], SMALL, train.Plan(steps=52, batch=4, workers=0, bfloat16=False), tmp_path / "run")
    assert "going on from step 50" in caplog.text
    assert torch.load(kept, weights_only=True)["step"] == 52


def loss_of(net: network.FaceMaskNet, samples: list[data.Sample]) -> tuple[float, int]:
    stream = Stream(Augmenter(samples, SMALL.width, SMALL.height, Mix(mosaic=0)), seed=1, batch=8, first=0, last=1)
    pixels, faces, labels = next(iter(stream))
    with torch.no_grad():
        offsets, logits = net(pixels.float() / 255)
        found = loss.multibox_loss(offsets, logits, network.anchor_points(SMALL), faces, labels)
    return float(found.total), found.positives


def test_a_sample_is_a_function_of_seed_and_index(samples: list[data.Sample]) -> None:
    augmenter = Augmenter(samples, 96, 64)
    for index in range(20):
        pixels, faces, labels = augmenter(5, index)
        again, _, _ = augmenter(5, index)
        assert np.array_equal(pixels, again)
        assert pixels.shape == (64, 96, 3)
        assert len(faces) == len(labels)
        assert (faces >= -0.01).all()
        assert (faces <= [96.01, 64.01, 96.01, 64.01]).all()


def test_faces_land_on_the_anchors_inside_them() -> None:
    anchors = network.anchor_points(SMALL)
    faces = torch.tensor([[0, 20.0, 20.0, 32.0, 32.0], [1, 4.0, 4.0, 60.0, 60.0]])
    corners = network.decode(torch.zeros(2, len(anchors), 4), anchors)
    found = loss.assign(torch.full((2, len(anchors), 2), 0.1), corners, anchors, faces, torch.tensor([0, 1]))
    assert set(found.picture.tolist()) == {0, 1}
    for picture, anchor, face in zip(found.picture, found.anchor, found.face, strict=True):
        x1, y1, x2, y2 = faces[face, 1:].tolist()
        x, y, _, stride = anchors[anchor].tolist()
        assert picture == faces[face, 0]
        assert x1 - stride < x < x2 + stride
        assert y1 - stride < y < y2 + stride


def test_the_exported_offsets_decode_as_ssd_to_what_training_saw() -> None:
    net = network.FaceMaskNet(SMALL).eval()
    picture = torch.rand(1, 3, SMALL.height, SMALL.width)
    with torch.no_grad():
        offsets, _ = net(picture)
        exported, scores = network.Deployed(net).eval()(picture)
    inside = network.decode(offsets, network.anchor_points(SMALL))[0].numpy()
    size = np.array([SMALL.width, SMALL.height] * 2)
    outside = boxes.ssd_decode(exported[0].numpy(), evaluate.priors(SMALL)) * size
    np.testing.assert_allclose(inside, outside, atol=1e-3)
    assert scores.shape == (1, len(inside), 2)


def test_the_onnx_file_gives_what_the_network_gives(samples: list[data.Sample], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from models.training import export

    net = network.FaceMaskNet(SMALL).eval()
    export.write_onnx(net, tmp_path / "made.onnx")  # compares both, alone and in a batch
    pictures = evaluate.truths_in(samples)[1]
    small = boxes.squash(pictures[0], SMALL.width, SMALL.height)
    for a, b in zip(evaluate.with_onnx(tmp_path / "made.onnx")(small), evaluate.with_torch(net)(small), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_calibration_puts_the_threshold_at_a_half(samples: list[data.Sample]) -> None:
    net = network.FaceMaskNet(SMALL).eval()
    truths, pictures = evaluate.truths_in(samples)
    before = evaluate.score(evaluate.with_torch(net), SMALL, truths, pictures)
    for head in net.heads:
        assert isinstance(head, network.Head)
        assert head.scores.bias is not None
        torch.nn.init.constant_(head.scores.bias, -1.0)
    evaluate.calibrate(net, truths, pictures)
    found = evaluate.detections(evaluate.with_torch(net), SMALL, truths, pictures)
    assert boxes.curve(truths, found, 1).threshold() == pytest.approx(0.5, abs=0.01)
    assert set(before) >= {"mAP", "Mask", "NoMask"}


def test_average_precision_by_hand() -> None:
    truth = boxes.Truth(np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.array([0, 0]), 100, 100)
    hit, miss = [0, 0.9, 0, 0, 10, 10], [0, 0.8, 50, 50, 60, 60]
    late = [0, 0.7, 20, 20, 30, 30]
    found = np.array([hit, miss, late], np.float32)
    whole = boxes.curve([truth], [found], 0)
    assert whole.average_precision() == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert whole.threshold() == pytest.approx(0.9)
    assert boxes.Curve(whole.scores, np.array([0.9, 0.8, 0.7]), whole.recall).threshold() == pytest.approx(0.9)
    assert boxes.Curve(whole.scores, np.array([1, 0.94, 0.96]), whole.recall).threshold() == pytest.approx(0.7)
    assert boxes.curve([truth], [found[:1]], 0).average_precision() == pytest.approx(0.5)


def test_a_smaller_share_lies_in_a_larger_one_and_every_set_is_in_it(samples: list[data.Sample]) -> None:
    files = {part: [(s.set, s.file) for s in data.share(samples, part)] for part in (0.25, 0.5, 1.0)}
    assert files[1.0] == [(s.set, s.file) for s in samples]
    assert set(files[0.25]) < set(files[0.5]) < set(files[1.0])
    assert {name for name, _ in files[0.25]} == {s.set for s in samples}


def test_frames_of_videos_become_a_set(tmp_path: Path) -> None:
    teacher, out = shared("models/aizoo/derived/model360_state.npz"), tmp_path / "train_video"
    nobody, woman = (
        shared(f"videos/{name}.gif") for name in ("cctv_entrance_out_480x270", "nomask_intel_headpose_480x270")
    )
    assert frames.write_set([nobody], None, 5, teacher, out) == 0
    assert frames.write_set([woman], 1, 10, teacher, out) >= 6
    read = data.read_coco(out)
    assert len(read) == 4 + 6
    assert all(1 in labels for *_, labels in read[4:])
    assert all((width, height) == (480, 270) for _, width, height, _, _ in read)
    assert {label for *_, labels in read[:4] for label in labels.tolist()} <= {data.IGNORE}
