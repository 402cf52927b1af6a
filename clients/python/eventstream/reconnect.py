"""When to try again, and when no more. Times are the caller's: seconds of a clock that does not go back."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Optional

_FACTOR = 2


@dataclass(frozen=True)
class Policy:
    """How often a connection is tried."""

    first_delay: float = 0.05
    longest_delay: float = 5.0
    give_up_after: Optional[float] = 30.0
    """Seconds without a connection; None: never."""


@dataclass
class Attempts:
    """The tries since there was a connection.

    The delay doubles up to a limit, and half of it is drawn: clients of one engine do not come back in step.
    """

    policy: Policy
    draw: random.Random = field(default_factory=random.Random)
    _delay: float = 0.0
    _since: Optional[float] = None

    def begin(self, now: float) -> None:
        """A connection is wanted. Counts from the first time on."""
        if self._since is None:
            self._since = now

    def succeeded(self) -> None:
        """The engine has answered."""
        self._delay = 0.0
        self._since = None

    def next_delay(self, now: float) -> Optional[float]:
        """After a failure: how long to wait before the next try; None: it has been tried for long enough."""
        self.begin(now)
        assert self._since is not None
        self._delay = min(self.policy.longest_delay, self._delay * _FACTOR or self.policy.first_delay)
        delay = self._delay * (0.5 + self.draw.random() / 2)
        limit = self.policy.give_up_after
        if limit is None:
            return delay
        left = self._since + limit - now
        return None if left <= 0 else min(delay, left)
