"""Reports as pages: complete, one file, safe whatever names hold, and good to look at in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxmerge
from onnxmerge.cli import main
from onnxmerge.outcomes import RecoveryFacts, TriedShape
from onnxmerge.report import Inspection, Report, Sweep
from onnxmerge.report.chart import _ticks, curve
from onnxmerge.report.facts import (
    ConventionFacts,
    ConventionParity,
    GroupWidths,
    PrecisionFacts,
    ScoreFacts,
    SearchFacts,
    StepFacts,
)
from onnxmerge.report.html import number, seconds, share, size

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits.onnx"
CALIB = MODELS / "digits_calib.npz"
FAST = {"compensation": "merge", "criterion": "l1", "samples": 64}
VOID = {"meta", "img", "line", "circle", "polyline", "br"}
EVIL = "<script>alert('x')</script>\"'&<img src=x onerror=y>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


@dataclass(eq=False)
class Page(HTMLParser):
    """A page, taken apart; a tag that does not match its end is an error."""

    source: str
    open: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def result() -> onnxmerge.Result:
    return onnxmerge.optimize(DIGITS, macs=0.2, calibration=CALIB, threads=1, **FAST)


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    return onnxmerge.inspect(DIGITS, threads=1)


@pytest.fixture(scope="module")
def swept() -> Sweep:
    return onnxmerge.sweep(DIGITS, steps=(0.7, 0.3), calibration=CALIB, threads=1, **FAST)


@pytest.fixture(scope="module")
def crowded(result) -> Report:
    """A report that has everything, in quantities, and names made to do harm."""
    long = "/model.22/" + "a_deeply_nested_module/" * 6 + EVIL
    names = [long if i % 3 == 0 else f"/layer{i}/conv/Conv" for i in range(200)]
    groups = tuple(
        GroupWidths(f"{name}{i}", 64, 0 if i % 17 == 0 else 64 - i % 60, (name, f"{name}/b"), 0.01, 0.01)
        for i, name in enumerate(names)
    )
    report = result.report
    return replace(
        report,
        input=replace(report.input, name=EVIL),
        groups=groups,
        emptied="12 of 31 groups that may go left altogether, and their layers with them",
        warnings=(EVIL, "another"),
        parity=replace(report.parity, stand_in=True, outputs=(replace(report.parity.outputs[0], name=EVIL),)),
        recovery=RecoveryFacts(True, 0.2, 0.05, 500, 32, 33.0, 1e-3, "steps", 400, 64),
        config={**report.config, "only": [EVIL]},
        command=f"onnxmerge {EVIL}",
    )


def documents(*found) -> Iterator[tuple[str, Page]]:
    for document in found:
        text = document.to_html()
        yield text, Page(text)


def test_a_page_is_complete_and_loads_nothing(result, inspection, swept, crowded):
    for text, page in documents(result.report, inspection, swept, crowded):
        assert text.startswith("<!doctype html>") and page.all("html") == [{"lang": "en"}]
        assert not page.all("script") and not page.all("link") and not page.all("iframe")
        assert all(i["src"].startswith("data:image/png;base64,") and i["alt"] for i in page.all("img"))
        assert not re.search(r"https?://|@import|url\(", text)
        assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
        [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
        assert policy.startswith("default-src 'none'")
        assert all("scope" in attrs for attrs in page.all("th"))
        assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.all("svg"))


def test_names_are_text_whatever_they_hold(crowded):
    [(text, page)] = documents(crowded)
    assert page.text.count(EVIL) > 60 and "<script" not in text
    shown = Page(crowded._repr_html_())
    assert EVIL in shown.text and not shown.all("script") and not shown.all("img")


def test_the_page_of_a_run_says_what_the_report_says(result):
    report = result.report
    [(_, page)] = documents(report)
    text = " ".join(page.text.split())
    for sentence in (report.headline.size, report.headline.answers, report.headline.time):
        assert sentence in text
    for part in ("3,707,520", f"{report.output.macs:,}", share(report.parity.change_upper_90), "64"):
        assert part in text
    for group in report.groups:
        assert group.name in text and all(node in text for node in group.nodes)
        assert group.before == group.after or f"{group.before} \N{RIGHTWARDS ARROW} {group.after}" in text
    for entry in report.frozen:
        assert entry.reason in text
    assert report.input.sha256 in text and "Made in Python" in text and "digits.onnx" in text
    bars = [a["style"] for a in page.all("i")]
    assert bars == [f"width:{100 * g.after / g.before:.2f}%" for g in report.groups]


def test_what_left_altogether_and_what_stands_in_is_said(crowded):
    [(_, page)] = documents(crowded)
    gone = [group for group in crowded.groups if not group.after]
    assert gone and page.text.count("left altogether") == len(gone) + 1  # and once in the caption
    assert [a.get("class") for a in page.all("span")].count("bar left") == len(gone)
    assert "not on your data" in page.text and "proves little" in page.text


def test_the_saving_of_a_group_alone_is_what_it_saves_alone(result):
    group = next(g for g in result.report.groups if 0 < g.after < g.before)
    plan = replace(result.plan, keep={group.name: result.plan.keep[group.name]})
    alone = onnxmerge.optimize(DIGITS, plan=plan, calibration=CALIB, threads=1, tolerance=1e9)
    assert 1 - alone.report.reached.macs == pytest.approx(group.macs_alone, abs=1e-6)
    assert 1 - alone.report.reached.params == pytest.approx(group.params_alone, abs=1e-6)
    assert all(g.macs_alone == 0 for g in result.report.groups if g.after == g.before)


def test_what_is_there_only_sometimes_is_said(result, inspection):
    report = result.report
    convention = ConventionFacts("0..1, RGB", 0.7, (0.0,), (1.0,), 1 / 255, "rgb", False)
    page = Page(
        replace(
            report,
            search=SearchFacts(0.4, 0.01, 0.03, "held-out images", 64),
            shapes=(TriedShape("deep", 2, 0.01, 0.02), TriedShape("wide", 0, 0.02, 0.03)),
            latency=replace(report.latency, sessions=(0.5, 0.7), predicted_ratio=0.55),
            calibration=replace(report.calibration, conventions=(convention,)),
            recovery=RecoveryFacts(False, 0.2, 0.2, 10, 32, 3.0, 1e-3, "no better", 400, 64),
        ).to_html()
    )
    text = " ".join(page.text.split())
    for part in (
        "64 samples of held-out images that chose it",
        "deep (taken)",
        "new sessions 50.0% to 70.0%",
    ):
        assert part in text
    assert "55.0% was predicted" in text and "0..1, RGB70.0%" in text and "not taken" in text
    bare = Page(
        replace(
            report,
            unchanged=True,
            groups=(),
            frozen=(),
            shapes=(),
            search=SearchFacts(1.0, 0.0, 0.0, "nothing", 0),
            recovery=RecoveryFacts(False, 0.0, 0.0, 0, 0, 0.0, 0.0, "too few inputs", 0, 0),
            input=replace(report.input, name=None),
        ).to_html()
    ).text
    for part in (
        "Left as it was",
        "No channel of this model",
        "Nothing is frozen",
        "Nothing could go",
        "A model",
    ):
        assert part in bare
    assert "was not taught: too few inputs" in bare
    assert "No channel of this model" in Page(replace(inspection, groups=()).to_html()).text


def test_the_own_score_and_every_step_of_precision_are_shown(result, swept):
    report = result.report
    own = ScoreFacts("word_error_rate", True, 4.125, 4.5, 0.375, 0.0625, 9, True, 1.0)
    steps = StepFacts(40_000, 0.02, 0.04, 0.8, 4.25), StepFacts(12_000, 0.03, 0.05, 0.45, 4.5)
    int8 = PrecisionFacts("int8", "signed activations", 128, *steps)
    asked = replace(report.asked, kind="max_drop")
    search = SearchFacts(0.4, 0.01, 0.03, "held-out images", 64)
    [(_, page)] = documents(replace(report, score=own, precision=int8, asked=asked, search=search))
    text = " ".join(page.text.split())
    assert "smaller is better; two evaluations of the input differ by 0.0625" in text
    assert (
        "it chose the widths, so this flatters" in text and "drop of your own score that was allowed" in text
    )
    for part in ("4.125", "4.25", "40 kB", "12 kB", "80.0%", "as int8, which was written", "on 128 samples"):
        assert part in text
    [(_, page)] = documents(replace(report, score=None, precision=replace(int8, why="")))
    assert "word_error_rate" not in page.text and "as int8" in page.text
    points = [replace(p, score=4.625, recovered_score=4.375, recovered_change=0.0) for p in swept.points]
    curve = replace(swept, points=tuple(points), measure="word_error_rate", score=4.125)
    [(_, page)] = documents(curve)
    text = " ".join(page.text.split())
    assert "The input's score by word_error_rate is 4.125." in text and curve.judged in text
    assert text.count("4.625") == text.count("4.375") == len(points)
    shown = [Page(one._repr_html_()).text for one in (curve, replace(report, score=own))]
    assert "4.625" in shown[0] and "4.125" in shown[1]


def test_saved_by_its_suffix(result, tmp_path):
    for name in ("r.html", "r.HTM", "r.json", "r.txt"):
        result.report.save(tmp_path / name)
    assert (tmp_path / "r.html").read_text() == (tmp_path / "r.HTM").read_text() == result.report.to_html()
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads((tmp_path / "r.txt").read_text())
    assert len(list(tmp_path.iterdir())) == 4


def test_the_command_line_writes_pages(tmp_path, capsys):
    fast = ["--compensation", "merge", "--criterion", "l1", "--samples", "64", "--threads", "1", "-q"]
    data = ["--calib", str(CALIB)]
    runs = {
        "r.html": [str(DIGITS), str(tmp_path / "o.onnx"), "--macs", "0.5", *data, *fast],
        "i.html": ["inspect", str(DIGITS), "-q"],
        "s.html": ["sweep", str(DIGITS), "--steps", "0.5", *data, *fast],
    }
    for name, arguments in runs.items():
        assert main([*arguments, "--report", str(tmp_path / name)]) == 0
        page = Page((tmp_path / name).read_text())
        assert f"onnxmerge {arguments[0]} {arguments[1]}" in page.text
    assert capsys.readouterr().out == ""
    assert main([*runs["i.html"], "--report", str(tmp_path / "no" / "x.html")]) == 7


def test_a_page_speaks_of_flags_and_json_of_arguments(tmp_path, capsys):
    arguments = [str(DIGITS), str(tmp_path / "o.onnx"), "--ratio", "0.1", "--scale", "0.0039", "-q"]
    arguments += ["--samples", "32", "--threads", "1", "--compensation", "merge", "--criterion", "l1"]
    for name, word in (("r.html", "--calib"), ("r.json", "calibration=")):
        assert main([*arguments, "--report", str(tmp_path / name)]) == 0
        assert f"give real ones with {word}" in (tmp_path / name).read_text()


def test_the_bound_that_is_shown_is_that_of_all_conventions(result):
    rows = tuple(ConventionParity(n, 0.1, upper, 0.9, 0.2) for n, upper in (("a", 0.2), ("b", 0.994)))
    report = replace(result.report, parity=replace(result.report.parity, conventions=rows))
    assert "at most 99.4% with 90% confidence" in Page(report.to_html()).text


def test_a_notebook_shows_the_headline_and_a_table(result, inspection, swept):
    shown = Page(result._repr_html_())
    assert result._repr_html_() == result.report._repr_html_()
    assert result.report.headline.answers in shown.text and len(shown.all("table")) == 1
    assert "7 groups" in Page(inspection._repr_html_()).text
    assert share(swept.points[0].change) in Page(swept._repr_html_()).text
    assert not Page(swept._repr_html_()).all("style")


def test_figures_in_words():
    assert (share(None), share(float("inf")), share(1e-6)) == ("\N{EN DASH}", "any amount", "less than 0.1%")
    assert (number(12345), number(0.123456), number(None)) == ("12,345", "0.1235", "\N{EN DASH}")
    assert [size(c) for c in (12, 12_345, 3_210_000_000)] == ["12 bytes", "12.3 kB", "3.21 GB"]
    assert [seconds(s) for s in (0.01, 3.21, 600)] == ["10 ms", "3.2 s", "10 min"]


# --- the curve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0.0, 0.0349, 0.5, 0.99, 1.0, 1.31, 7.0, 1e4])
def test_ticks_are_round_and_reach_the_largest_figure(most):
    ticks = _ticks(most)
    assert ticks[0] == 0 and ticks[-1] >= most and 2 <= len(ticks) <= 7
    assert np.ptp(np.diff(ticks)) == pytest.approx(0)


def test_a_curve_lies_in_its_frame(swept):
    first = replace(swept.points[0], recovered_change=0.1, change_upper_90=float("inf"))
    drawn = curve(replace(swept, points=(first, *swept.points[1:])), "change")
    left, top, right, bottom = drawn.frame
    assert [line.name for line in drawn.lines] == ["upper bound", "change", "after recovery"]
    assert [len(line.points) for line in drawn.lines] == [1, 2, 1]
    for line in drawn.lines:
        assert all(left <= x <= right and top <= y <= bottom for x, y in line.points)
        assert list(line.points) == sorted(line.points)
    [(x, _), _] = curve(swept, "latency").lines[0].points
    assert x == pytest.approx(left + min(p.macs for p in swept.points) * (right - left))


def test_a_sweep_that_reached_nothing_has_a_page(swept):
    [(_, page)] = documents(replace(swept, points=()))
    assert "None of the shares" in page.text


# --- in a browser -------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or chrome here to look at a page with")
@pytest.mark.parametrize("scheme, darkest", [(0, True), (1, False)])
def test_a_browser_shows_it_in_the_readers_colours(crowded, tmp_path, scheme, darkest):
    crowded.save(tmp_path / "page.html")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--screenshot={tmp_path / 'page.png'}", "--window-size=600,1200"),
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"), dtype=float)
    assert (pixels[0, 0] < 64) == darkest and pixels.std() > 5
    # Nothing reaches beyond the page: its margins are of one colour.
    assert np.ptp(pixels[:, :4]) == 0 and np.ptp(pixels[:, -4:]) == 0


def test_an_interpreter_shows_the_headline_and_not_every_value(result, inspection, swept):
    shown = {type(one).__name__: repr(one) for one in (result, result.report, result.plan, inspection, swept)}
    assert result.report.headline.answers in shown["Result"]
    assert shown["Report"].splitlines()[1:] == shown["Result"].splitlines()[1:]
    assert result.plan.fingerprint[:12] in shown["Plan"] and "7 groups" in shown["Inspection"]
    assert f"change {swept.points[0].change:.2%}" in shown["Sweep"]
    assert max(map(len, shown.values())) < 2000
