"""What is left behind when a run ends otherwise than it wanted to; and what it says meanwhile.

`tools/robustness.py` does the same to whole runs, at random moments.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import onnx
import pytest
import support
from rich.console import Console

from onnxmerge.cli import completion, main
from onnxmerge.cli.progress import EVERY, Pace, shown
from onnxmerge.cli.terminal import Terminal
from onnxmerge.errors import OutputError
from onnxmerge.graph import leftovers
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.output import atomic_write
from onnxmerge.progress import Clock, duration
from onnxmerge.runtime import Runtime
from onnxmerge.runtime.session import Session

NET = """g (float[N,6] x) => (float[N,3] y) <float[6,8] v, float[8,3] w> {
    h = MatMul(x, v)
    r = Relu(h)
    y = MatMul(r, w)
}"""
NEEDS_BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
FAST = ("--ratio", "0.25", "--criterion", "l1", "--compensation", "none", "--threads", "1")
# What a signal ends: a verb that waits, in a process of its own.
WAITS = """
import sys, time
from importlib import import_module
from onnxmerge.graph.external_weights import Scratch

def wait(options):
    scratch = Scratch()
    print(scratch.path, flush=True)
    time.sleep(60)

program = import_module("onnxmerge.cli.main")
program.VERBS["inspect"] = (program.VERBS["inspect"][0], wait)
sys.argv = ["onnxmerge", "inspect", "x"]
program.run()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.onnx"
    onnx.save(support.model(NET), path)
    return path


# --- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, code, words",
    [
        ("SIGTERM", 143, "terminated"),
        pytest.param("SIGINT", 130, "interrupted", marks=support.interruptible),
        ("SIGKILL", -9, ""),
    ],
)
def test_signals_end_a_run_and_the_next_one_clears_up(name, code, words, temporary):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    scratch = Path(process.stdout.readline().strip())
    assert scratch.parent == temporary and scratch.is_dir()
    leftovers.remove_folders()
    assert scratch.is_dir(), "a living process keeps its folder"
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and words in errors and "Traceback" not in errors
    assert scratch.is_dir() == (name == "SIGKILL")
    leftovers.remove_folders()
    assert [p.name for p in temporary.iterdir() if p.name != ".ses"] == []


