"""Trains the example policy with Stable-Baselines3's PPO and exports it frozen.

Usage: python scripts/train_example.py --observations FILE.obs [--out DIRECTORY] [--steps N] [--seed N]

The observations come from `scripts/convert_capture.py`. The policy is trained on the first four fifths of
them. The statistics that normalise observations come from the same part. The last fifth shows what the policy
earns, compared with no action and with constant quotes.

DIRECTORY becomes a bundle (docs/BUNDLE.md). Its policy takes the raw observation [1, n] and returns the
action [1, 3]. The bundle is written only if the frozen module agrees with `model.predict`.

This is an example. It models no fees and no queues, and it has seen one day of data.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from escapement_export.export import Options, export_module
from example_agent.environment import Action, Observation, QuotingEnvironment
from example_agent.policy_export import ExportError, NormalizedObservation, export
from market_features.definitions import DEFINITIONS, NAMES
from market_features.obs_file import ObsFileError, Recording, read_obs

EXIT_BAD_INPUT = 65
CHECKED_OBSERVATIONS = 10_000
ACTION_NAMES = ("target_position", "bid_skew", "ask_skew")


def split(recording: Recording, share: float = 0.8) -> tuple[Recording, Recording]:
    """Splits a recording into its earlier part, of the given share, and its later part."""
    cut = int(share * len(recording.sequence))
    first, second = (
        Recording(
            recording.names,
            recording.sequence[part],
            recording.ts_event_ns[part],
            recording.observations[part],
        )
        for part in (slice(None, cut), slice(cut, None))
    )
    return first, second


def train(recording: Recording, steps: int, seed: int, episode_steps: int = 1024) -> PPO:
    """Trains a PPO model that holds the normalisation statistics of this recording."""
    torch.set_num_threads(1)
    statistics = recording.observations.astype(numpy.float64)
    model = PPO(
        "MlpPolicy",
        QuotingEnvironment(recording, episode_steps),
        policy_kwargs={
            "activation_fn": torch.nn.Tanh,
            "net_arch": [64, 64],
            "features_extractor_class": NormalizedObservation,
            "features_extractor_kwargs": {
                "mean": statistics.mean(axis=0).tolist(),
                "deviation": statistics.std(axis=0).tolist(),
            },
        },
        n_steps=2048,
        batch_size=256,
        gamma=0.99,
        seed=seed,
        device="cpu",
    )
    return model.learn(total_timesteps=steps)


def reward_of(
    recording: Recording, model: PPO | None, constant: tuple[float, float, float] = (0.0, -1.0, -1.0)
) -> float:
    """Returns the reward of the model, or of a constant action, over a whole recording.

    The unit is basis points of the largest position.
    """
    environment = QuotingEnvironment(recording, len(recording.sequence) - 1, random_start=False)
    observation, _ = environment.reset()
    total, done = 0.0, False
    while not done:
        observation, reward, _, done, _ = environment.step(_choose(model, observation, constant))
        total += reward
    return total


def _choose(model: PPO | None, observation: Observation, constant: tuple[float, float, float]) -> Action:
    if model is None:
        return numpy.array(constant, dtype=numpy.float32)
    action, _ = model.predict(observation, deterministic=True)
    return action


def check_set(recording: Recording, count: int, seed: int) -> Observation:
    """Returns observations to compare on: half are recorded, half are far outside the recorded range."""
    draw = numpy.random.default_rng(seed)
    recorded = recording.observations[draw.integers(len(recording.observations), size=count // 2)]
    wild = draw.normal(scale=20.0, size=(count - count // 2, recorded.shape[1]))
    return numpy.concatenate([recorded, wild.astype(numpy.float32)])


def write_bundle(model: PPO, training: Recording, checked: Observation, out: Path) -> float:
    """Writes the frozen policy as a bundle.

    Returns its largest difference from `model.predict` on `checked` [k, n].
    """
    with tempfile.TemporaryDirectory() as scratch:
        policy = Path(scratch) / "policy.pt"
        difference = export(model, policy, checked)
        low, high = (
            numpy.array([getattr(d, end) for d in DEFINITIONS], numpy.float32) for end in ("low", "high")
        )
        export_module(
            torch.jit.load(policy, map_location="cpu").eval(),
            out,
            observation_space=spaces.Box(low, high),
            action_space=spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), numpy.float32),
            algorithm="ppo",
            options=Options(
                name="example",
                observation_names=NAMES,
                action_names=ACTION_NAMES,
                recorded=training.observations,
                safe_default=(0.0,) * len(ACTION_NAMES),
                overwrite=True,
            ),
        )
    return difference


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Train the example policy and export it.")
    parser.add_argument(
        "--observations", type=Path, required=True, help="observation file, see docs/FORMATS-obs.md"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("config/example.bundle"), help="directory to write to"
    )
    parser.add_argument("--steps", type=int, default=61_440, help="environment steps to train for")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random")
    arguments = parser.parse_args()
    try:
        recording = read_obs(arguments.observations)
        training, held_out = split(recording)
        model = train(training, arguments.steps, arguments.seed)
        checked = check_set(recording, CHECKED_OBSERVATIONS, arguments.seed)
        difference = write_bundle(model, training, checked, arguments.out)
    except (ObsFileError, ExportError, ValueError) as error:
        print(f"train_example: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(
        f"trained on {len(training.sequence)} observations for {arguments.steps} steps, seed {arguments.seed}"
    )
    print(f"held out {len(held_out.sequence)} observations, reward in bp of the largest position:")
    print(f"  policy                   {reward_of(held_out, model):10.2f}")
    print(f"  constant quotes          {reward_of(held_out, None, (0.0, 0.0, 0.0)):10.2f}")
    print(f"  no action                {reward_of(held_out, None):10.2f}")
    print(f"{arguments.out}: at most {difference:.1e} from model.predict over {len(checked)} observations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
