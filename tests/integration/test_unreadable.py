"""A model's file that crashes the runtime's own parser is told in one line, and does not start a loop of restarts."""

from __future__ import annotations

import yaml

from tests.integration.test_refused import SITE, check
from tests.numbered import write_numbered
from tests.runs import Program
from tests.unit.inference.tiny_model import card_content, make_onnx, write_model


def test_a_parser_that_crashes_is_named_once(bare_program: Program) -> None:
    content = make_onnx()
    runtime = card_content(content)["runtimes"]["onnxruntime"]
    write_model(bare_program.cwd / "tiny", content, runtimes={"aborting": runtime})
    write_numbered(bare_program.cwd / "video.mp4", 5)
    detector = {"model": "tiny", "backend": {"kind": "tests.contract.aborting"}}
    site = {**SITE, "detectors": {"mask": detector}}
    (bare_program.cwd / "site.yaml").write_text(yaml.safe_dump(site))
    outcome = bare_program.run("run", "site.yaml")
    check(bare_program, outcome, 3, "model file unreadable by tests.contract.aborting")
    assert outcome.stderr.count("starting it again") == 1
