// Runs a network that qresnet_jax has exported, in browsers and in Node.js.
//
//     import { load } from './model.js';
//     const net = await load('model.wasm');
//     net.classify(context.getImageData(0, 0, width, height));  // [{name, probability}, ...], the likeliest first

const SUPPORT = 3; // of Lanczos, in pixels
const BITS = 22; // of the weights of a resized pixel after the binary point, as in Pillow
const HEAD = [0, 97, 115, 109, 1, 0, 0, 0]; // of a WebAssembly module

/**
 * Loads a network.
 *
 * @param source the address of a model.wasm, as a string or URL; or its bytes, an ArrayBuffer or a Uint8Array
 * @param options.simd false takes the build without vectors, which is otherwise for engines that have none
 * @returns {Promise<Network>}
 */
export async function load(source = new URL('model.wasm', import.meta.url), { simd = true } = {}) {
  const bytes = await read(source);
  const { description, vectors } = sections(bytes);
  const second = concatenated([new Uint8Array(HEAD), vectors]);
  const takesVectors = simd && WebAssembly.validate(second);
  const { instance } = await WebAssembly.instantiate(takesVectors ? second : bytes, {});
  if (takesVectors) {
    const { from, length, to } = description.shared;
    new Uint8Array(instance.exports.memory.buffer).set(bytes.subarray(from, from + length), to);
  }
  return new Network(instance.exports, description, takesVectors);
}

/** A network that is ready to classify. It has one image in its memory, so it takes one after the other. */
class Network {
  #run;
  #image;
  #scores;

  constructor(exports, description, simd) {
    const { height, width, channels, classNames, logitScale } = description;
    /** @type {number} of the images */
    this.height = height;
    /** @type {number} of the images */
    this.width = width;
    /** @type {number} of the images: 1 for grey, 3 for RGB */
    this.channels = channels;
    /** @type {string[]} in the order of the logits */
    this.classNames = classNames;
    /** @type {number} what one unit of a logit is worth */
    this.logitScale = logitScale;
    /** @type {boolean} whether this is the build with vectors */
    this.simd = simd;
    exports._initialize();
    this.#run = exports.model_run;
    const memory = exports.memory.buffer;
    this.#image = new Uint8Array(memory, exports.model_image.value, height * width * channels);
    this.#scores = new Int32Array(memory, exports.model_scores.value, classNames.length);
  }

  /**
   * Computes the logits of an image.
   *
   * @param pixels a Uint8Array or Uint8ClampedArray of height x width x channels, channels side by side
   * @returns {Int32Array} one for each class; times `logitScale` they are the logits of training
   */
  logits(pixels) {
    if (!(pixels instanceof Uint8Array || pixels instanceof Uint8ClampedArray)) {
      throw new TypeError('logits takes a Uint8Array: for an ImageData, use classify');
    }
    if (pixels.length !== this.#image.length) {
      const size = `${this.height} x ${this.width} x ${this.channels} = ${this.#image.length}`;
      throw new RangeError(`an image has ${size} bytes (height x width x channels), but this has ${pixels.length}`);
    }
    this.#image.set(pixels);
    this.#run();
    return this.#scores.slice();
  }

  /**
   * Classifies a picture of any size.
   *
   * @param imageData an ImageData, or another object with width, height and data in RGBA
   * @returns {{name: string, probability: number}[]} all classes, the likeliest first
   */
  classify(imageData) {
    const logits = Array.from(this.logits(this.pixels(imageData)), (x) => x * this.logitScale);
    const largest = Math.max(...logits);
    const weights = logits.map((x) => Math.exp(x - largest));
    const sum = weights.reduce((a, b) => a + b);
    const classes = this.classNames.map((name, i) => ({ name, probability: weights[i] / sum }));
    return classes.sort((a, b) => b.probability - a.probability);
  }

  /**
   * Makes a picture of any size into an image for the network, as `--mode=predict` does. Transparent parts become black; the
   * largest part in the middle that has the network's proportions is cut out; and it is resized with antialiasing
   * (Lanczos). Grey is (19595 R + 38470 G + 7471 B) / 65536, which is the luma of ITU-R BT.601.
   *
   * @param imageData as for `classify`
   * @returns {Uint8Array} of height x width x channels
   */
  pixels(imageData) {
    const { width, height, data } = imageData;
    if (!(width > 0 && height > 0 && data?.length === 4 * width * height)) {
      throw new RangeError(`a picture has 4 x width x height bytes (RGBA), but this has ${data?.length} for ${width} x ${height}`);
    }
    if (![1, 3, 4].includes(this.channels)) {
      throw new RangeError(`this network takes ${this.channels} channels, which a picture does not have: use logits`);
    }
    const scale = Math.min(width / this.width, height / this.height);
    const columns = Math.max(evenly(scale * this.width), 1);
    const rows = Math.max(evenly(scale * this.height), 1);
    const left = Math.floor((width - columns) / 2);
    const top = Math.floor((height - rows) / 2);
    const cut = new Uint8Array(rows * columns * this.channels);
    for (let y = 0, to = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++, to += this.channels) {
        const from = 4 * ((top + y) * width + left + x);
        convert(data, from, cut, to, this.channels);
      }
    }
    const narrow = resized(cut, rows, columns, this.width, this.channels);
    return resized(narrow, 1, rows, this.height, this.width * this.channels);
  }
}

