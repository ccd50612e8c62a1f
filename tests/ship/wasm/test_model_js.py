"""What `model.js` makes of pictures, and what it says about wrong ones, under Node.js."""

import dataclasses
import io
import json
import pathlib
import re

import numpy as np
from PIL import Image

from qresnet_jax.data.pictures import decode, fit
from qresnet_jax.ship import reference
from qresnet_jax.ship import wasm as model_js
from qresnet_jax.ship.wasm.writer import write_wasm
from tests.ship.random_networks import random_network


def js(array):
    return f"new Uint8Array({json.dumps(np.asarray(array).ravel().tolist())})"


def picture(rgba):
    height, width, _ = rgba.shape
    return f"{{width: {width}, height: {height}, data: {js(rgba)}}}"


def test_logits_and_description_are_those_of_the_network(exported, digits, make_images, node):
    image = make_images(2, (8, 8, 1))[1:]
    found = node(
        f"""
        import {{ load }} from './model.mjs';
        const {{ default: fs }} = await import('node:fs');
        const bytes = fs.readFileSync('model.wasm');
        const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
        const sources = [undefined, 'model.wasm', new URL('model.wasm', import.meta.url),
                         new URL('model.wasm', import.meta.url).href, bytes, buffer];
        const nets = await Promise.all(sources.map((source) => load(source)));
        nets.push(await load(bytes, {{ simd: false }}));
        const net = nets[0], logits = net.logits({js(image)});
        console.log(JSON.stringify({{
          logits: nets.map((net) => [...net.logits({js(image)})]), kind: logits.constructor.name,
          again: [...net.logits(new Uint8ClampedArray({js(image)}))], simd: nets.map((net) => net.simd),
          shape: [net.height, net.width, net.channels], names: net.classNames, scale: net.logitScale,
        }}));
        """,
        exported,
    )
    expected = reference.logits(digits, image)[0].tolist()
    assert found["logits"] == [expected] * 7 and found["again"] == expected and found["kind"] == "Int32Array"
    assert found["simd"] == [True] * 6 + [False]
    assert found["shape"] == [8, 8, 1] and found["names"] == list("0123456789")
    assert found["scale"] == digits.logit_scale


def as_pillow(rgba, mode, width, height):
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    file.seek(0)
    return np.asarray(fit(decode(file, mode)[0], width, height)[0])


SIZES = [(8, 8), (8, 20), (31, 17), (280, 280), (5, 3), (1, 1), (100, 9)]


def test_pictures_become_the_pixels_that_the_command_makes(exported, node):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 4), np.uint8) for size in SIZES]
    for rgba in pictures[::2]:
        rgba[..., 3] = 255
    found = node(
        f"""
        import {{ load }} from './model.mjs';
        const net = await load();
        const pictures = [{", ".join(map(picture, pictures))}];
        console.log(JSON.stringify(pictures.map((x) => [...net.pixels(x)])));
        """,
        exported,
    )
    for rgba, pixels in zip(pictures, found, strict=True):
        difference = np.array(pixels) - as_pillow(rgba, "L", 8, 8).ravel().astype(int)
        # Pillow rounds transparent colours in another way, and the last bit of a sine may move a weight.
        assert np.abs(difference).max() <= (1 if (rgba[..., 3] < 255).any() else 0)


def test_classes_are_sorted_by_their_softmax(exported, digits, node):
    rgba = np.full((8, 8, 4), 255, np.uint8)
    rgba[..., :3] = np.random.default_rng(0).integers(0, 256, (8, 8, 1))
    found = node(
        f"""
        import {{ load }} from './model.mjs';
        console.log(JSON.stringify((await load()).classify({picture(rgba)})));
        """,
        exported,
    )
    logits = reference.logits(digits, rgba[None, :, :, :1])[0] * digits.logit_scale
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    order = np.argsort(-expected, kind="stable")
    assert [x["name"] for x in found] == [str(k) for k in order]
    np.testing.assert_allclose([x["probability"] for x in found], expected[order], rtol=1e-12)


def test_wrong_arguments_are_refused_with_what_was_expected(exported, node):
    found = node(
        """
        import { load } from './model.mjs';
        const net = await load();
        const wrong = [
          () => net.logits(new Uint8Array(63)),
          () => net.logits([1, 2]),
          () => net.classify({ width: 2, height: 2, data: new Uint8Array(4) }),
          () => load(5),
          () => load(new Uint8Array(100)),
          () => load(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])),
          () => load('missing.wasm'),
        ];
        const messages = [];
        for (const call of wrong) {
          try { await call(); messages.push(''); } catch (error) { messages.push(error.message); }
        }
        console.log(JSON.stringify(messages));
        """,
        exported,
    )
    expected = (
        "an image has 8 x 8 x 1 = 64 bytes (height x width x channels), but this has 63",
        "logits takes a Uint8Array: for an ImageData, use classify",
        "a picture has 4 x width x height bytes (RGBA), but this has 4 for 2 x 2",
        "load takes a string, a URL, an ArrayBuffer or a Uint8Array",
        "this is no WebAssembly file",
        "this WebAssembly file has no network: give a model.wasm of qresnet_jax",
        "ENOENT: no such file or directory, open 'missing.wasm'",
    )
    assert found == list(expected)


def test_colours_and_names_of_any_script(tmp_path, node, tools):
    """A network of colour images that are not square, with names that JSON has to escape."""
    seed = next(s for s in range(100) if random_network(s)[0].channels == 3)
    network, _ = random_network(seed)
    names = tuple(f'{k} "ä<\u4e2d' for k in range(network.classes))
    network = dataclasses.replace(network, height=24, width=30, class_names=names)
    write_wasm(network, tmp_path)
    rgba = np.random.default_rng(1).integers(0, 256, (50, 40, 4), np.uint8)
    rgba[..., 3] = 255
    found = node(
        f"""
        import {{ load }} from './model.mjs';
        const net = await load(), image = {picture(rgba)};
        console.log(JSON.stringify([net.classNames, [...net.pixels(image)], [...net.logits(net.pixels(image))]]));
        """,
        tmp_path,
    )
    pixels = as_pillow(rgba, "RGB", 30, 24)
    assert found[:2] == [list(names), pixels.ravel().tolist()]
    assert found[2] == reference.logits(network, pixels[None])[0].tolist()


def test_bundlers_for_browsers_find_no_module_of_node():
    text = pathlib.Path(model_js.__file__).with_name("model.js").read_text()
    assert "node:" in text and not re.search(r"""(from|import\() *['"]node:""", text)
