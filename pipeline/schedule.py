"""When somebody wants to be told: days and hours on the clock of one place."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
_DAY_MINUTES = 24 * 60
_TIME = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)")


def _minutes(value: Any) -> Any:
    """Minutes since midnight of ``07:30``; YAML takes 22:00 without quotes for a number in base 60, which it is."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _DAY_MINUTES:
        return value
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) * 60 + int(match[2]) > _DAY_MINUTES:
        raise ValueError(f"{value!r} is not a time of day; write '07:30', at most '24:00'")
    return int(match[1]) * 60 + int(match[2])


def _days(value: Any) -> Any:
    """The days that ``mon-fri`` or a list of such names."""
    named: set[str] = set()
    for part in value if isinstance(value, list) else [value]:
        first, dash, last = part.partition("-") if isinstance(part, str) else ("", "", "")
        last = last if dash else first
        if first not in DAYS or last not in DAYS:
            raise ValueError(f"{part!r} is not a day; there are: {', '.join(DAYS)}, and spans such as mon-fri")
        start, count = DAYS.index(first), (DAYS.index(last) - DAYS.index(first)) % 7 + 1
        named.update(DAYS[(start + i) % 7] for i in range(count))
    return frozenset(named)


Minutes = Annotated[int, BeforeValidator(_minutes)]


class Span(BaseModel):
    """From one time of day to another, on each of some days; past midnight it belongs to the day on which it began."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: Annotated[frozenset[Day], BeforeValidator(_days)] = frozenset(DAYS)
    begin: Annotated[Minutes, Field(alias="from")] = 0
    end: Annotated[Minutes, Field(alias="to")] = _DAY_MINUTES

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.begin == self.end:
            raise ValueError("from and to are the same time; leave both out for the whole day")
        return self

    def holds(self, local: datetime) -> bool:
        minute = local.hour * 60 + local.minute
        today = DAYS[local.weekday()] in self.days
        if self.begin < self.end:
            return today and self.begin <= minute < self.end
        yesterday = DAYS[(local - timedelta(days=1)).weekday()] in self.days
        return (today and minute >= self.begin) or (yesterday and minute < self.end)


class Schedule(BaseModel):
    """``open``: when, on the clocks of ``time_zone`` (IANA, such as Europe/Berlin).

    An hour that comes twice when clocks go back counts twice, one that is left out does not count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    time_zone: str
    open: Annotated[list[Span], Field(min_length=1, max_length=32)]
    _zone: ZoneInfo = PrivateAttr()

    @model_validator(mode="after")
    def _is_a_place(self) -> Self:
        try:
            self._zone = ZoneInfo(self.time_zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{self.time_zone!r} is not an IANA time zone; write one such as Europe/Berlin") from error
        return self

    def is_open(self, wall_ns: int) -> bool:
        """Whether it is open at that moment (nanoseconds since 1970)."""
        local = datetime.fromtimestamp(wall_ns // 1_000_000_000, self._zone)
        return any(span.holds(local) for span in self.open)
