"""Inference of ResNet-20 W1A2 on CPU: this package's engines against onnxruntime on the same network in float and in int8.

    pip install -e ".[bench]" && python benchmarks/inference.py [--rounds=15] [--threads=1] [--packed=FILE]

The peer is the float twin: the same convolutions, batch norm folded into them, ReLU, no quantizers; in int8 by static
quantization in QDQ form with uint8 activations. It gets float images, ours get uint8 pixels. Engines take turns, each in a
process of its own on the same processors; a round's ratio is the peer's time over the engine's, and the median of the
rounds is reported. Weights are random unless a packed file is given.

Two limits are measured along with it. `sgemm` is the time that the network's multiplications take at the speed of NumPy's
large float32 matrix product; `popcount` that of its binary ones as AND, population count and addition in registers, one bit
of the activations after the other. An engine that needs neither, like bit slicing, may pass them.

Memory: `process` is the peak of the whole process, imports and compilation included; `call` is by how much calls raise it
above what the loaded engine holds, which for jax may include some that its first call left.
"""

import argparse
import ctypes
import importlib
import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

PEER = "onnxruntime fp32"
ONNX_FILES = {PEER: "float.onnx", "onnxruntime int8": "int8.onnx"}
OURS = {"numpy": "reference", "jax": "jax.engine", "c": "c.engine"}
LIMITS = "limits"
SIZE = 32
MIB = 2**20


# The networks.


def random_network():
    """ResNet-20 W1A2 as it is before training."""
    from flax import nnx

    from qresnet_jax import create_model, default_config
    from qresnet_jax.ship.fold import fold

    return fold(create_model(default_config().model, rngs=nnx.Rngs(0)), image_shape=(SIZE, SIZE))


