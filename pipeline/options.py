"""What every part of a configuration has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, field_validator


class Options(BaseModel):
    """Unknown keys are refused, numbers are finite and no truth values, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _truth_is_no_number(cls, value: Any, take: ValidatorFunctionWrapHandler) -> Any:
        taken = take(value)
        if isinstance(value, bool) and isinstance(taken, int | float) and not isinstance(taken, bool):
            raise ValueError(f"{value} is no number; for YAML, on and yes are true, off and no are false")
        return taken
