"""Writes models with Stable-Baselines3 1.6 and gym 0.21: the files below tests/data/sb3-1.6.

Usage: python make_old_models.py DIRECTORY

They are committed, since these versions no longer install beside anything current, and show that zips of 1.x load.
`scripts/requirements/old_models.txt` says what it takes. Beside each NAME.zip stands NAME.npz: raw observations in the
order of episodes, one array for each key of a Dict space, whether an episode began at each, and the deterministic
actions that this version's own `predict` gave; and NAME.pkl, where the model was trained behind VecNormalize.
"""

# gym has been superseded, and is not where the linters run.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gym
import numpy
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

ROWS = 100
OFF_POLICY: dict[str, Any] = {
    "learning_starts": 50,
    "buffer_size": 500,
    "batch_size": 16,
    "policy_kwargs": {"net_arch": [8, 8]},
}
ON_POLICY: dict[str, Any] = {"n_steps": 64, "batch_size": 32}


def write(directory: Path, name: str, model: Any, env: VecEnv, steps: int) -> None:
    """Trains, saves, and asks the model about episodes of its environment, which random actions take far around."""
    model.learn(steps)
    model.save(str(directory / f"{name}.zip"))
    normalize = env if isinstance(env, VecNormalize) else None
    if normalize is not None:
        normalize.save(str(directory / f"{name}.pkl"))
        normalize.training = False
    rows: list[Any] = []
    actions, starts = [], []
    seen, state, start = env.reset(), None, numpy.ones(1, dtype=bool)
    for _ in range(ROWS):
        raw: Any = seen if normalize is None else normalize.get_original_obs()
        rows.append({key: part[0] for key, part in raw.items()} if isinstance(raw, dict) else {"": raw[0]})
        action, state = model.predict(seen, state=state, episode_start=start, deterministic=True)
        actions.append(numpy.reshape(action, -1))
        starts.append(bool(start[0]))
        seen, _, start, _ = env.step(numpy.array([env.action_space.sample()]))
    columns: dict[str, Any] = {f"observation{key}": numpy.array([row[key] for row in rows]) for key in rows[0]}
    columns |= {"action": numpy.array(actions), "starts": numpy.array(starts)}
    numpy.savez(directory / f"{name}.npz", **columns)


def make(directory: Path) -> None:
    """Writes every model into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    pendulum = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    # One layer for both, and then one for each: what 2.x has no notion of any more.
    shared = {"net_arch": [8, {"pi": [6], "vf": [7]}]}
    write(directory, "ppo", PPO("MlpPolicy", pendulum, policy_kwargs=shared, seed=1, **ON_POLICY), pendulum, 128)
    cart = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    write(directory, "dqn", DQN("MlpPolicy", cart, seed=1, train_freq=1, learning_rate=5e-3, **OFF_POLICY), cart, 1000)
    goals = DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)])
    replay = {"n_sampled_goal": 2, "online_sampling": True, "max_episode_length": 4}
    buffer: dict[str, Any] = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": replay}
    write(directory, "sac", SAC("MultiInputPolicy", goals, seed=1, **buffer, **OFF_POLICY), goals, 200)
    recurrent = {"lstm_hidden_size": 6, "net_arch": [8]}
    lstm = RecurrentPPO("MlpLstmPolicy", cart, policy_kwargs=recurrent, seed=1, **ON_POLICY)
    write(directory, "recurrent_ppo", lstm, cart, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write models with Stable-Baselines3 1.6.")
    parser.add_argument("directory", type=Path, help="where to; made if need be")
    make(parser.parse_args().directory)


if __name__ == "__main__":
    main()
