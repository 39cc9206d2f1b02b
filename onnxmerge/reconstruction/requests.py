"""What has to be known of both models before a consumer can be refitted: decided before the walk begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.calibration.forms import LinearForm, linear_form
from onnxmerge.channels.residual import Feeds, feeds
from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.view import GraphView

# A per-channel scale below this share of the largest one is not divided by.
_SMALL_SCALE = 1e-6


@dataclass(frozen=True, eq=False)
class Request:
    """One site of the walk.

    Attributes:
        site: the consumer.
        form: its regression, or None where it has none.
        fed: where its output goes, or None without an output axis.
        repairs: whether the target is what the sum behind the site lacks, given its other operand.
        bias: what the untouched site adds to its product, float64 [rows], or None where unknown.
    """

    site: FoldSite
    form: LinearForm | None
    fed: Feeds | None
    repairs: bool
    bias: np.ndarray | None

    @property
    def old_names(self) -> list[str]:
        """What is read from the untouched model: the data, and what the target is made from."""
        if self.form is None:
            return [self.site.data.tensor]
        return [self.site.data.tensor, self.fed.total if self.repairs else self.site.node.y[0].name]

    @property
    def new_names(self) -> list[str]:
        """What is read from the new model: the data, and the other operand of the sum."""
        return [self.site.data.tensor, *([self.fed.other] if self.repairs else [])]

    def target(self, old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> np.ndarray:
        """What the site should compute on this batch, in the shape of its output."""
        if not self.repairs:
            return old[self.site.node.y[0].name]
        fed = self.fed
        total = old[fed.total]
        shape = [1] * total.ndim
        shape[fed.axis] = -1
        scale, shift = (v.astype(total.dtype).reshape(shape) for v in (fed.scale, fed.shift))
        return (total - new[fed.other] - shift) / scale


def requests(sites: Sequence[FoldSite], *, residual: bool) -> list[Request]:
    """One request per site, in the order of the walk (that of ``sites``).

    A sum is repaired by the last of the sites that feed it directly: when that one is refitted, all
    that its other operand depends on has been rewritten.
    """
    made, open_nodes = [], {site.node.index for site in sites}
    for site in sites:
        form, bias = linear_form(site), _stored_bias(site)
        fed = feeds(site) if site.output is not None else None
        repairs = (
            residual
            and form is not None
            and fed is not None
            and fed.other is not None
            and bool(np.all(np.abs(fed.scale) > _SMALL_SCALE * np.abs(fed.scale).max()))
            and not _depends_on(site.channels.view, fed.other, open_nodes)
        )
        made.append(
            Request(site, form if bias is not None else None, fed, repairs and bias is not None, bias)
        )
        open_nodes.discard(site.node.index)
    return made


def _depends_on(view: GraphView, name: str, nodes: set[int]) -> bool:
    seen: set[int] = set()
    names = [name]
    while names:
        node = view.producer(names.pop())
        if node is None or node.index in seen:
            continue
        if node.index in nodes:
            return True
        seen.add(node.index)
        names += [x.name for x in node.x if x is not None and not x.is_constant]
    return False


def _stored_bias(site: FoldSite) -> np.ndarray | None:
    """What the site adds per row of its weight; None where that is computed or differs by position."""
    if site.output is None:
        return None
    rows = site.output.size
    if site.bias is None:
        return np.zeros(rows)
    stored = site.bias.constant
    if stored is None or stored.size not in (1, rows) or (stored.size == rows and stored.shape[-1] != rows):
        return None
    scale = float(site.node.attr("beta", 1.0)) if site.node.op == "Gemm" else 1.0
    return scale * np.broadcast_to(np.asarray(stored, dtype=np.float64).reshape(-1), (rows,))
