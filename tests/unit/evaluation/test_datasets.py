"""The same pictures in every format are the same data set; what is wrong is one line with file, field and value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluation.dataset import IGNORED, read_dataset
from tests.unit.evaluation import labelled
from tests.unit.evaluation.labelled import DOUBTFUL, FACES, HEIGHT, WIDTH, coco_content, voc_object, voc_xml

LABELS = ("mask", "no_mask")


@pytest.mark.parametrize("write", [labelled.write_coco, labelled.write_voc, labelled.write_yolo])
def test_every_format_gives_the_same(write: Callable[[Path], Path], tmp_path: Path) -> None:
    samples = read_dataset(write(tmp_path), LABELS)
    assert [sample.path.stem for sample in samples] == ["1", "2"]
    truth = samples[0].in_pixels(WIDTH, HEIGHT)
    assert truth.xyxy == pytest.approx(np.array([*(box for box, _ in FACES), DOUBTFUL]), abs=1e-4)
    assert truth.class_id.tolist() == [0, 1, IGNORED]
    assert samples[1].in_pixels(WIDTH, HEIGHT).xyxy.shape == (0, 4)


def test_labels_and_pictures_may_lie_side_by_side(tmp_path: Path) -> None:
    labelled.write_picture(tmp_path / "1.JPG")
    (tmp_path / "1.xml").write_text(voc_xml(voc_object((1, 2, 3, 4), "face_mask")))
    [sample] = read_dataset(tmp_path, LABELS)
    assert sample.path == tmp_path / "1.JPG"
    assert sample.truth.class_id.tolist() == [0]


def test_a_coco_file_by_its_own_name(tmp_path: Path) -> None:
    labelled.write_coco(tmp_path)
    other = tmp_path / "val.json"
    (tmp_path / "annotations.json").rename(other)
    assert len(read_dataset(other, LABELS)) == 2


def test_yolo_class_names_may_be_in_a_data_file(tmp_path: Path) -> None:
    labelled.write_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text("names: {0: Mask, 1: NoMask, 2: ignore}\n")
    assert read_dataset(tmp_path, LABELS)[0].truth.class_id.tolist() == [0, 1, IGNORED]


def changed(**parts: Any) -> dict[str, Any]:
    return coco_content() | parts


def annotation(**parts: Any) -> dict[str, Any]:
    return changed(annotations=[{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]} | parts])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotation(image_id=9), r"annotations\.json: annotations\.0\.image_id: 9 is not the id of an image"),
        (annotation(category_id=6), r"annotations\.0\.category_id: 6 is not the id of a category"),
        (annotation(bbox=[1, 2, 0, 4]), r"annotations\.0\.bbox\.2: 0: .*greater than 0"),
        (annotation(bbox=[1, 2, 3]), r"annotations\.0\.bbox\.3: .*required"),
        (annotation(bbox=[1, "x", 3, 4]), r"annotations\.0\.bbox\.1: 'x'"),
        (annotation(ignore=2), r"annotations\.0\.ignore: 2"),
        (changed(images=[]), r"images: \[\]"),
        (changed(categories=[{"id": 5, "name": "hat"}]), r"categories: 'hat' is not a class of the model; there are"),
        (changed(images=coco_content()["images"][:1] * 2), r"images\.1\.id: 1 is the id of another image already"),
        (changed(images=[{"id": 1, "file_name": "no.png", "width": 8, "height": 8}]), r"images\.0: its picture .*no"),
    ],
)  # fmt: skip
def test_wrong_coco(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    labelled.write_coco(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_dataset(tmp_path, LABELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}', "\x00\xff"])
def test_what_is_no_coco(text: str, tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"annotations\.json: "):
        read_dataset(tmp_path, LABELS)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not XML"),
        ("<annotation>", "not XML"),
        ("<html></html>", "its root is 'html'"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type"),
        (voc_xml("<object><name>mask</name></object>"), "object 1: has no bndbox"),
        (voc_xml(voc_object((1, 2, 3, 4), "hat")), "object 1: name: 'hat' is not a class of the model"),
        (voc_xml(voc_object((1, 2, 1, 4), "mask")), "object 1: bndbox: 1 2 1 4 has no area"),
        (voc_xml(voc_object((1, 2, 3, 4), "mask").replace(">3<", ">three<")), "bndbox: xmax: 'three' is not a number"),
        (voc_xml(voc_object((1, 2, 3, 4), "mask").replace(">3<", ">nan<")), "bndbox: xmax: 'nan' is not a number"),
        (voc_xml(voc_object((1, 2, 3, 4), "mask", 3)), "difficult: '3' is neither 0 nor 1"),
    ],
)
def test_wrong_voc(xml: str, message: str, tmp_path: Path) -> None:
    labelled.write_picture(tmp_path / "1.jpg")
    (tmp_path / "1.xml").write_text(xml)
    with pytest.raises(ConfigError, match=r"1\.xml: ") as caught:
        read_dataset(tmp_path, LABELS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "line 1: '0 0.5 0.5 0.1' is not class centre_x centre_y width height"),
        ("9 0.5 0.5 0.1 0.1", "line 1: class: 9 is none of 0, 1, 2"),
        ("0.5 0.5 0.5 0.1 0.1", "line 1: class: 0.5 is none of"),
        ("0 50 0.5 0.1 0.1", "line 1: centre_x: '50' is not a number up to 1"),
        ("0 0.5 0.5 0 0.1", "line 1: width: '0' is not a number above 0 up to 1"),
        ("0 0.5 0.5 0.1 inf", "line 1: height: 'inf' is not a number"),
    ],
)
def test_wrong_yolo(line: str, message: str, tmp_path: Path) -> None:
    labelled.write_yolo(tmp_path)
    (tmp_path / "labels" / "1.txt").write_text(line)
    with pytest.raises(ConfigError, match=r"1\.txt: line") as caught:
        read_dataset(tmp_path, LABELS)
    assert message in str(caught.value)


def test_what_holds_no_labels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_dataset(tmp_path / "nothing", LABELS)
    with pytest.raises(ConfigError, match=r"holds no labels that are known here: COCO .* VOC .* YOLO"):
        read_dataset(tmp_path, LABELS)
    (tmp_path / "labels.csv").touch()
    with pytest.raises(ConfigError, match=r"ends in \.json"):
        read_dataset(tmp_path / "labels.csv", LABELS)


def test_a_picture_of_another_size_than_its_labels_say(tmp_path: Path) -> None:
    content = coco_content()
    content["images"][0]["width"] = 81
    [first, _] = read_dataset(labelled.write_coco(tmp_path, content), LABELS)
    with pytest.raises(ConfigError, match=r"images\.0: its size is 81x60, but .*1\.png has 80x60"):
        first.in_pixels(WIDTH, HEIGHT)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Some tools on Windows write one."""
    labelled.write_coco(tmp_path)
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(coco_content()), "utf-8-sig")
    assert len(read_dataset(tmp_path, LABELS)) == 2
