"""Measures what it gains to train the runs of a sweep together: on a device each, or several on one device by `vmap`.

    python benchmarks/sweep.py [--config=digits] [--runs=4] [--rounds=20] [--save]

The ways take turns, each with training steps of the same number of runs, so that other work on the machine disturbs all of
them alike. The gain of a round is the time of one after the other, which uses all devices for each run, over that of the way;
the median over the rounds is reported. Compilation is not measured.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence

from results import add_save_option, measured, save, spread

from qresnet_jax.system.machine import processors
from qresnet_jax.system.process import restart_with_large_pages

NAME = "sweep"
ALONE, EACH, VMAP, VMAP_ONE = "alone", "each", "vmap", "vmap_one"
STEPS = 3  # of every run in a round


class Runs:
    """Runs of the config that train in one way.

    Args:
      config: the config; run i has the seed i.
      devices: for each run the devices that it trains on.
      width: how many runs of the same device one program trains; 0 for the program of a run alone.
    """

    def __init__(self, config, devices: Sequence[Sequence], width: int):
        import numpy as np

        from qresnet_jax.train.loop import Training
        from qresnet_jax.train.parallel import device_mesh, map_train_step, replicate
        from qresnet_jax.train.step import init_state
        from qresnet_jax.train.together import Inputs, make_many_steps, numbers_of

        self.states, self.calls = [], []
        trainings = []
        for seed, its_devices in enumerate(devices):
            own = config.copy_and_resolve_references()
            own.seed = seed
            training = Training(own, pathlib.Path(tempfile.gettempdir()), device_mesh(its_devices))
            trainings.append(training)
            self.states.append(
                replicate(init_state(training.params, training.model_state, training.tx), training.mesh)
            )
        feeds = [training.feed() for training in trainings]
        if not width:
            for i, training in enumerate(trainings):
                self.calls.append(([i], training.programs()(1), feeds[i](0)))
            return
        numbers = {name: np.float32(value) for name, value in numbers_of(config).items()}
        of_device: dict = {}
        for i, its_devices in enumerate(devices):
            of_device.setdefault(its_devices[0], []).append(i)
        for members in of_device.values():
            program = map_train_step(
                make_many_steps(trainings[members[0]], 1), trainings[members[0]].mesh, "shard_map", 1
            )
            for start in range(0, len(members), width):
                part = members[start : start + width]
                inputs = Inputs(tuple(feeds[i](0) for i in part), (numbers,) * len(part))
                many = self._one_state_each(program)
                self.calls.append((part, many, inputs))

    @staticmethod
    def _one_state_each(program: Callable) -> Callable:
        return lambda *states_and_inputs: program(states_and_inputs[:-1], states_and_inputs[-1])

    def run(self, wait: bool) -> float:
        """Trains every run for some steps, and returns the seconds.

        Args:
          wait: whether each call is waited for, as where all calls use the same devices.
        """
        import jax

        start = time.perf_counter()
        for _ in range(STEPS):
            for members, program, data in self.calls:
                result = program(*(self.states[i] for i in members), data)
                results = (result,) if len(members) == 1 and hasattr(result, "step") else result
                for i, state in zip(members, results, strict=True):
                    self.states[i] = state
                if wait:
                    jax.block_until_ready(results[0].step)
            jax.block_until_ready([state.step for state in self.states])
        return time.perf_counter() - start


def figures_of(times: dict[str, list[float]], args, network: str, batch: int, devices: int) -> dict:
    """Returns the seconds of a step of one run, and the gains, by way."""
    steps = STEPS * args.runs
    return {
        "network": network,
        "batch": batch,
        "runs": args.runs,
        "devices": devices,
        "seconds": {way: spread(t / steps for t in each) for way, each in times.items()},
        "gain": {
            way: spread(a / b for a, b in zip(times[ALONE], each, strict=True))
            for way, each in times.items()
            if way != ALONE
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="digits", help="the name of a config (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    add_save_option(parser, NAME)
    args = parser.parse_args()
    restart_with_large_pages()  # as the command does

    import jax

    from qresnet_jax import load_config
    from qresnet_jax.train.parallel import cores_as_devices

    config = load_config(args.config)
    cores_as_devices(None)
    devices = jax.devices()
    in_turn = [[devices[i % len(devices)]] for i in range(args.runs)]
    ways = {
        ALONE: Runs(config, [devices] * args.runs, 0),
        EACH: Runs(config, in_turn, 1),
        VMAP: Runs(config, in_turn, args.runs),
        VMAP_ONE: Runs(config, [devices[:1]] * args.runs, args.runs),
    }
    for way, runs in ways.items():
        print(f"{way:8s} first steps, with compilation: {runs.run(way == ALONE):.1f} s", flush=True)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, runs in ways.items():
            times[way].append(runs.run(way == ALONE))
    network = f"ResNet-{config.model.depth} of {args.config}"
    figures = figures_of(times, args, network, config.batch_size, len(devices))
    for way, each in figures["seconds"].items():
        gain = figures["gain"].get(way, {"median": 1.0})["median"]
        print(f"{way:8s} {1e3 * each['median']:7.2f} ms a step of a run, gain {gain:.2f}")
    if args.save:
        measurement = measured(figures, cores=processors())
        print("wrote", save(NAME, f"{args.config}, {args.runs} runs", measurement, args.save))


if __name__ == "__main__":
    main()