def onnx_float_network(network):
    """The ONNX model of the same architecture in float with random weights, for images `[N, C, H, W]`."""
    from onnx import TensorProto, checker, helper, numpy_helper

    from qresnet_jax.ship import nodes

    rng = np.random.default_rng(0)
    operations, tensors, names = [], [], []

    def constant(value):
        tensors.append(numpy_helper.from_array(value.astype(np.float32), f"w{len(tensors)}"))
        return tensors[-1].name

    def weights(*shape, fan_in):
        return constant(rng.normal(0, (2 / fan_in) ** 0.5, shape))

    def operation(kind, *inputs, **attributes):
        operations.append(helper.make_node(kind, inputs, [f"x{len(operations)}"], **attributes))
        return operations[-1].output[0]

    def conv(x, kernel, stride):
        kh, kw, channels, out = kernel.shape
        w, b = weights(out, channels, kh, kw, fan_in=kh * kw * channels), constant(np.zeros(out))
        ph, pw = (kh - 1) // 2, (kw - 1) // 2
        return operation("Conv", x, w, b, strides=[stride, stride], pads=[ph, pw, ph, pw])

    for node in network.nodes:
        inputs = [names[j] for j in node.inputs]
        match node:
            case nodes.StemNode():
                name = conv("images", node.weights, node.stride)
            case nodes.BinaryConvNode():
                name = conv(*inputs, node.signs, node.stride)
            case nodes.ThresholdsNode() if isinstance(network.nodes[node.inputs[0]], nodes.ReluNode):
                name = inputs[0]  # a quantizer alone
            case nodes.ThresholdsNode() | nodes.ReluNode():
                name = operation("Relu", *inputs)
            case nodes.RequantizeNode():
                name = inputs[0]  # batch norm, part of the convolution
            case nodes.AddNode():
                name = operation("Add", *inputs)
            case nodes.MaxPoolNode():
                name = operation("MaxPool", *inputs, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
            case nodes.MeanPoolNode():
                name = operation("Flatten", operation("GlobalAveragePool", *inputs))
            case nodes.ClassifierNode():
                channels, out = node.weights.shape
                name = operation(
                    "Gemm", *inputs, weights(channels, out, fan_in=channels), constant(np.zeros(out))
                )
        names.append(name)
    shape = ["N", network.channels, network.height, network.width]
    graph = helper.make_graph(
        operations,
        "float_network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["N", network.classes])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def write_networks(network, folder):
    """All that the engines load."""
    import onnx
    from onnxruntime import quantization

    from qresnet_jax.ship.packed.file import save_packed

    save_packed(network, folder / "network.safetensors")
    onnx.save(onnx_float_network(network), folder / ONNX_FILES[PEER])

    class Calibration(quantization.CalibrationDataReader):
        batches = iter([{"images": as_float(pixels(network, 32))}])

        def get_next(self):
            return next(self.batches, None)

    prepared = folder / "prepared.onnx"
    quantization.quant_pre_process(folder / ONNX_FILES[PEER], prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        folder / ONNX_FILES["onnxruntime int8"],
        Calibration(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def pixels(network, n):
    shape = (n, network.height, network.width, network.channels)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def as_float(images):
    return np.ascontiguousarray((images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 64)


# One engine, in a process of its own.


def load(which, folder, threads, batch):
    """A function that classifies one batch."""
    from qresnet_jax.ship.packed.file import read_packed

    network = read_packed(folder / "network.safetensors")
    images = pixels(network, batch)
    if which in OURS:
        logits = importlib.import_module(f"qresnet_jax.ship.{OURS[which]}").logits
        logits(network, images)  # compiles
        time.sleep(0.2)  # its threads give memory back
        ctypes.CDLL(None).malloc_trim(0)
        return lambda: logits(network, images)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        folder / ONNX_FILES[which], options, providers=["CPUExecutionProvider"]
    )
    images = as_float(images)
    return lambda: session.run(None, {"images": images})


def resident(field):
    """`VmRSS` or `VmHWM`, its peak, of this process in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def serve(which, folder, threads, batch):
    """Prints for each line on stdin the seconds of a call; at the end the peak of the process and the calls' part of it."""
    run = load(which, folder, threads, batch)
    peak, loaded = resident("VmHWM"), resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM again
    repeats = max(1, round(0.05 / min(seconds(run) for _ in range(5))))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(statistics.median(seconds(run) for _ in range(repeats)), flush=True)
    called = resident("VmHWM")
    print(max(peak, called), called - loaded, flush=True)


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# The limits of the machine.


def multiplications(network):
    """Of one image: `(all, binary ones once for each bit of their levels)`."""
    from qresnet_jax.ship import nodes, reference

    values = reference.evaluate(network, pixels(network, 1))
    total = binary = 0
    for i, node in enumerate(network.nodes):
        if isinstance(node, nodes.StemNode | nodes.BinaryConvNode):
            kernel = node.weights if isinstance(node, nodes.StemNode) else node.signs
            count = values[i].size * kernel[..., 0].size
            total += count
            if isinstance(node, nodes.BinaryConvNode):
                top = int(network.nodes[node.inputs[0]].levels[-1])
                binary += count * top.bit_length()
    return total, binary


def sgemm_rate():
    """Float32 multiplications with additions in a second."""
    a = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    return 512**3 / min(seconds(lambda: a @ a) for _ in range(100))


def popcount_rate():
    """Bits in a second that AND, population count and addition go over, on words that stay in registers."""
    import jax
    import jax.numpy as jnp

    words, terms, repeats = 2**13, 128, 4
    masks = np.random.default_rng(0).integers(0, 2**16, terms).astype(np.uint16)

    @jax.jit
    def count(x):
        def body(_, x):
            return x + sum(jax.lax.population_count(x & mask) for mask in masks)

        return jax.lax.fori_loop(0, repeats, body, x)

    x = jnp.arange(words, dtype=jnp.uint16)
    count(x).block_until_ready()
    return (
        16 * words * terms * repeats / min(seconds(lambda: count(x).block_until_ready()) for _ in range(100))
    )


def print_limits(folder, threads):
    """In a process of its own: BLAS counts its threads at the start."""
    from qresnet_jax.ship.packed.file import read_packed

    network = read_packed(folder / "network.safetensors")
    total, binary = multiplications(network)
    sgemm, popcount = total / sgemm_rate(), binary / popcount_rate()
    print(
        f"{total / 1e6:.1f} M multiplications an image; limits on {threads} thread(s): sgemm {sgemm * 1e6:.0f} us, "
        f"popcount {popcount * 1e6:.0f} us an image"
    )


# The comparison.


def command(args, folder):
    """Of a child process."""
    return [sys.executable, __file__, f"--threads={args.threads}", f"--folder={folder}"]


def compare(engines, folder, batch, args):
    """Prints a row for each engine."""
    children = {
        which: subprocess.Popen(
            [*command(args, folder), f"--batch={batch}", f"--serve={which}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for which in engines
    }
    for which, child in children.items():
        if child.stdout.readline() != "ready\n":
            raise SystemExit(f"{which} failed; its message stands above")
    times = {which: [] for which in engines}
    for _ in range(args.rounds):
        for which, child in children.items():
            child.stdin.write("go\n")
            child.stdin.flush()
            times[which].append(float(child.stdout.readline()))
    for which, child in children.items():
        child.stdin.close()
        peak, call = map(int, child.stdout.readline().split())
        child.wait()
        ratios = [peer / own for peer, own in zip(times[PEER], times[which], strict=True)]
        median = statistics.median(times[which])
        print(
            f"{batch:5d}  {which:17s} {median * 1e3:9.3f} {median / batch * 1e6:9.0f} {statistics.median(ratios):7.2f} "
            f"({min(ratios):5.2f} to {max(ratios):5.2f}) {peak / MIB:8.0f} {call / MIB:6.1f}",
            flush=True,
        )


def available_engines():
    """Of all engines those that are installed; says which are not."""
    engines = [PEER, "onnxruntime int8"]
    for which, module in OURS.items():
        if importlib.util.find_spec(f"qresnet_jax.ship.{module}"):
            engines.append(which)
        else:
            print(f"no engine {which}: there is no qresnet_jax.ship.{module}")
    return engines


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--packed", type=pathlib.Path, help="a packed file; random weights without it")
    parser.add_argument("--batches", default="1,16,128", help="images in a call")
    for hidden, kind in (("--serve", str), ("--folder", pathlib.Path), ("--batch", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == LIMITS:
        return print_limits(args.folder, args.threads)
    if args.serve:
        return serve(args.serve, args.folder, args.threads, args.batch)
    # XLA and BLAS take as many threads as there are processors to use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
    from qresnet_jax.ship.packed.file import read_packed

    network = read_packed(args.packed) if args.packed else random_network()
    if network.height is None or network.width is None:
        raise SystemExit(f"{args.packed} takes images of any size; give a file with a height and a width")
    with tempfile.TemporaryDirectory() as folder:
        write_networks(network, pathlib.Path(folder))
        engines = available_engines()
        subprocess.run([*command(args, folder), f"--serve={LIMITS}"], check=True)
        print(
            "batch  engine            ms a call  us image  faster than onnxruntime fp32  MiB process   call"
        )
        for batch in map(int, args.batches.split(",")):
            compare(engines, folder, batch, args)


if __name__ == "__main__":
    main()
