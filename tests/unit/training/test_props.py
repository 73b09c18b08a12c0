"""Props painted on bare faces: only a mask makes a masked face of one."""

from __future__ import annotations

import numpy as np

from models.training import props
from models.training.props import Pixels

PROPS = (props.mask, props.lowered, props.hand, props.telephone, props.microphone)


def canvas(seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(90, 160, (180, 160, 3), dtype=np.uint8)


def test_every_prop_paints_the_lower_half_of_a_face_and_leaves_its_eyes() -> None:
    box = np.array([40, 20, 100, 90], np.float32)
    for prop in PROPS:
        before = canvas()
        after = before.copy()
        prop(after, box, np.random.default_rng(4))
        changed = (before != after).any(2)
        assert changed[50:, 30:110].mean() > 0.02, prop
        assert not changed[20:38, 50:90].any(), prop


def test_only_a_painted_mask_changes_the_class() -> None:
    boxes = np.array([[10, 10, 60, 70], [70, 20, 120, 90], [130, 5, 140, 15], [90, 60, 150, 110]], np.float32)
    labels = np.array([1, 0, 1, -1])
    seen = set()
    for seed in range(60):
        picture = canvas(seed)
        dressed = props.dress(picture, boxes, labels, np.random.default_rng(seed))
        assert dressed[1:].tolist() == [0, 1, -1]  # masked, too small to tell, ignored
        assert (picture[5:15, 130:140] == canvas(seed)[5:15, 130:140]).all()
        seen.add((int(dressed[0]), bool((picture != canvas(seed)).any())))
    assert seen == {(0, True), (1, True), (1, False)}


def test_faces_at_the_edge_are_painted_as_far_as_they_are_seen() -> None:
    for box in ([-20, -20, 20, 30], [140, 150, 190, 210], [-30, 160, 60, 220]):
        for prop in PROPS:
            for seed in range(5):
                prop(canvas(), np.array(box, np.float32), np.random.default_rng(seed))
