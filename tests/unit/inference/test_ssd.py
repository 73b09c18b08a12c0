from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline import resources
from pipeline.inference.model_card import InputSpec, SsdSpec, read_card
from pipeline.inference.ssd import CANDIDATES_MAX, SsdHead, Suppression, anchors, decode, iou_matrix

INPUT = InputSpec(width=200, height=100)
SPEC = SsdSpec.model_validate(
    {
        "kind": "ssd",
        "variances": [0.1, 0.1, 0.2, 0.2],
        "maps": [{"rows": 1, "columns": 2, "boxes": [[0.2, 0.4]]}, {"rows": 2, "columns": 1, "sizes": [0.5, 0.25]}],
    }
)
COUNT = 2 + 4

Out = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def detect(offsets: Any, scores: Any, **suppression: Any) -> Out:
    head = SsdHead(SPEC, INPUT, 2)
    return head.detect(np.asarray(offsets, np.float32), np.asarray(scores, np.float32), Suppression(**suppression))


def boxes_at(*xyxy: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """Offsets that put anchor i at the i-th box."""
    base = anchors(SPEC, INPUT)
    offsets = np.zeros((COUNT, 4), np.float32)
    for i, (x1, y1, x2, y2) in enumerate(xyxy):
        cx, cy, w, h = base[i]
        offsets[i] = [
            ((x1 + x2) / 2 - cx) / w / 0.1,
            ((y1 + y2) / 2 - cy) / h / 0.1,
            np.log((x2 - x1) / w) / 0.2,
            np.log((y2 - y1) / h) / 0.2,
        ]
    return offsets


def scores_of(*pairs: tuple[float, float]) -> NDArray[np.float32]:
    scores = np.zeros((COUNT, 2), np.float32)
    scores[: len(pairs)] = pairs
    return scores


FACE = (0.1, 0.1, 0.3, 0.5)
NEAR = (0.11, 0.1, 0.31, 0.5)  # overlaps FACE by 0.90
AWAY = (0.6, 0.4, 0.9, 0.9)


def test_anchors_are_ordered_by_map_row_column_and_size() -> None:
    wanted = [
        (0.25, 0.5, 0.2, 0.4),
        (0.75, 0.5, 0.2, 0.4),
        (0.5, 0.25, 0.25, 0.5),
        (0.5, 0.25, 0.125, 0.25),
        (0.5, 0.75, 0.25, 0.5),
        (0.5, 0.75, 0.125, 0.25),
    ]
    assert np.allclose(anchors(SPEC, INPUT), wanted)


def test_aizoo_anchors_are_the_original_s() -> None:
    """The original's generator: every size at the first ratio, then the first size at the other ratios."""
    card = read_card(resources.card_path("aizoo-260"))
    made = anchors(card.head, card.input)
    sizes, ratios = [[0.04, 0.056], [0.08, 0.11], [0.16, 0.22], [0.32, 0.45], [0.64, 0.72]], [1, 0.62, 0.42]
    wanted = []
    for n, (first, second) in zip([33, 17, 9, 5, 3], sizes, strict=True):
        shapes = [(first, first), (second, second), *((first * r**0.5, first / r**0.5) for r in ratios[1:])]
        wanted += [((x + 0.5) / n, (y + 0.5) / n, w, h) for y in range(n) for x in range(n) for w, h in shapes]
    assert made.shape == (5972, 4)
    assert np.abs(made - np.array(wanted)).max() < 1e-7


def test_decoding_is_liu_s_equation() -> None:
    base = np.array([[0.5, 0.4, 0.2, 0.1]], np.float32)
    offsets = np.array([[1.0, -2.0, 0.5, -1.5]], np.float32)
    cx, cy = 0.5 + 1.0 * 0.1 * 0.2, 0.4 - 2.0 * 0.1 * 0.1
    w, h = 0.2 * np.exp(0.5 * 0.2), 0.1 * np.exp(-1.5 * 0.2)
    wanted = [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]]
    assert np.allclose(decode(offsets, base, (0.1, 0.1, 0.2, 0.2)), wanted)


def test_overlaps() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [1, 1, 1, 4]], np.float32)
    wanted = np.eye(4)
    wanted[0, 1] = wanted[1, 0] = 1 / 7
    wanted[3, 3] = 0
    assert np.allclose(iou_matrix(boxes), wanted)


def test_best_first_and_one_per_face() -> None:
    xyxy, confidence, class_id = detect(boxes_at(FACE, NEAR, AWAY), scores_of((0.7, 0), (0.8, 0), (0, 0.9)))
    assert class_id.tolist() == [1, 0]
    assert np.allclose(confidence, [0.9, 0.8])
    assert np.allclose(xyxy, [AWAY, NEAR], atol=1e-6)
    assert [str(array.dtype) for array in (xyxy, confidence, class_id)] == ["float32", "float32", "int32"]


def test_what_is_below_the_threshold_is_not_there_and_what_reaches_it_is() -> None:
    offsets, scores = boxes_at(FACE, AWAY), scores_of((0.5, 0), (0.499, 0))
    assert len(detect(offsets, scores, confidence_min=0.5)[0]) == 1
    assert len(detect(offsets, np.zeros((COUNT, 2)), confidence_min=0.5)[0]) == 0


def test_a_face_in_doubt_comes_out_once_with_its_better_class() -> None:
    offsets, scores = boxes_at(FACE, NEAR, AWAY), scores_of((0.9, 0.7), (0.6, 0.8), (0.95, 0))
    _, confidence, class_id = detect(offsets, scores)
    assert np.allclose(confidence, [0.95, 0.9])
    assert class_id.tolist() == [0, 0]


