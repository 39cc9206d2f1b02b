"""Real files of many exporters: pruned equals masked for each, or the file is refused in one sentence."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import folders
import pytest

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
ENTRIES = folders.entries(CORPUS) if CORPUS.is_dir() else []

pytestmark = pytest.mark.skipif(not ENTRIES, reason="the folder of collected models is not here")


@cache
def examined(entry_path: Path) -> dict[str, object]:
    entry = next(e for e in ENTRIES if e.path == entry_path)
    return folders.examine(entry, seeds=range(1))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path.stem.split("__")[-1])
def test_pruned_equals_masked(entry: folders.Entry):
    row = examined(entry.path)
    assert ("refused" in row) == (not entry.runs)
    if entry.runs and not entry.nondeterministic:
        assert row["difference"] <= folders.TOLERANCE


def test_mean_reach():
    rows = [examined(entry.path) for entry in ENTRIES if entry.runs]
    reach = [row["reach"] for row in rows if row["convolutions"]]
    assert sum(reach) / len(reach) >= 0.9
