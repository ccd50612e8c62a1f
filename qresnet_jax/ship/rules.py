"""Folds each layer and function into integer nodes: a rule for each; `qresnet_jax.ship.folding` has what they work with."""

import dataclasses
from typing import Any, cast

import numpy as np

from qresnet_jax import nn, pixels
from qresnet_jax.nn import functions, recording
from qresnet_jax.ship import nodes, trained
from qresnet_jax.ship.folding import (
    Flattened,
    Folding,
    Images,
    IntegerLevels,
    IntegerStream,
    IntegerSums,
    Logits,
    MisfitError,
    expect,
    fold_rule,
    image_of,
)
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.requantize import requantizer
from qresnet_jax.ship.thresholds import fold_quantizer


def _exact(bound: int) -> int:
    if bound >= nodes.ACC_LIMIT:
        raise MisfitError(
            f"has sums of up to {bound:,}, but only sums below 2**24 are exact: train with fewer "
            "config.model.act_bits (for the stem, stem_weight_bits), or a smaller config.model.width"
        )
    return bound


def _window(conv: nn.StemConv | nn.BinaryConv) -> Window:
    rows, columns = conv.form.borders(conv.kernel_size)
    return Window(conv.kernel_size, conv.strides, (rows, columns))


_ONE, _ZERO = np.ones(1), np.zeros(1)


def as_sums(folding: Folding, x: Any) -> IntegerSums:
    """Returns a stream or levels as integers of their unit, on which a batch norm or a quantizer can work."""
    if isinstance(x, IntegerStream):
        unit = np.asarray(2.0**-folding.fraction_bits)
        return IntegerSums(x.node, -nodes.STREAM_MIN, unit, _ONE, _ZERO)
    if isinstance(x, IntegerLevels):
        unit = np.asarray(trained.step_of(x.quantizer))
        return IntegerSums(_sums_of_levels(folding, x), x.quantizer.max_level, unit, _ONE, _ZERO)
    expect(x, IntegerSums, IntegerStream, IntegerLevels)
    return cast(IntegerSums, x)


def _sums_of_levels(folding: Folding, x: IntegerLevels) -> int:
    """Adds a convolution whose sums are the levels themselves."""
    channels = folding.channels(x.node)
    ones = np.ones((1, 1, 1, channels), np.int8)
    return folding.add(
        nodes.BinaryConvNode(inputs=(x.node,), signs=ones, window=Window((1, 1)), groups=channels)
    )


@fold_rule(nn.StemConv)
def _stem(folding: Folding, step: recording.Step, images: Any) -> IntegerSums:
    expect(images, Images)
    stem: nn.StemConv = step.operation
    return _first_layer(folding, step, _window(stem), stem.in_features)


