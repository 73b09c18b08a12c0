from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import zmq

from pipeline.transport import wire
from pipeline.transport.channel import HealthReceiver, HealthSender, ipc
from pipeline.types import Health
from tests.runs import wait_until

WELL = Health("capture/gate", 1, "running", 1, {})


def test_what_is_no_health_is_told_ever_more_rarely_and_hides_nothing(
    run_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Health] = []
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        receiver, sender = HealthReceiver(context, run_base / "health"), HealthSender(context, run_base / "health")
        stranger.connect(ipc(run_base / "health"))
        with closing(receiver), closing(sender):
            other_version = wire.encode((wire.WIRE_VERSION + 1, WELL))
            for raw in (b"noise", *[other_version] * 8, wire.encode_health(WELL)):
                stranger.send(raw)
            sender.send(WELL)

            def both_have_come() -> bool:
                taken.extend(receiver.take())
                return len(taken) == 2

            wait_until(both_have_come, "what two senders have sent")
    assert taken == [WELL, WELL]
    assert [message.partition(" ")[0] for message in caplog.messages] == ["1", "2", "4", "8"]
    assert caplog.messages[-1] == (
        "8 health messages are none that this version knows: "
        f"wire version {wire.WIRE_VERSION + 1}, this program speaks {wire.WIRE_VERSION}"
    )
