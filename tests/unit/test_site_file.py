"""What YAML takes and a site must not hold, and what is no YAML at all: one line with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import config, site_file
from pipeline.errors import ConfigError

GOOD = """name: a
sources:
  gate: {kind: file, path: a.mp4}
detectors: {m: {}}
pipelines: {p: {sources: [gate], detector: m}}
"""


def refusal(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "site.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "site.yaml")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            GOOD.replace("detectors", "  gate: {kind: file, path: b.mp4}\ndetectors"),
            "site.yaml:4:3: 'gate' is there twice, in line 3 as well",
        ),
        (GOOD + "sources: {}\n", "site.yaml:6:1: 'sources' is there twice, in line 2 as well"),
        (GOOD.replace("gate:", "1:"), "site.yaml:3:3: 1 is no name for YAML; put it in quotes: '1'"),
        (GOOD.replace("gate:", "on:"), "site.yaml:3:3: on is no name for YAML; put it in quotes: 'on'"),
        (GOOD.replace("name: a", "name: 1"), "site.yaml: name: 1 must be text; a number or yes and no is text in"),
        ("name: &a [*a]\n", "site.yaml:1:7: refers to itself"),
        ("name: a\nsources: &s {gate: *s}\n", "site.yaml:2:10: refers to itself"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
            "site.yaml: its aliases (*) multiply into more than 100000 parts",
        ),
        (f"name: {'[' * 3000}{']' * 3000}\n", "site.yaml: is nested too deeply for a site"),
        (f"name: {'9' * 6000}\n", "site.yaml:1:7: is a number of more than 100 digits"),
        (f"name: 0x{'f' * 6000}\n", "site.yaml:1:7: is a number of more than 100 digits"),
        ("name: 2001-99-99\n", "site.yaml:1:7: '2001-99-99': month must be in 1..12; is it text? Put it in quotes"),
        ("a: !!bool maybe\n", "site.yaml:1:4: 'maybe' is not a value of the type bool; is it text? Put it in quotes"),
        ("a: !!timestamp foo\n", "site.yaml:1:4: 'foo' is not a value of the type timestamp; is it text? Put it in"),
        ("a: !!int\n", "site.yaml:1:4: '' is not a value of the type int; is it text? Put it in quotes"),
        ("a: !!float ''\n", "site.yaml:1:4: '' is not a value of the type float; is it text? Put it in quotes"),
        (f"a: !!float {':'.join('9' * 400)}\n", "site.yaml:1:4: '9:9:9:9:"),
        ("name: a\nb: \0\n", "site.yaml:2: is not YAML: holds the control character '\\x00'"),
        (GOOD.replace("a.mp4", r'"a\0"'), r"site.yaml:3:28: 'a\x00' holds a character that no text has"),
        (GOOD.replace("a.mp4", r'"\ud800"'), r"site.yaml:3:28: '\ud800' holds a character that no text has"),
        (GOOD.replace("  gate", "\tgate"), "site.yaml:3:1: is not YAML: found character '\\t'"),
        (GOOD + "---\n" + GOOD, "site.yaml:6:1: is not YAML: but found another document"),
        ("name: *b\n", "site.yaml:1:7: is not YAML: found undefined alias 'b'"),
        (GOOD + "rules: !!python/name:os.system x\n", "site.yaml:6:8: is not YAML: could not determine a constructor"),
        ("name: a\n# Küche\n".encode("latin-1"), "site.yaml:2: is not UTF-8 (byte 0xfc); save it as UTF-8"),
        (GOOD.encode("utf-16"), "site.yaml:1: is not UTF-8 (byte 0xff); save it as UTF-8"),
        ("# nothing\n", "site.yaml: must be a mapping with sources, detectors and pipelines; the file is empty"),
        ("#" * (1 << 20) + "\n", "site.yaml: is larger than 1048576 bytes, which no site is"),
    ],
)
def test_a_file_that_no_site_can_be_is_refused_in_one_line(content: str | bytes, line: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, content).startswith(line)


def test_aliases_and_merges_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    text = GOOD.replace("{m: {}}", "{m: &m {iou_max: 0.3, nms: agnostic}, n: {<<: *m, iou_max: 0.5}, o: *m}")
    path.write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig")
    detectors = config.load(path).detectors
    assert (detectors["n"].nms, detectors["n"].iou_max, detectors["o"].iou_max) == ("agnostic", 0.5, 0.3)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        site_file.read(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "detector: m",
            "detector: m, detect: {max_fps: yes}",
            "pipelines.p.detect.max_fps: True is no number; for YAML, on and yes are true, off and no are false",
        ),
        ("detectors", "operation: {metrics_port: off}\ndetectors", "operation.metrics_port: False is no number;"),
        ("detectors", "events: {retention_days: no}\ndetectors", "events.retention_days: False is no number;"),
        ("a.mp4", "a.mp4, picture_fps: on", "sources.gate.picture_fps: True is no number;"),
        ("name: a", "name: a\nversion: true", "version: True is no number;"),
    ],
)
def test_a_truth_value_is_no_number(old: str, new: str, line: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, GOOD.replace(old, new, 1)).startswith(f"site.yaml: {line}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sources: [gate], detector: m, zones: 5", "zones: 5 must be a mapping, like {name: value}"),
        ("sources: gate, detector: m", "sources: 'gate' must be a list, like [one, two]"),
        ("sources: [gate], detector: m, detect: []", "detect: [] must be a mapping, like {name: value}"),
        ("sources: [gate], detector: m, detect: {region: 1}", "detect.region: 1 must be a list, like [one, two]"),
        (
            "sources: [gate], detector: m, schedule: {zone: a, time_zone: UTC, open: [{}]}",
            "schedule.zone: 'zone' is not a field here; there are: time_zone, open",
        ),
        (
            "sources: [gate], detector: m, schedule: {time_zone: UTC, open: [{until: '9:00'}]}",
            "schedule.open[0].until: 'until' is not a field here; there are: days, from, to",
        ),
    ],
)
def test_no_word_of_python_is_said(text: str, line: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, GOOD.replace("sources: [gate], detector: m", text)) == f"site.yaml: pipelines.p.{line}"
