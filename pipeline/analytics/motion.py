"""How a face moves between two looks: a Kalman filter over irregular time steps.

Each axis follows an integrated Ornstein-Uhlenbeck process (Uhlenbeck & Ornstein 1930; in tracking: the Singer model
of first order): a velocity that is forgotten with ``VELOCITY_MEMORY_S`` and driven so that its spread stays
``VELOCITY_SD``. Transition and noise are exact for any time step, so two short steps equal one long one, and looking
25 or 5 times a second needs no other parameters. Both axes share one covariance, kept in units of the face's size
(the root of its area): near and far faces move alike in it.

Plain floats: for a few faces this is an order of magnitude cheaper than small numpy arrays, and exact to store.
"""

from __future__ import annotations

from math import exp, sqrt

import msgspec

VELOCITY_MEMORY_S = 0.5
VELOCITY_SD = 3.0
"""Face sizes a second. A walker crossing the picture does about 8, somebody at a desk 0.5."""
POSITION_SD = 0.12
"""Face sizes; how far the detector's box centres jitter, and a head nods."""
SIZE_MEMORY_S = 0.15

_NOISE = POSITION_SD**2


class Motion(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Centre and velocity (pixels, pixels a second), box size (pixels) and covariance (in face sizes) at one time."""

    cx: float
    cy: float
    vx: float
    vy: float
    width: float
    height: float
    p_xx: float
    p_xv: float
    p_vv: float

    @classmethod
    def at(cls, xyxy: tuple[float, float, float, float]) -> Motion:
        """A face first found at ``xyxy`` (pixels): it stands still, with the spread of ``VELOCITY_SD``."""
        x1, y1, x2, y2 = xyxy
        return cls((x1 + x2) / 2, (y1 + y2) / 2, 0.0, 0.0, x2 - x1, y2 - y1, _NOISE, 0.0, VELOCITY_SD**2)

    @property
    def size(self) -> float:
        """Root of the box's area, pixels."""
        return sqrt(self.width * self.height)

    @property
    def spread(self) -> float:
        """Variance, in squared face sizes, of where the detector's box centre is expected, an axis."""
        return self.p_xx + _NOISE

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The box, pixels."""
        half_w, half_h = self.width / 2, self.height / 2
        return self.cx - half_w, self.cy - half_h, self.cx + half_w, self.cy + half_h

    def after(self, dt_s: float) -> Motion:
        """Where it is expected ``dt_s`` seconds later if nobody looks."""
        tau = VELOCITY_MEMORY_S
        kept = exp(-dt_s / tau)
        reach = tau * (1 - kept)
        variance = VELOCITY_SD**2
        q_xx = variance * tau * tau * (2 * dt_s / tau - 3 + 4 * kept - kept * kept)
        q_xv = variance * tau * (1 - kept) ** 2
        q_vv = variance * (1 - kept * kept)
        return Motion(
            self.cx + reach * self.vx,
            self.cy + reach * self.vy,
            kept * self.vx,
            kept * self.vy,
            self.width,
            self.height,
            self.p_xx + 2 * reach * self.p_xv + reach * reach * self.p_vv + q_xx,
            kept * (self.p_xv + reach * self.p_vv) + q_xv,
            kept * kept * self.p_vv + q_vv,
        )

    def corrected(self, xyxy: tuple[float, float, float, float], dt_s: float) -> Motion:
        """This prediction, ``dt_s`` seconds after the last look, with the box that was found (Kalman 1960)."""
        x1, y1, x2, y2 = xyxy
        gain_x, gain_v = self.p_xx / self.spread, self.p_xv / self.spread
        off_x, off_y = (x1 + x2) / 2 - self.cx, (y1 + y2) / 2 - self.cy
        fresh = 1 - exp(-dt_s / SIZE_MEMORY_S)
        return Motion(
            self.cx + gain_x * off_x,
            self.cy + gain_x * off_y,
            self.vx + gain_v * off_x,
            self.vy + gain_v * off_y,
            self.width + fresh * (x2 - x1 - self.width),
            self.height + fresh * (y2 - y1 - self.height),
            self.p_xx * (1 - gain_x),
            self.p_xv * (1 - gain_x),
            self.p_vv - gain_v * self.p_xv,
        )

    def scaled(self, fx: float, fy: float) -> Motion:
        """The same in a picture that is ``fx`` times as wide and ``fy`` times as high."""
        return Motion(
            self.cx * fx, self.cy * fy, self.vx * fx, self.vy * fy, self.width * fx, self.height * fy,
            self.p_xx, self.p_xv, self.p_vv,
        )  # fmt: skip