/** Writes a pixel with 1, 3 or 4 channels, from RGBA. */
function convert(data, from, to, at, channels) {
  if (channels === 4) {
    to.set(data.subarray(from, from + 4), at);
    return;
  }
  const alpha = data[from + 3];
  const [r, g, b] = [0, 1, 2].map((c) => Math.round((data[from + c] * alpha) / 255));
  if (channels === 3) {
    to.set([r, g, b], at);
  } else {
    to[at] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
  }
}

/** Resizes [rows, size, channels] to [rows, wanted, channels], with the integer weights of Pillow. */
function resized(pixels, rows, size, wanted, channels) {
  if (size === wanted) {
    return pixels;
  }
  const result = new Uint8Array(rows * wanted * channels);
  const scale = size / wanted;
  const stretch = Math.max(scale, 1);
  for (let x = 0; x < wanted; x++) {
    const center = (x + 0.5) * scale;
    const first = Math.max(Math.trunc(center - SUPPORT * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(center + SUPPORT * stretch + 0.5), size);
    const weights = [];
    for (let i = first; i < end; i++) {
      weights.push(lanczos((i - center + 0.5) / stretch));
    }
    const sum = weights.reduce((a, b) => a + b);
    const integers = weights.map((w) => Math.trunc((w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5)));
    for (let y = 0; y < rows; y++) {
      for (let c = 0; c < channels; c++) {
        let value = 2 ** (BITS - 1);
        for (let i = first; i < end; i++) {
          value += integers[i - first] * pixels[(y * size + i) * channels + c];
        }
        result[(y * wanted + x) * channels + c] = Math.min(Math.max(Math.floor(value / 2 ** BITS), 0), 255);
      }
    }
  }
  return result;
}

function lanczos(x) {
  if (x === 0) {
    return 1;
  }
  const angle = Math.PI * x;
  return Math.abs(x) < SUPPORT ? (SUPPORT * Math.sin(angle) * Math.sin(angle / SUPPORT)) / (angle * angle) : 0;
}

/** The nearest integer, of two the even one, as Python rounds. */
function evenly(x) {
  const rounded = Math.round(x);
  return rounded - x === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** The bytes of what `load` was given. */
async function read(source) {
  if (source instanceof Uint8Array) {
    return source;
  }
  if (source instanceof ArrayBuffer) {
    return new Uint8Array(source);
  }
  if (typeof source !== 'string' && !(source instanceof URL)) {
    throw new TypeError('load takes a string, a URL, an ArrayBuffer or a Uint8Array');
  }
  const inNode = typeof process !== 'undefined' && process.versions?.node;
  if (inNode && !/^(https?|data|blob):/.test(String(source))) {
    const files = 'node:fs/promises'; // not a literal below, or bundlers for browsers would look for it
    const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ files);
    return new Uint8Array(await readFile(String(source).startsWith('file:') ? new URL(source) : source));
  }
  const response = await fetch(source);
  if (!response.ok) {
    throw new Error(`${source} cannot be loaded: ${response.status} ${response.statusText}`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

/** What a file says about its network, and the sections of the module with vectors. */
function sections(bytes) {
  const found = {};
  if (HEAD.some((byte, i) => bytes[i] !== byte)) {
    throw new Error('this is no WebAssembly file');
  }
  for (let at = HEAD.length; at < bytes.length; ) {
    const kind = bytes[at];
    const [length, begin] = number(bytes, at + 1);
    if (kind === 0) {
      const [size, name] = number(bytes, begin);
      found[text(bytes.subarray(name, name + size))] = bytes.subarray(name + size, begin + length);
    }
    at = begin + length;
  }
  if (!found.qresnet_jax || !found.qresnet_jax_simd128) {
    throw new Error('this WebAssembly file has no network: give a model.wasm of qresnet_jax');
  }
  return { description: JSON.parse(text(found.qresnet_jax)), vectors: found.qresnet_jax_simd128 };
}

/** A number in LEB128, and where it ends. */
function number(bytes, at) {
  let value = 0;
  for (let shift = 0; ; shift += 7, at++) {
    value += (bytes[at] & 127) * 2 ** shift;
    if (!(bytes[at] & 128)) {
      return [value, at + 1];
    }
  }
}

function text(bytes) {
  return new TextDecoder().decode(bytes);
}

function concatenated(parts) {
  const result = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
