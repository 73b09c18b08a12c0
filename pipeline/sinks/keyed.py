"""What sinks that others connect to by ZeroMQ have in common: beyond this machine, keys decide who may."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import zmq
from pydantic import field_validator, model_validator

from pipeline.sinks import curve
from pipeline.sinks.sink import SinkConfig


class KeyedConfig(SinkConfig):
    """secret_key_file: ours. client_keys: the public keys, or their files, of those who may connect."""

    secret_key_file: Path | None = None
    client_keys: tuple[str, ...] = ()

    @field_validator("secret_key_file")
    @classmethod
    def _is_a_secret(cls, path: Path | None) -> Path | None:
        if path is not None:
            curve.read_pair(path)
        return path

    @field_validator("client_keys")
    @classmethod
    def _are_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            curve.public_key(key)
        return keys

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.secret_key_file) != bool(self.client_keys):
            raise ValueError("secret_key_file and client_keys go together: who we are, and who may connect")
        return self

    def demand_keys(self, bind: str, *, loopback: bool, like: str) -> None:
        """Raises ``ValueError`` where other machines can reach ``bind`` and there are no keys."""
        if not self.secret_key_file and not loopback:
            raise ValueError(
                f"{bind!r} can be reached from other machines, which needs keys: make them by run_pipeline.py keys "
                f"new, name them in secret_key_file and client_keys; or use an address like {like}"
            )

    def doorkeeper(self, context: zmq.Context[zmq.Socket[bytes]]) -> curve.Doorkeeper | None:
        """Who lets only the listed keys in, from now on; None where there are none."""
        if self.secret_key_file is None:
            return None
        return curve.Doorkeeper(context, [curve.public_key(key) for key in self.client_keys])

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Before ``socket`` is bound."""
        if self.secret_key_file is not None:
            curve.guard(socket, curve.read_pair(self.secret_key_file))
