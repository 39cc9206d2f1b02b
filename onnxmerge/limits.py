"""How much memory a run takes: one place for every number of bytes that decides it."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes.

    Attributes:
        in_files: of models of this size, external data included, the weights stay in files.
        large_model: of models of this size no copy of the weights is made at all: sessions use them where
            they lie, unpacked, and run one after the other.
        mapped_tensor: what stays in files are tensors of this size; smaller ones are read into memory.
        at_work: what the batches that are worked on at the same time may take together.
        batch: the largest activation of a batch that is run for reconstruction.
        piece: the same of the pieces that such a batch is run in.
        observed_batch: the activations of a batch that statistics are taken of, together.
        covariances: of all layers together, held in double precision; more are in single precision.
        compared: of large models, the outputs that are compared at a time (float64 copies are made).
        frontier, stored_frontier: activations that wait until later layers need them, of a large model the
            latter; the layers before a larger frontier run again instead.
        waiting: of these, what waits in memory; more wait in files.
        data: samples that are held in memory, more of them are read from files whenever they are fed; and
            answers that are held rather than worked out anew.
        photographs: generic images of a run; larger inputs get fewer samples.
    """

    in_files: int = 32 * _MIB
    large_model: int = 256 * _MIB
    mapped_tensor: int = 1 << 14
    at_work: int = 320 * _MIB
    batch: int = 48 * _MIB
    piece: int = 12 * _MIB
    observed_batch: int = 96 * _MIB
    covariances: int = 160 * _MIB
    compared: int = 32 * _MIB
    frontier: int = 400 * _MIB
    stored_frontier: int = 2048 * _MIB
    waiting: int = 64 * _MIB
    data: int = 16 * _MIB
    photographs: int = 320 * _MIB


LIMITS = Limits()