def test_an_interruption_after_writing_does_not_say_that_nothing_was_written(
    source, tmp_path, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Terminal, "summary", interrupted)
    out = tmp_path / "out.onnx"
    assert main([str(source), str(out), *FAST]) == 0
    message = capsys.readouterr().err
    assert f"{out} was written" in message and "nothing was written" not in message
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_an_interruption_at_the_last_moment_comes_too_late(source, tmp_path, monkeypatch, capsys):
    replace = os.replace

    def replaced(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxmerge.graph.output.os.replace", replaced)
    assert main([str(source), str(tmp_path / "out.onnx"), *FAST]) == 0
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


def test_an_interruption_before_writing_leaves_nothing(source, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxmerge.graph.output.os.fsync", interrupted)
    assert main([str(source), str(tmp_path / "out.onnx"), *FAST]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in.onnx"]


@NEEDS_BASH
def test_a_reader_that_goes_away_is_no_defect(tmp_path, monkeypatch, capsys):
    def gone(*_):
        raise BrokenPipeError

    program = import_module("onnxmerge.cli.main")
    monkeypatch.setitem(program.VERBS, "inspect", (program.VERBS["inspect"][0], gone))
    monkeypatch.setattr(program, "silence_stdout", lambda: None)
    assert main(["inspect", "x"]) == 141
    assert capsys.readouterr().err == ""
    piped = "set -o pipefail; {} | true".format(f"{sys.executable} -m onnxmerge --help-all")
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141) and done.stderr == ""


# --- leftovers ----------------------------------------------------------------------------------------


def abandoned(folder: Path, name: str, *, marked: bool = True) -> Path:
    path = folder / name
    path.mkdir()
    (path / "0.bin").write_bytes(b"weights")
    if marked:
        (path / ".onnxmerge-scratch").touch()
    return path


def test_only_what_nobody_uses_and_this_program_made_is_removed(temporary):
    dead = abandoned(temporary, "onnxmerge-abc")
    theirs = abandoned(temporary, "onnxmerge-data", marked=False)
    elsewhere = abandoned(temporary, "other-abc")
    (temporary / "onnxmerge-link").symlink_to(elsewhere)
    scratch = Scratch()
    leftovers.remove_folders()
    assert not dead.exists()
    assert theirs.is_dir() and elsewhere.is_dir() and scratch.path.is_dir()
    path = scratch.path
    del scratch
    assert not path.exists()


def test_what_was_begun_of_a_file_goes_when_it_is_written_again(tmp_path):
    target = tmp_path / "out.onnx"
    (tmp_path / ".out.onnx.abc.part").write_bytes(b"half")
    (tmp_path / ".other.onnx.abc.part").write_bytes(b"half")
    with atomic_write(target) as first, atomic_write(target) as second:
        first.write_text("one")
        second.write_text("two")
        assert first.exists() and second.exists(), "a run that is at work keeps its part"
    assert target.read_text() == "one"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.onnx.abc.part", "out.onnx"]


def test_a_part_that_was_taken_for_a_leftover_is_made_anew(tmp_path, monkeypatch):
    lock, calls = leftovers.lock, []

    def raced(path):
        calls.append(path)
        if len(calls) == 1:
            path.unlink()
        return lock(path)

    monkeypatch.setattr(leftovers, "lock", raced)
    with atomic_write(tmp_path / "out") as part:
        part.write_text("whole")
    assert (tmp_path / "out").read_text() == "whole" and len(calls) == 2


def test_a_profile_that_the_disk_cut_short_is_told(temporary, tmp_path, monkeypatch):
    cut = tmp_path / "run.json"
    cut.write_text('[{"cat": "No')
    end = Session.end_profiling
    monkeypatch.setattr(Session, "end_profiling", lambda self: str(cut) if end(self) else "")
    feed = {"x": support.np.zeros((1, 6), "float32")}
    with pytest.raises(OutputError, match="TMPDIR"):
        Runtime.create("cpu", 1).profile(support.model(NET), feed, runs=1)
    assert list(temporary.iterdir()) == []


def test_temporary_files_without_a_place(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(OutputError, match="TMPDIR"):
        Scratch()


# --- progress -----------------------------------------------------------------------------------------


def test_time_left_is_told_from_what_is_done():
    seconds = [0.0]
    pace = Pace(lambda: seconds[0])

    def left(at: float, stage: str, done: int, total: int) -> float | None:
        seconds[0] = at
        return pace.left(stage, done, total)

    assert left(0, "search", 0, 10) is None and left(5, "search", 1, 10) == 45
    assert pace.announcement("search", 45) == "search will take about 45 s more"
    assert pace.announcement("search", 45) is None, "once is enough"
    assert left(10, "search", 5, 10) == 10 and left(20, "search", 10, 10) is None
    assert left(30, "parity", 3, 4) is None and left(31, "parity", 4, 8) == 4
    assert left(40, "parity", 0, 4) is None, "it begins again"
    assert pace.announcement("parity", 4) is None
    assert [duration(s) for s in (0.2, 89, 100, 6000)] == ["1 s", "89 s", "2 min", "1.7 h"]


def test_what_is_done_within_a_step_counts():
    told = []
    clock = Clock(lambda *step: told.append(step))
    with clock.portion("search", 1, 3, 5):
        clock.step("reconstruct", 1, 4)
        clock.step("reconstruct", 4, 4)
        clock.step("parity", 0, 4)
    assert told == [("search", 100, 500), ("search", 150, 500), ("search", 300, 500), ("search", 300, 500)]


def test_logs_get_plain_lines_now_and_then(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("onnxmerge.cli.progress.time.monotonic", lambda: seconds[0])
    file = io.StringIO()
    with shown(Console(file=file)) as show:
        for done in range(40):
            seconds[0] += EVERY / 10
            show("statistics", done, 100)
    lines = file.getvalue().splitlines()
    assert len(lines) in (4, 5) and not re.search(r"[\x00-\x09\x0b-\x1f]", file.getvalue())
    assert re.fullmatch(r"onnxmerge: statistics \d+% after \d+ s, about \d+ (s|min) left of it", lines[-1])


# --- completion ---------------------------------------------------------------------------------------


@NEEDS_BASH
def test_bash_completes_verbs_options_and_files(tmp_path, capsys):
    pytest.importorskip("shtab")
    script = tmp_path / "completion.bash"
    script.write_text(completion.script("bash"))
    (tmp_path / "model.onnx").touch()

    def offered(*words: str) -> set[str]:
        listed = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {script}; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _shtab_onnxmerge; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
        return set(done.stdout.split())

    assert {"compare"} == offered("onnxmerge", "comp")
    assert "--max-change" in offered("onnxmerge", "compare", "--max")
    assert {"--macs"} == offered("onnxmerge", "--mac")
    assert "model.onnx" in offered("onnxmerge", "--calib", "mod")
    assert main(["--print-completion", "dos"]) == 2
    assert "not for dos" in capsys.readouterr().err


def test_completion_without_shtab_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert 'pip install "onnxmerge[completion]"' in capsys.readouterr().err