def test_an_evaluation_may_ask_for_both_classes() -> None:
    offsets, scores = boxes_at(FACE, NEAR), scores_of((0.9, 0.7), (0.6, 0.8))
    _, confidence, class_id = detect(offsets, scores, cross_class_iou_max=1.0)
    assert np.allclose(confidence, [0.9, 0.8])
    assert class_id.tolist() == [0, 1]


def test_a_box_that_goes_across_classes_has_removed_its_own_doubles() -> None:
    """A (no mask) beats B (mask) across classes; C (mask) overlaps A too little, but is B's double."""
    a, b, c = (0.1, 0.1, 0.3, 0.5), (0.15, 0.1, 0.35, 0.5), (0.21, 0.1, 0.41, 0.5)
    overlaps = iou_matrix(np.array([a, b, c], np.float32))
    assert overlaps[0, 1] > 0.4
    assert overlaps[1, 2] > 0.4
    assert overlaps[0, 2] < 0.4
    _, _, class_id = detect(boxes_at(a, b, c), scores_of((0, 0.9), (0.8, 0), (0.7, 0)))
    assert class_id.tolist() == [1]


def test_agnostic_gives_each_anchor_its_better_class_before_anything_else() -> None:
    offsets, scores = boxes_at(FACE, NEAR), scores_of((0.9, 0.95), (0.92, 0.6))
    _, confidence, class_id = detect(offsets, scores, nms="agnostic")
    assert np.allclose(confidence, [0.95])
    assert class_id.tolist() == [1]


def test_boxes_are_cut_at_the_border_and_those_outside_are_dropped() -> None:
    xyxy, _, _ = detect(boxes_at((-0.2, -0.1, 0.2, 0.3), (1.1, 0.1, 1.3, 0.4)), scores_of((0.9, 0), (0.8, 0)))
    assert np.allclose(xyxy, [[0, 0, 0.2, 0.3]], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_dropped(value: float) -> None:
    offsets = boxes_at(FACE, AWAY)
    offsets[0, 2] = value
    assert detect(offsets, scores_of((0.9, 0), (0.8, 0)))[1].tolist() == pytest.approx([0.8])
    assert detect(boxes_at(FACE, AWAY), scores_of((value, 0), (0.8, 0)))[1].tolist() == pytest.approx([0.8])


@given(
    arrays(np.float32, (COUNT, 4), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    arrays(np.float32, (COUNT, 2), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.sampled_from(["per_class", "agnostic"]),
)
@settings(max_examples=200, deadline=None)
def test_any_output_gives_boxes_inside_the_picture(
    offsets: NDArray[np.float32], scores: NDArray[np.float32], nms: str
) -> None:
    xyxy, confidence, class_id = detect(offsets, scores, confidence_min=0.0, nms=nms)
    assert ((xyxy >= 0) & (xyxy <= 1)).all()
    assert (xyxy[:, 2:] > xyxy[:, :2]).all()
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert (np.diff(confidence) <= 0).all()
    assert set(class_id.tolist()) <= {0, 1}


def slow(xyxy: NDArray[np.float32], confidence: NDArray[np.float32], iou_max: float) -> list[int]:
    """Suppression as every text book has it."""
    kept: list[int] = []
    overlaps = iou_matrix(xyxy)
    for i in np.argsort(-confidence, kind="stable").tolist():
        if all(overlaps[i, j] <= iou_max for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_suppression_within_a_class_is_the_text_book_s(seed: int) -> None:
    card = read_card(resources.card_path("aizoo-260"))
    rng = np.random.default_rng(seed)
    offsets = rng.normal(0, 2, (5972, 4)).astype(np.float32)
    scores = np.zeros((5972, 2), np.float32)
    chosen = rng.choice(5972, 300, replace=False)
    scores[chosen] = rng.random((300, 2))
    head = SsdHead(card.head, card.input, 2)
    _, confidence, class_id = head.detect(offsets, scores, Suppression(0.3, 0.4, "per_class", 1.0))
    everything = decode(offsets, anchors(card.head, card.input), card.head.variances)
    for c in (0, 1):
        rows = np.flatnonzero(scores[:, c] >= 0.3)
        kept = rows[slow(everything[rows], scores[rows, c], 0.4)]
        inside = np.clip(everything[kept], 0, 1)
        kept = kept[(inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])]
        assert np.array_equal(confidence[class_id == c], scores[kept, c])


@pytest.mark.parametrize(("nms", "most"), [("per_class", 2 * CANDIDATES_MAX), ("agnostic", CANDIDATES_MAX)])
def test_candidates_are_limited_to_the_best(nms: str, most: int) -> None:
    card = read_card(resources.card_path("aizoo-260"))
    rng = np.random.default_rng(0)
    scores = rng.random((5972, 2)).astype(np.float32)
    head = SsdHead(card.head, card.input, 2)
    suppression = Suppression(0.01, 1.0, "agnostic" if nms == "agnostic" else "per_class", 1.0)
    _, confidence, class_id = head.detect(np.zeros((5972, 4), np.float32), scores, suppression)
    assert len(confidence) == most
    if nms == "per_class":
        for c in (0, 1):
            assert np.array_equal(confidence[class_id == c], np.sort(scores[:, c])[::-1][:CANDIDATES_MAX])


@pytest.mark.parametrize("wrong", [{"iou_max": 1.5}, {"confidence_min": float("nan")}, {"nms": "soft"}])
def test_a_wrong_suppression_names_itself(wrong: dict[str, Any]) -> None:
    [(name, _)] = wrong.items()
    with pytest.raises(ValueError, match=name):
        Suppression(**wrong)
