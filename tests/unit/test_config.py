"""The configuration: a good one becomes a site, a bad one a line that names file, path, value and alternatives."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.resources import data_dir

GOOD: dict[str, Any] = {
    "name": "entrance",
    "version": 1,
    "sources": {"gate": {"kind": "file", "path": "a.mp4"}, "side": {"kind": "file", "path": "b.mp4"}},
    "detectors": {"mask": {"model": "aizoo-260", "backend": {"kind": "onnxruntime"}}},
    "rules": {"no_mask": {"kind": "no_mask", "confirm_s": 0.5}},
    "sinks": {"log": {"kind": "jsonl", "path": "e.jsonl"}, "video": {"kind": "recorder", "path": "o.mp4"}},
    "pipelines": {
        "one": {"sources": ["gate"], "detector": "mask", "rules": ["no_mask"], "sinks": ["log", "video"]},
        "two": {"sources": ["side"], "detector": "mask"},
    },
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """GOOD with one value changed."""
    values = copy.deepcopy(GOOD)
    part = values
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return values


def refusal(values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config.check(values, "site.yaml")
    return str(caught.value)


def test_a_good_one_is_wired_by_name() -> None:
    site = config.check(GOOD, "site.yaml")
    assert (site.name, list(site.sources), site.pipeline_of("gate")) == ("entrance", ["gate", "side"], "one")
    assert site.sources["gate"].kind == "file"
    assert site.pipelines["one"].encode.preset == "ultrafast"


@pytest.mark.parametrize("path", sorted(data_dir("config").glob("*.yaml")), ids=lambda path: path.name)
def test_what_ships_is_good(path: Path) -> None:
    assert config.load(path).pipelines


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            changed("pipelines", "one", "rules", to=["nomask"]),
            "site.yaml: pipelines.one.rules[0]: 'nomask' is not a rule here; there are: no_mask",
        ),
        (
            changed("pipelines", "one", "sources", to=["gate", "gat"]),
            "site.yaml: pipelines.one.sources[1]: 'gat' is not a source here; there are: gate, side",
        ),
        (
            changed("pipelines", "one", "sources", to=["gate", "gate"]),
            "site.yaml: pipelines.one.sources[1]: 'gate' is in the same list already; a source belongs to one pipeline",
        ),
        (
            changed("sources", "gate", "kind", to="vhs"),
            "site.yaml: sources.gate.kind: 'vhs' is not a source here; there are: ",
        ),
        (
            changed("sources", "gate", to={"kind": "file"}),
            "site.yaml: sources.gate.path: is missing",
        ),
        (
            changed("detectors", "mask", "confidence_min", to=1.5),
            "site.yaml: detectors.mask.confidence_min: 1.5: input should be less than or equal to 1",
        ),
        (
            changed("pipelines", "one", "zones", to=[]),
            "site.yaml: pipelines.one.zones: [] must be a mapping",
        ),
        (
            changed("pipelines", "one", "detect", to={"tiles": "9x1"}),
            "site.yaml: pipelines.one.detect.tiles: '9x1' is neither auto nor columns x rows up to 8x8, such as 2x1",
        ),
        (
            changed("pipelines", "one", "detect", to={"region": [0, 0.5, 1, 0.2]}),
            "site.yaml: pipelines.one.detect.region: [0.0, 0.5, 1.0, 0.2] is empty; it is [x0, y0, x1, y1]",
        ),
        (
            changed("pipelines", "one", "detect", to={"max_fps": 0}),
            "site.yaml: pipelines.one.detect.max_fps: 0: input should be greater than 0",
        ),
        (
            changed("pipelines", "one", "detect", to={"fps": 5}),
            "site.yaml: pipelines.one.detect.fps: 'fps' is not a field here; there are: max_fps, region, tiles",
        ),
        (
            changed("version", to=2),
            "site.yaml: version: 2 is none of 1",
        ),
        (
            changed("name", to="My Site"),
            "site.yaml: name: 'My Site' must be lower-case letters, digits, _ and -",
        ),
        (
            changed("rules", "no_mask", "confirm_s", to="${NOT_SET_HERE}"),
            "site.yaml: rules.no_mask.confirm_s: ${NOT_SET_HERE} is not set in the environment",
        ),
    ],
)
def test_a_bad_one_is_refused_in_one_line(values: dict[str, Any], line: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    got = str(caught.value).replace(str(path), "site.yaml")
    assert "\n" not in got
    assert got.startswith(line)


def test_an_unknown_field_is_named_with_those_there_are() -> None:
    text = refusal(changed("sources", "gate", "pth", to="x"))
    assert text.startswith("site.yaml: sources.gate.pth: 'pth' is not a field here; there are: path, ")
    text = refusal(changed("detectors", "mask", "modle", to="x"))
    assert text.startswith("site.yaml: detectors.mask.modle: 'modle' is not a field here; there are: model, backend, ")
    assert "'sinkss' is not a field here; there are: name, version" in refusal({**GOOD, "sinkss": {}})


def test_motion_off_is_off_although_yaml_takes_it_for_no(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(changed("pipelines", "one", "detect", to={})).replace("{}", "{motion: off}"))
    assert config.load(path).pipelines["one"].detect.motion == "off"


def test_two_sinks_cannot_keep_files_in_one_directory(tmp_path: Path) -> None:
    values = copy.deepcopy(GOOD)
    recorder = {"kind": "recorder", "directory": str(tmp_path), "segment_s": 60}
    values["sinks"] |= {"video": recorder, "evidence": {"kind": "clips", "directory": f"{tmp_path}/a/.."}}
    values["pipelines"]["one"]["sinks"] = ["video"]
    values["pipelines"]["two"]["sinks"] = ["video"]
    config.check(values, "site.yaml")
    values["pipelines"]["two"]["sinks"] = ["evidence", "video"]
    assert refusal(values).endswith(
        f"sinks.evidence.directory: video keeps its files in {tmp_path}, and each would remove the other's; "
        "name another directory"
    )


def test_every_error_is_told_at_once() -> None:
    values = changed("sources", "gate", "kind", to="vhs")
    values["sinks"]["log"]["kind"] = "telex"
    assert len(refusal(values).splitlines()) >= 2


def test_two_sinks_cannot_have_one_port_or_one_file() -> None:
    values = copy.deepcopy(GOOD)
    values["sinks"]["a"] = {"kind": "zeromq", "bind": "tcp://127.0.0.1:5556"}
    values["sinks"]["b"] = {"kind": "zeromq", "bind": "tcp://127.0.0.1:5556"}
    values["pipelines"]["one"]["sinks"] = ["a", "b"]
    assert "sinks.b and sinks.a both want tcp:" in refusal(values)
    values = copy.deepcopy(GOOD)
    del values["pipelines"]["two"]
    values["pipelines"]["one"]["sources"] = ["gate", "side"]
    text = refusal(values)
    assert "sinks.video (for source side) and sinks.video (for source gate) both want file:" in text


def test_a_file_has_one_name_whatever_way_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for way in ("{}/o.mp4", "{}/a/../o.mp4", "{}/link/o.mp4"):
        values = changed("sinks", "video", "path", to=f"{tmp_path}/o.mp4")
        values["sinks"]["again"] = {"kind": "recorder", "path": way.format(tmp_path)}
        values["pipelines"]["one"]["sinks"] = ["video", "again"]
        assert "sinks.again (for source gate) and sinks.video (for source gate) both want file:" in refusal(values)


@pytest.mark.parametrize("way", ["{}/o.mp4", "{}/a/../o.mp4", "{}/link/o.mp4"])
def test_a_recording_cannot_replace_what_is_read(way: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    values = changed("sources", "side", "path", to=f"{tmp_path}/o.mp4")
    values["sinks"]["video"] = {"kind": "recorder", "path": way.format(tmp_path), "overwrite": True}
    assert refusal(values) == (
        f"site.yaml: sinks.video: would write to file:{tmp_path}/o.mp4, which sources.side reads; name another file"
    )


def test_a_source_that_nobody_looks_at_is_refused() -> None:
    values = copy.deepcopy(GOOD)
    del values["pipelines"]["two"]
    assert refusal(values) == "site.yaml: sources.side: no pipeline uses it"


def test_one_sink_may_serve_two_pipelines() -> None:
    values = copy.deepcopy(GOOD)
    values["pipelines"]["one"]["sinks"] = ["log"]
    values["pipelines"]["two"] = {"sources": ["side"], "detector": "mask", "sinks": ["log"]}
    assert set(config.check(values, "site.yaml").pipelines) == {"one", "two"}


def test_secrets_are_expanded_for_children_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP", "$ecret.mp4")
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(changed("sources", "gate", "path", to="${CONFIG_DIR}/$$1/${CLIP}")))
    site = config.load(path)
    assert site.values["sources"]["gate"]["path"] == f"{tmp_path}/$1/$ecret.mp4"
    again = config.check(site.values, site.origin)
    assert again.values["sources"]["gate"]["path"].endswith("/$1/$ecret.mp4"), "a child does not expand again"


@pytest.mark.parametrize(
    ("path", "written"),
    [
        (("sources", "gate", "realtime"), "'${CAM_PW}'"),
        (("sources", "gate", "path"), "['${CAM_PW}']"),
        (("sources", "gate", "picture_fps"), "'25 or ${CAM_PW}'"),
        (("sources", "gate", "kind"), "'${CAM_PW}'"),
        (("detectors", "mask", "nms"), "'${CAM_PW}'"),
        (("detectors", "mask", "backend", "kind"), "'${CAM_PW}'"),
        (("rules", "no_mask"), "'rtsp://admin:${CAM_PW}@camera.that.has.a.rather.long.name/stream'"),
        (("sinks", "video", "path"), "'./${CAM_PW}.avi'"),
        (("sinks", "video", "path"), "'./a/../${CAM_PW}.avi'"),
        (("pipelines", "one", "rules"), "['${CAM_PW}']"),
        (("name",), "'Site ${CAM_PW}'"),
    ],
)
def test_a_secret_is_never_shown(
    path: tuple[str, ...], written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAM_PW", "hunt'er2")
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(changed(*path, to=yaml.safe_load(written))))
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert "hunt" not in str(caught.value)
    shown = "rtsp://***@" if "rtsp" in written else "${CAM_PW}"
    assert shown in str(caught.value)


def test_the_credentials_of_an_address_are_never_shown() -> None:
    text = refusal(changed("sources", "gate", "realtime", to="rtsp://admin:hunter2@camera/1"))
    assert "'rtsp://***@camera/1'" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1, 2", "site.yaml:1:9: is not YAML: "),
        ("- a\n- b\n", "must be a mapping with sources, detectors and pipelines"),
        ("", "must be a mapping"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert part in str(caught.value)


def test_a_missing_file_names_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"gat.yaml: there is no such file; in .* there are: gate.yaml"):
        config.load(tmp_path / "gat.yaml")


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    site = config.load(path, {"model": "aizoo-360", "backend": {"kind": "opencv_dnn"}})
    assert site.detectors["mask"].model == "aizoo-360"
    assert site.backends["mask"].kind == "opencv_dnn"
