"""Costs of groups, scaled by what taking some of them out does to the outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import support

from onnxmerge import probes
from onnxmerge.allocation import BY_LAYER
from onnxmerge.candidates import score, shapes
from onnxmerge.config import Config
from onnxmerge.errors import ModelError
from onnxmerge.pipeline import analysed
from onnxmerge.progress import Clock
from onnxmerge.runtime import Session
from onnxmerge.study import Study
from onnxmerge.validation import Judgement
from onnxmerge.validation.kinds import Sequences
from onnxmerge.validation.parity import size_of

# Two branches alike; behind a nonlinearity one of them counts for a hundredth.
TWO = """two (float[N,8] x) => (float[N,4] y)
<float[24,8] w1, float[24] b1, float[4,24] v1, float[4] c1, float[24,8] w2, float[24] b2, float[4,24] v2,
 float[4] c2, float k = {0.01}> {
  h1 = Gemm<transB=1>(x, w1, b1)  r1 = Relu(h1)  a1 = Gemm<transB=1>(r1, v1, c1)  t1 = Tanh(a1)
  h2 = Gemm<transB=1>(x, w2, b2)  r2 = Relu(h2)  a2 = Gemm<transB=1>(r2, v2, c2)  t2 = Tanh(a2)
  s2 = Mul(t2, k)  y = Add(t1, s2) }"""


def studied(text: str) -> Study:
    x = np.random.default_rng(0).standard_normal((128, 8)).astype(np.float32)
    return analysed(support.model(text), x, None, Config(samples=128, threads=1), Clock())


def scored(monkeypatch, probe: bool, text: str = TWO):
    monkeypatch.setattr("onnxmerge.candidates.worth_probing", lambda study: probe)
    study = studied(text)
    return score(study, study.samples.fit)


def test_a_group_that_the_outputs_hardly_show_costs_less(monkeypatch):
    plain, found = scored(monkeypatch, False), scored(monkeypatch, True)
    first, second = (found.measured[name] for name in plain.curves)
    assert first > 30 * second and 1 / probes.MOST <= second < first <= probes.MOST
    assert all((found.curves[name] == curve).all() for name, curve in plain.curves.items())
    assert all(
        found.values[name] == pytest.approx(found.measured[name] * v) for name, v in plain.values.items()
    )
    assert all((found.best_first()[n] == plain.best_first()[n]).all() for n in plain.values)


def test_costs_are_numbers_where_outputs_are_not(monkeypatch):
    found = scored(monkeypatch, True, TWO.replace("y = Add(t1, s2)", "s = Add(t1, s2)  y = Log(s)"))
    assert all(np.isfinite(one).all() for one in (*found.measured.values(), *found.values.values()))


def test_a_group_without_which_the_model_does_not_run_costs_most(monkeypatch):
    parity, calls = Study.parity, []

    def failing(study, session, data, known):
        calls.append(session)
        if len(calls) == 1:
            raise ModelError("it does not run")
        return parity(study, session, data, known)

    plain = scored(monkeypatch, False)
    monkeypatch.setattr(Study, "parity", failing)
    found = scored(monkeypatch, True)
    first, second = (found.measured[name] for name in plain.curves)
    assert first == pytest.approx(probes.MOST) and second == pytest.approx(1)


READER = """reader (float[N,8,6] x) => (float[N,8,5] y) <float[6,16] w, float[16] b, float[16,5] v> {
  h = MatMul(x, w)  s = Add(h, b)  r = Relu(s)  y = MatMul(r, v) }"""


def test_what_reads_text_is_probed():
    model, x = support.model(READER), np.random.default_rng(0).standard_normal((64, 8, 6))
    study = analysed(model, x.astype(np.float32), None, Config(samples=64, threads=1), Clock())

    def judged(**how):
        return replace(study, source=replace(study.source, kinds={"y": Judgement(Sequences(**how))}))

    assert probes.worth_probing(judged(ctc=True, blank=0))
    # Tokens are not, nor what is read already: without scores nothing is said before it is another one.
    assert not probes.worth_probing(judged()) and not probes.worth_probing(judged(ctc=True, chosen=True))
    reads = judged(ctc=True, blank=0)
    assert set(score(reads, study.samples.fit).measured) == {g.name for g in study.analysis.channels.groups}
    assert score(judged(), study.samples.fit).measured == {}
    # Widths by the costs alone are tried beside the others where these differ.
    assert BY_LAYER in shapes(reads, "macs") and BY_LAYER not in shapes(judged(), "macs")


def test_the_original_answers_once_for_all_groups(monkeypatch):
    runs = []

    class Counting(Session):
        def run(self, feed, outputs=None, **options):
            runs.append(len(feed["x"]))
            return super().run(feed, outputs, **options)

    study = studied(TWO)
    study.source.session.__class__ = Counting
    monkeypatch.setattr("onnxmerge.candidates.worth_probing", lambda study: True)
    assert len(score(study, study.samples.fit).measured) == 2 and sum(runs) == probes.SAMPLES


def test_a_classifier_is_not_probed():
    images = np.random.default_rng(0).random((32, 1, 8, 8)).astype(np.float32)
    study = analysed(support.narrow_digits(), images, None, Config(samples=32, threads=1), Clock())
    assert not probes.worth_probing(study)


def test_sequences_among_the_answers_are_no_obstacle():
    assert size_of({"boxes": np.zeros((2, 3), np.float32), "names": [{"cat": 1.0}]}) == 24
