"""A gymnasium environment over recorded observations: the agent holds a position and quotes around it.

The environment needs only the observations. `mid_return_10s_bp` compares the mid with its own decaying mean.
So with the times it gives back the path of the mid, up to a factor. Spread and trades are features
themselves.

Action, Box(-1, 1, (3,)):

| index | name | meaning |
|---|---|---|
| 0 | target_position | position to move towards, as a share of the largest allowed; negative is short |
| 1 | bid_skew | how eagerly to quote the bid: -1 not at all, +1 at the mid |
| 2 | ask_skew | the same for the ask |

A step goes from one event to the next. First the position moves towards the target by at most
`TAKE_PER_STEP`, and pays half the spread. If the next event is a trade, the quote on its side is filled. With
eagerness e = (1 + skew) / 2, it fills e * `MAKE_PER_TRADE` and earns (1 - e) times half the spread. Then the
mid moves, which changes the value of the position. The reward is the change in wealth in basis points of the
largest position, minus `INVENTORY_PENALTY_BP` times the square of the position. There are no fees and no
queue: this trains an example and is not a backtest.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy
from gymnasium import spaces
from numpy.typing import NDArray

from market_features.definitions import DEFINITIONS, NAMES
from market_features.features import TEN_SECONDS, WINDOWS_S
from market_features.obs_file import Recording

ACTION_NAMES = ("target_position", "bid_skew", "ask_skew")
TAKE_PER_STEP = 0.05
MAKE_PER_TRADE = 0.05
INVENTORY_PENALTY_BP = 1e-4

Floats = NDArray[numpy.float64]
Observation = NDArray[numpy.float32]
Action = NDArray[numpy.float32]


def log_mid_bp(recording: Recording) -> Floats:
    """Returns the path of the mid [n]: 1e4 times its logarithm, and 0 at the first observation."""
    returns_bp = recording.observations[:, NAMES.index("mid_return_10s_bp")].astype(numpy.float64)
    gaps_s = numpy.diff(recording.ts_event_ns).astype(numpy.float64) * 1e-9
    decays = numpy.exp(-gaps_s / WINDOWS_S[TEN_SECONDS])
    path = numpy.zeros(len(returns_bp))
    # The mean starts at the value in the first observation. It moves towards the mid that held between two
    # events.
    mean = numpy.exp(-1e-4 * returns_bp[0]) if len(returns_bp) else 1.0
    for index, decay in enumerate(decays, start=1):
        held = numpy.exp(1e-4 * path[index - 1])
        mean = held + (mean - held) * decay
        path[index] = 1e4 * numpy.log(mean) + returns_bp[index]
    return path


class QuotingEnvironment(gymnasium.Env[Observation, Action]):
    """Walks through a recording, `episode_steps` observations per episode, from a random or the first one."""

    def __init__(self, recording: Recording, episode_steps: int = 1024, random_start: bool = True) -> None:
        if recording.names != NAMES:
            raise ValueError("the recording's features are not those of config/features.toml")
        if len(recording.observations) <= episode_steps:
            raise ValueError(
                f"{len(recording.observations)} observations; an episode takes {episode_steps} and one more"
            )
        self.observation_space = spaces.Box(
            numpy.array([definition.low for definition in DEFINITIONS], dtype=numpy.float32),
            numpy.array([definition.high for definition in DEFINITIONS], dtype=numpy.float32),
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), numpy.float32)
        self._observations = recording.observations
        self._episode_steps = episode_steps
        self._random_start = random_start
        self._move_bp = numpy.diff(log_mid_bp(recording))
        self._half_spread_bp = 0.5 * recording.observations[:, NAMES.index("spread_bp")].astype(numpy.float64)
        sign = recording.observations[:, NAMES.index("last_trade_sign")].astype(numpy.float64)
        is_trade = recording.observations[:, NAMES.index("time_since_trade_log")] == 0.0
        self._trade_sign = numpy.where(is_trade, sign, 0.0)
        self._index = self._end = 0
        self._position = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode without a position."""
        super().reset(seed=seed, options=options)
        last_start = len(self._observations) - self._episode_steps - 1
        self._index = int(self.np_random.integers(last_start + 1)) if self._random_start else 0
        self._end = self._index + self._episode_steps
        self._position = 0.0
        return self._observations[self._index].copy(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Applies an action to the current observation and goes to the next."""
        target, bid_skew, ask_skew = (float(value) for value in numpy.clip(action, -1.0, 1.0))
        half_spread_bp = float(self._half_spread_bp[self._index])
        taken = float(numpy.clip(target - self._position, -TAKE_PER_STEP, TAKE_PER_STEP))
        position = self._position + taken
        reward = -abs(taken) * half_spread_bp

        # A selling taker (-1) fills our bid, a buying taker (+1) our ask.
        taker = float(self._trade_sign[self._index + 1])
        if taker != 0.0:
            eagerness = 0.5 * (1.0 + (bid_skew if taker < 0.0 else ask_skew))
            room = 1.0 + taker * position
            filled = min(MAKE_PER_TRADE * eagerness, max(room, 0.0))
            position -= taker * filled
            reward += filled * (1.0 - eagerness) * half_spread_bp

        reward += position * float(self._move_bp[self._index]) - INVENTORY_PENALTY_BP * position * position
        self._position = position
        self._index += 1
        return (
            self._observations[self._index].copy(),
            reward,
            False,
            self._index >= self._end,
            {"position": position},
        )
