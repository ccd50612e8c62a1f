"""Measures the training step of ResNet-20 W1A2 on a CPU, against the same step written plainly in PyTorch.

    pip install -e ".[bench]" && python benchmarks/train_step.py [--rounds=15] [--threads=2] [--save]

Both do batch norm in training mode, PACT with a trained clipping level, latent weights with a hysteresis loop and SGD with
momentum, on batches of 128 images of 32x32x3 that lie in memory. They take turns, each in a process of its own with the
same malloc settings. The ratio of a round is our time over PyTorch's; the median over the rounds is reported.
JAX_NUM_CPU_DEVICES=1 in front of the command keeps our side from using each core as a device of its own.
"""

import argparse
import os
import subprocess
import sys
import time

from children import answer
from results import add_save_option, measured, save, spread

NAME = "train_step"
BATCH, SIZE = 128, 32
MALLOC = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "arena_max=1", f"mmap_threshold={2**32}", f"trim_threshold={2**33}")
)


def jax_step(threads):
    """Returns a function that runs one of our steps and waits for it."""
    from training import Training

    from qresnet_jax import default_config
    from qresnet_jax.train import parallel

    parallel.cores_as_devices(BATCH)
    config = default_config()
    config.batch_size = BATCH
    config.optim.hysteresis.threshold = 0.1
    config.data.crop_padding, config.data.flip = 0, False  # PyTorch's side has no augmentation either
    return Training(config, BATCH).run  # an epoch of one step


def torch_step(threads):
    """Returns a function that runs one step of the peer."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    class Pact(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, alpha):
            ctx.save_for_backward(x, alpha)
            return torch.round(x.clamp(min=0).minimum(alpha) * (3 / alpha)) * (alpha / 3)

        @staticmethod
        def backward(ctx, g):
            x, alpha = ctx.saved_tensors
            return g * ((x > 0) & (x < alpha)), (g * (x >= alpha)).sum()

    class Act(nn.Module):
        def __init__(self):
            super().__init__()
            self.alpha = nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            return Pact.apply(x, self.alpha)

    class Block(nn.Module):
        def __init__(self, cin, cout, stride):
            super().__init__()
            self.act1, self.act2 = Act(), Act()
            self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(cout), nn.BatchNorm2d(cout)
            self.project = None
            if stride != 1:
                self.project = nn.Sequential(
                    nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
                )

        def forward(self, x):
            q = self.act1(x)
            y = self.bn2(self.conv2(self.act2(F.relu(self.bn1(self.conv1(q))))))
            return F.relu(y + (x if self.project is None else self.project(q)))

    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    cin = 16
    for cout in (16, 32, 64):
        for i in range(3):
            layers.append(Block(cin, cout, 2 if cout != 16 and i == 0 else 1))
            cin = cout
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    binary = [
        m.weight for b in model if isinstance(b, Block) for m in b.modules() if isinstance(m, nn.Conv2d)
    ]
    latents = [w.detach().clone() for w in binary]
    signs = [torch.where(w >= 0, 1.0, -1.0) for w in latents]
    momenta = [torch.zeros_like(w) for w in latents]
    kept = {id(w) for w in binary}
    sgd = torch.optim.SGD([p for p in model.parameters() if id(p) not in kept], lr=0.1, momentum=0.9)
    x = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))

    def run():
        loss = F.cross_entropy(model(x), labels)
        model.zero_grad()
        loss.backward()
        sgd.step()
        with torch.no_grad():  # the gradient at s * sign moves the latent weight
            for w, latent, sign, momentum in zip(binary, latents, signs, momenta, strict=True):
                momentum.mul_(0.9).add_(w.grad)
                latent.sub_(0.1 * momentum)
                s = latent.abs().mean()
                t = 0.1 * s
                sign.copy_(torch.where(latent >= t, 1.0, torch.where(latent <= -t, -1.0, sign)))
                w.copy_(s * sign)

    return run


def serve(which, threads):
    """Runs three steps to warm up, then three for each line on stdin, and prints the seconds of one step."""
    run = {"jax": jax_step, "torch": torch_step}[which](threads)
    for _ in range(3):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(3):
            run()
        print((time.perf_counter() - start) / 3, flush=True)


def figures_of(times, threads, devices):
    """Returns the figures of a measurement, from the seconds of a step of both sides.

    `devices` is the number of devices that JAX was told to make, or None if JAX chose it.
    """
    return {
        "threads": threads,
        "devices": devices,
        "batch": BATCH,
        "ours": spread(times["jax"]),
        "pytorch": spread(times["torch"]),
        "ratio": spread(a / b for a, b in zip(times["jax"], times["torch"], strict=True)),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    add_save_option(parser, NAME)
    parser.add_argument("--serve", choices=("jax", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.threads)
    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cores)  # XLA uses as many threads as there are processors
    environment = {**os.environ, "GLIBC_TUNABLES": MALLOC, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, f"--threads={args.threads}", "--serve"]
    peers = {
        which: subprocess.Popen(
            [*command, which], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for which in ("jax", "torch")
    }
    for which, peer in peers.items():
        if answer(peer) != "ready\n":
            for other in peers.values():
                other.kill()
            raise SystemExit(f"the step of {which} failed; its message stands above")
    times = {which: [] for which in peers}
    for _ in range(args.rounds):
        for which, peer in peers.items():
            peer.stdin.write("go\n")
            peer.stdin.flush()
            times[which].append(float(answer(peer)))
    for peer in peers.values():
        peer.stdin.close()
        peer.wait(timeout=60)
    devices = os.environ.get("JAX_NUM_CPU_DEVICES")
    figures = figures_of(times, args.threads, devices and int(devices))
    for which in ("ours", "pytorch"):
        print(f"{which:8s} median {figures[which]['median']:.3f} s a step, min {figures[which]['min']:.3f}")
    ratio = figures["ratio"]
    print(
        f"ratio of ours to PyTorch's: median {ratio['median']:.2f} "
        f"({ratio['min']:.2f} to {ratio['max']:.2f}, {args.rounds} rounds, {args.threads} threads)"
    )
    if args.save:
        key = f"{args.threads} thread{'s' * (args.threads > 1)}" + (f", {devices} device" if devices else "")
        print("wrote", save(NAME, key, measured(figures, cores=args.threads), args.save))


if __name__ == "__main__":
    main()
