"""basic-pitch: notes in a recording; the recordings are synthesised, so the notes are known."""

from __future__ import annotations

import contextlib
import io
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from application import Case, Client, session

RATE = 22050
_SECONDS = 6


class Notes:
    name = "basic-pitch"
    packages = ("librosa", "mir_eval", "pretty_midi", "resampy", "setuptools<81")
    # It asks for a TensorFlow of its own; its ONNX file needs none.
    without_dependencies = ("basic-pitch",)
    metric = "F1 of notes (mir_eval, onsets)"
    unit = 1.0
    told_by = "what was synthesised"
    calibration = 60

    def model(self) -> Path:
        import basic_pitch

        return Path(basic_pitch.__file__).parent / "saved_models" / "icassp_2022" / "nmp.onnx"

    def client(self, model: Path) -> Client:
        return _Client(model)

    def cases(self, count: int, seed: int) -> list[Case]:
        """Six seconds each: one to three voices, notes of 0.25 to 1 s, harmonics that decay, and noise."""
        generator = np.random.default_rng(seed)
        return [_recording(generator) for _ in range(count)]

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:
        import mir_eval

        found = []
        for answer, truth in zip(answers, truths, strict=True):
            (at, pitches), (true_at, true_pitches) = answer, truth
            if len(at) == 0:
                found.append(0.0)
                continue
            scores = mir_eval.transcription.precision_recall_f1_overlap(
                true_at, true_pitches, at, pitches, offset_ratio=None
            )
            found.append(float(scores[2]))
        return float(np.mean(found))


def _recording(generator: np.random.Generator) -> Case:
    signal = generator.normal(0, 10 ** generator.uniform(-4, -2.3), _SECONDS * RATE)
    spans, pitches = [], []
    for _ in range(generator.integers(1, 4)):
        start, slope = generator.uniform(0, 0.5), generator.uniform(0.8, 1.8)
        while start < _SECONDS - 1.1:
            length = generator.uniform(0.25, 1.0)
            pitch = 440 * 2 ** ((int(generator.integers(45, 80)) - 69) / 12)
            time = np.arange(int(length * RATE)) / RATE
            tone = sum(
                np.sin(2 * np.pi * pitch * k * time + generator.uniform(0, 6)) / k**slope
                for k in range(1, 9)
                if pitch * k < RATE / 2
            )
            envelope = np.minimum(time / 0.01, 1) * np.exp(-time / generator.uniform(0.3, 1.5))
            envelope *= np.minimum((length - time) / 0.02, 1)
            at = int(start * RATE)
            signal[at : at + len(time)] += generator.uniform(0.1, 0.3) * tone * envelope
            spans.append((start, start + length))
            pitches.append(pitch)
            start += length + (generator.uniform(0, 0.4) if generator.random() < 0.3 else 0.02)
    signal = (np.clip(signal / max(1.0, np.abs(signal).max()), -1, 1) * 32767).astype("<i2")
    return Case(signal, (np.array(spans), np.array(pitches)))


class _Client:
    def __init__(self, model: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            from basic_pitch.inference import Model
        self._model = Model(model)
        self.session = self._model.model = session(model)

    def __call__(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from basic_pitch.inference import predict

        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            with wave.open(file.name, "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(RATE)
                out.writeframes(given.tobytes())
            with contextlib.redirect_stdout(io.StringIO()):
                _, _, events = predict(file.name, self._model)
        spans = np.array([(e[0], e[1]) for e in events]).reshape(-1, 2)
        return spans, np.array([440 * 2 ** ((e[2] - 69) / 12) for e in events])
