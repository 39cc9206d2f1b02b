"""Minimal graphs, one per operator and coupling: a line of ONNX text in a frame of two linear operators."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import support

from onnxmerge.graph.view import NodeView

_IMAGE = """g (float[N,4,{size}] x) => (float[N,3,P,Q] y)
<float[8,4,1,1] w1, float[8] b1, float[3,{c},1,1] w2 {more}> {{
    h = Conv(x, w1, b1)
    {body}
    y = Conv(t, w2)
}}"""
_TOKENS = """g (float[N,5,4] x) => (float[N,P,3] y) <float[4,8] w1, float[{c},3] w2 {more}> {{
    h = MatMul(x, w1)
    {body}
    y = MatMul(t, w2)
}}"""

# What the free lengths of the frames are in the tests' inputs.
SIZES = {"N": 2, "H": 6, "W": 6}


@dataclass(frozen=True)
class Case:
    """One graph and what is expected of it.

    Attributes:
        name: the operator under test, and what is special about the case.
        text: the graph in ONNX's own syntax.
        widths: channels of every group, so that nothing freezes unnoticed.
        says: the relations of the operator's first node, but for axes that are frozen by default.
        seen: whether tying what is mixed or frozen here must be seen as a difference.
        deprecated: whether the checker of the onnx package refuses the operator's version.
    """

    name: str
    text: str
    widths: list[int]
    says: str
    opset: int = 17
    domain: str = ""
    seen: bool = False
    deprecated: bool = False

    @property
    def op(self) -> str:
        return self.name.replace(",", " ").split()[0]

    def analysed(self) -> support.Analysed:
        return support.analysed(self.model(), sizes=SIZES)

    def node(self, model: support.Analysed) -> NodeView:
        """The node under test: of the operator, and making t or h where one does."""
        nodes = [node for node in model.channels.view if node.op == self.op]
        made = {node.y[0].name: node for node in nodes}
        return made.get("t") or made.get("h") or nodes[0]

    def model(self) -> onnx.ModelProto:
        return support.model(self.text, opset=self.opset, contrib=bool(self.domain))

    def __str__(self) -> str:
        return f"{self.name} {self.opset}"


def image(
    name: str,
    body: str,
    widths: list[int],
    says: str,
    c: int = 8,
    more: str = "",
    free: bool = False,
    **options,
) -> Case:
    """h [2, 8, 6, 6] is made by a convolution, t [2, c, P, Q] is taken up by one; ``free``: of any height."""
    text = _IMAGE.format(c=c, body=body, more=f", {more}" if more else "", size="H,W" if free else "6,6")
    return Case(name, text, widths, says, **options)


def tokens(name: str, body: str, widths: list[int], says: str, c: int = 8, more: str = "", **options) -> Case:
    """h [2, 5, 8] is made by a matrix product, t [2, P, c] is taken up by one."""
    text = _TOKENS.format(c=c, body=body, more=f", {more}" if more else "")
    return Case(name, text, widths, says, **options)
