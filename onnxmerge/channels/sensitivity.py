"""How sensitive the output of the model is to errors in a channel, as far as the next layer tells.

Two outputs of a layer that vary alike need not matter alike: behind one of them there may be large weights.
To first order, and with errors of different channels independent, an error in a channel adds to the squared
errors of its consumers in proportion to the squares of the weights that read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxmerge.channels.groups import Channels
from onnxmerge.channels.residual import destination
from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph import external_weights
from onnxmerge.operators.parameters import depthwise_kernels

# Weights that are copied at a time.
_MOST_AT_ONCE = 1 << 22


def output_sensitivity(channels: Channels, sites: Sequence[FoldSite]) -> np.ndarray:
    """Per channel the squared weights that read it, summed over all sites.

    Rows of a weight count as scaled by a BatchNormalization behind them, depthwise kernels on the way
    as a factor.

    Args:
        sites: all fold sites of the model.

    Returns:
        float64 [channels.count]; zero where no site reads.
    """
    found = np.zeros(channels.count)
    for site in sites:
        scale = destination(site).scale if site.output is not None else np.ones(1)
        np.add.at(found, site.channel[site.columns], weight_energies(site, scale))
        external_weights.release()
    for node in channels.view:
        # They carry the demand from their outputs to their inputs.
        kernel = depthwise_kernels(node)
        if kernel is not None:
            found[channels.of(node.x[1][0])] *= np.square(kernel).reshape(len(kernel), -1).sum(axis=1)
    return found


def row_weights(site: FoldSite, sensitivity: np.ndarray) -> np.ndarray:
    """What an error in each output of a site counts beside errors in the others.

    Args:
        site: one with an ``output``.
        sensitivity: of every channel, see ``output_sensitivity``.

    Returns:
        float64 [outputs], roots of the sensitivities with a mean square of 1; ones where an output is read
        by anything but fold sites.
    """
    assert site.output is not None
    squares = sensitivity[site.channels.of(site.output)]
    if not (squares > 0).all():
        return np.ones(len(squares))
    return np.sqrt(squares / squares.mean())


def weight_energies(site: FoldSite, scale: np.ndarray) -> np.ndarray:
    """The summed squares of the weights that read each data position, rows scaled; float64 [data.size]."""
    total = np.zeros(len(site.columns))
    for part in weight_parts(site, scale):
        total += np.einsum("op,op->p", part, part)
    return total


def weight_parts(site: FoldSite, scale: np.ndarray) -> Iterator[np.ndarray]:
    """The weight as [outputs and taps, data positions], rows times ``scale``, in parts: none is large."""
    weight = np.moveaxis(site.values, site.axis, -1)
    factor = np.ones((1,) * weight.ndim, weight.dtype)
    if site.rows is not None:
        rows = site.rows - (site.rows > site.axis)
        shape = [1] * weight.ndim
        shape[rows] = -1
        factor = scale.astype(weight.dtype).reshape(shape)
    step = max(_MOST_AT_ONCE * len(weight) // max(weight.size, 1), 1)
    for start in range(0, len(weight), step):
        part = slice(start, start + step)
        scaled = weight[part] * (factor[part] if len(factor) > 1 else factor)
        yield scaled.reshape(-1, weight.shape[-1])[:, site.columns]
