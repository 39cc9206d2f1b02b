"""LSTM, GRU and RNN, step by step along the sequence, as ONNX words them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxmerge.errors import ModelError
from onnxmerge.train.executor.call import Call, Function

# The activations that ONNX takes where none are named; others are rare.
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
# Hidden state, and the further state of an LSTM.
State = tuple[Tensor, Tensor]
# One step: (projected input [N, gates * H], hidden [N, H], further state, weights) -> (hidden, state).
Cell = Callable[..., State]


def _lstm(x: Tensor, h: Tensor, c: Tensor, r: Tensor, bias: Tensor, linear_first: bool) -> State:
    """Gates in ONNX's order: input, output, forget, cell."""
    i, o, f, g = (x + h @ r.T + bias).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(x: Tensor, h: Tensor, c: Tensor, r: Tensor, bias: Tensor, linear_first: bool) -> State:
    """Gates in ONNX's order: update, reset, hidden."""
    size = h.shape[-1]
    z, s = (x[:, : 2 * size] + h @ r[: 2 * size].T + bias[: 2 * size]).sigmoid().chunk(2, -1)
    rest, last = r[2 * size :], bias[2 * size :]
    inner = s * (h @ rest.T + last) if linear_first else (s * h) @ rest.T + last
    return (1 - z) * (x[:, 2 * size :] + inner).tanh() + z * h, c


def _rnn(x: Tensor, h: Tensor, c: Tensor, r: Tensor, bias: Tensor, linear_first: bool) -> State:
    return (x + h @ r.T + bias).tanh(), c


def _layer(op: str, cell: Cell, gates: int) -> Function:
    def run(
        call: Call,
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h0: Tensor | None = None,
        c0: Tensor | None = None,
        peepholes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        _refuse(call, op, lengths, peepholes)
        if call("layout", 0):
            x = x.transpose(0, 1)
            h0, c0 = (None if s is None else s.transpose(0, 1) for s in (h0, c0))
        directions, size, batch = w.shape[0], r.shape[-1], x.shape[1]
        found = []
        for d in range(directions):
            backward = d == 1 or call("direction", "forward") == "reverse"
            state = x.new_zeros(batch, size)
            h, c = (state if s is None else s[d] for s in (h0, c0))
            outer, inner = (
                x.new_zeros(2, gates * size) if b is None else b[d].reshape(2, gates * size)
            ).unbind()
            steps = []
            for value in (x.flip(0) if backward else x) @ w[d].T + outer:
                h, c = cell(value, h, c, r[d], inner, bool(call("linear_before_reset", 0)))
                steps.append(h)
            every = torch.stack(steps)
            found.append((every.flip(0) if backward else every, h, c))
        every, h, c = (torch.stack([part[i] for part in found], axis) for i, axis in enumerate((1, 0, 0)))
        if call("layout", 0):
            every, h, c = every.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
        return (every, h, c) if op == "LSTM" else (every, h)

    return run


def _refuse(call: Call, op: str, lengths: Tensor | None, peepholes: Tensor | None) -> None:
    """Say what is rare and not covered."""
    activations = call("activations")
    usual = _USUAL[op]
    if activations is not None and any(name != usual[i % len(usual)] for i, name in enumerate(activations)):
        raise ModelError(f"{op} with the activations {', '.join(activations)} is not covered")
    if lengths is not None or peepholes is not None or call("clip") or call("input_forget", 0):
        raise ModelError(f"{op} with lengths, peepholes, clipping or coupled gates is not covered")


FUNCTIONS: dict[str, Function] = {
    "GRU": _layer("GRU", _gru, 3),
    "LSTM": _layer("LSTM", _lstm, 4),
    "RNN": _layer("RNN", _rnn, 1),
}