@fold_rule(nn.StemDense)
def _stem_dense(folding: Folding, step: recording.Step, images: Any) -> IntegerSums:
    value, size = image_of(images)
    expect(value, Images)
    return _first_layer(folding, step, Window(size), step.operation.in_features // (size[0] * size[1]))


def _first_layer(folding: Folding, step: recording.Step, window: Window, channels: int) -> IntegerSums:
    stem: nn.StemConv = step.operation
    if stem.weight_bits is None:
        raise MisfitError(
            "has float weights, which have no integer form: train with config.model.weight_bits=1"
        )
    bound = _exact(stem.acc_max())
    weights, unit = trained.stem_weights(stem)
    node = nodes.StemNode(
        weights=weights.reshape(*window.size, channels, -1),
        double_mean=pixels.double_mean(folding.mean, channels),
        window=window,
    )
    folding.begin_first_layer(step.path)
    return IntegerSums(folding.add(node), bound, unit, _ONE, _ZERO)


@fold_rule(nn.BinaryConv)
def _binary_conv(folding: Folding, step: recording.Step, levels: Any) -> IntegerSums:
    return _binary(folding, step, levels, _window(step.operation))


@fold_rule(nn.BinaryDense)
def _binary_dense(folding: Folding, step: recording.Step, levels: Any) -> IntegerSums:
    value, size = image_of(levels)
    return _binary(folding, step, value, Window(size))


def _binary(folding: Folding, step: recording.Step, levels: Any, window: Window) -> IntegerSums:
    expect(levels, IntegerLevels)
    conv: nn.BinaryConv = step.operation
    bound = _exact(conv.acc_max(levels.quantizer.max_level))
    signs = trained.signs(conv)
    node = nodes.BinaryConvNode(
        name=step.path,
        inputs=(levels.node,),
        signs=signs.reshape(*window.size, -1, signs.shape[3]),
        window=window,
        groups=conv.form.groups,
    )
    unit = trained.unit_of_levels(conv, levels.quantizer)
    return IntegerSums(folding.add(node), bound, unit, _ONE, _ZERO)


@fold_rule(nn.BatchNorm)
def _batch_norm(folding: Folding, step: recording.Step, x: Any) -> IntegerSums:
    return affine(as_sums(folding, x), *trained.affine(step.operation))


@fold_rule(nn.Shift)
def _shift(folding: Folding, step: recording.Step, x: Any) -> IntegerSums:
    return affine(as_sums(folding, x), _ONE, trained.array(step.operation.shift))


def affine(x: IntegerSums, multiplier: np.ndarray, offset: np.ndarray) -> IntegerSums:
    """Returns `x * multiplier + offset`: float64 `[C]`, or `[1]` for all channels."""
    if x.rectified:
        inner = (*x.inner, (x.multiplier, x.offset))
        return dataclasses.replace(x, multiplier=multiplier, offset=offset, rectified=False, inner=inner)
    return dataclasses.replace(x, multiplier=x.multiplier * multiplier, offset=x.offset * multiplier + offset)


@fold_rule(nn.Quantizer)
def _quantizer(folding: Folding, step: recording.Step, x: Any) -> IntegerLevels:
    folding.end_first_layer()
    x = as_sums(folding, x)
    node = fold_quantizer(step.operation, x.unit, x.multiplier, x.offset, x.bound, x.inner)
    return IntegerLevels(folding.add(dataclasses.replace(node, inputs=(x.source,))), step.operation)


@fold_rule(nn.relu)
def _relu(folding: Folding, step: recording.Step, x: Any) -> IntegerSums | IntegerStream | IntegerLevels:
    expect(x, IntegerSums, IntegerStream, IntegerLevels)
    if isinstance(x, IntegerSums):
        return dataclasses.replace(x, rectified=True)
    if isinstance(x, IntegerLevels):
        return x
    return IntegerStream(folding.add(nodes.ReluNode(inputs=(x.node,))))


@fold_rule(nn.Dropout)
def _dropout(folding: Folding, step: recording.Step, x: Any) -> Any:
    return x


@fold_rule(nn.to_stream)
def _to_stream(folding: Folding, step: recording.Step, x: Any) -> IntegerStream:
    if not isinstance(step.result, nn.Stream):
        raise MisfitError("leaves a float stream, which has no integer form: give it fraction_bits")
    return _stream_of(folding, x, step.result.fraction_bits)


def _stream_of(folding: Folding, x: Any, fraction_bits: int) -> IntegerStream:
    folding.use_grid(fraction_bits)
    if isinstance(x, IntegerStream):
        return x
    sums = as_sums(folding, x)
    if sums.inner:
        raise MisfitError(
            "reads a batch norm or shift of sums behind a relu, which has no integer form: put a quantizer or to_stream between"
        )
    channels = folding.channels(sums.source)
    multiplier = np.broadcast_to(sums.multiplier * sums.unit, channels)
    node = requantizer(multiplier, np.broadcast_to(sums.offset, channels), sums.bound, folding.fraction_bits)
    stream = folding.add(dataclasses.replace(node, inputs=(sums.source,)))
    return IntegerStream(folding.add(nodes.ReluNode(inputs=(stream,))) if sums.rectified else stream)


@fold_rule(functions.add_alike)
def _add(folding: Folding, step: recording.Step, a: Any, b: Any) -> IntegerStream:
    for x in (a, b):
        expect(x, IntegerStream)
    return IntegerStream(folding.add(nodes.AddNode(inputs=(a.node, b.node))))


@fold_rule(functions.concat_alike)
def _concat(folding: Folding, step: recording.Step, *parts: Any) -> IntegerStream:
    for x in parts:
        expect(x, IntegerStream)
    return IntegerStream(folding.add(nodes.ConcatNode(inputs=tuple(x.node for x in parts))))


@fold_rule(functions.largest_of_windows)
def _max_pool(folding: Folding, step: recording.Step, x: Any) -> IntegerStream | IntegerLevels:
    expect(x, IntegerStream, IntegerLevels)
    options = step.options
    window = Window(options["window"], options["strides"], options["padding"])
    return x._replace(node=folding.add(nodes.MaxPoolNode(inputs=(x.node,), window=window)))


@fold_rule(functions.mean_of_windows)
def _mean_pool(folding: Folding, step: recording.Step, x: Any) -> IntegerStream:
    expect(x, IntegerStream)
    window = Window(step.options["window"], step.options["strides"])
    return IntegerStream(folding.add(nodes.MeanPoolNode(inputs=(x.node,), window=window)))


@fold_rule(functions.mean_of_image)
def _global_mean(folding: Folding, step: recording.Step, x: Any) -> IntegerStream:
    expect(x, IntegerStream)
    return IntegerStream(folding.add(nodes.MeanPoolNode(inputs=(x.node,))))


@fold_rule(nn.flatten)
def _flatten(folding: Folding, step: recording.Step, x: Any) -> Any:
    size = folding.size_of_input(step)
    if isinstance(x, Flattened) or size in ((), (1, 1)):
        return x
    if size is None or folding.image_shape is None:
        raise MisfitError("needs images of one size: give fold their image_shape=(height, width)")
    return Flattened(x, (size[0], size[1]))


@fold_rule(nn.Classifier)
def _classifier(folding: Folding, step: recording.Step, x: Any) -> Logits:
    classifier: nn.Classifier = step.operation
    if classifier.fraction_bits is None:
        raise MisfitError("has float weights, which have no integer form: give it fraction_bits")
    features, _ = image_of(x)
    if isinstance(features, IntegerLevels):
        weights, bias, unit = trained.classifier_weights(classifier, trained.step_of(features.quantizer))
        source = _levels_as_stream(folding, features)
    else:
        weights, bias, unit = trained.classifier_weights(classifier)
        if isinstance(features, IntegerStream) and classifier.fraction_bits != folding.fraction_bits:
            raise MisfitError(
                f"has fraction_bits={classifier.fraction_bits}, but reads a stream with {folding.fraction_bits} fraction bits: "
                "give both the same"
            )
        source = _stream_of(folding, features, classifier.fraction_bits).node
    node = nodes.ClassifierNode(name=step.path, inputs=(source,), weights=weights, bias=bias)
    return Logits(folding.add(node), unit)


def _levels_as_stream(folding: Folding, x: IntegerLevels) -> int:
    """Adds nodes whose result is the levels themselves, as numbers of a stream."""
    sums, channels = _sums_of_levels(folding, x), folding.channels(x.node)
    return folding.add(
        nodes.RequantizeNode(
            inputs=(sums,),
            multiplier=np.ones(channels, np.int32),
            offset=np.zeros(channels, np.int64),
            shift=np.zeros(channels, np.uint8),
        )
    )
