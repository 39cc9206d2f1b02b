"""Running models: devices, sessions, concrete shapes and intermediate values.

Only this package knows onnxruntime. Everything that it reports is turned into one
sentence there, so that no other module has to know how it words its failures.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxmerge import limits
from onnxmerge.arguments import whole, word
from onnxmerge.errors import DeviceError, ModelError, OutputError
from onnxmerge.graph import external_weights
from onnxmerge.graph.edit import ADD, SHAPE
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.files import LoadedModel
from onnxmerge.runtime.messages import sentence
from onnxmerge.runtime.model_bytes import Model, Source, opened, patch, source_of, tensors
from onnxmerge.runtime.session import CPU, CUDA, Session, ort

DEVICES = ("auto", "cpu", "cuda")

# TF32 keeps 10 bits of mantissa: parity measured with it would be the parity of the rounding.
_CUDA_OPTIONS = {"use_tf32": "0"}
# Bytes of a model that leave something behind when they are loaded.
_WORTH_TRIMMING = 8 << 20
_FATAL_ONLY = 4  # every failure is raised as an exception too: logging it as well would say it twice


@dataclass(frozen=True)
class Runtime:
    """The device that sessions are built on, resolved once by ``create``.

    ``provider`` is onnxruntime's name of it, ``threads`` the intra-op thread count, and ``notes`` say why
    'auto' did not take the CUDA device that the installed onnxruntime was built for.
    """

    device: str
    provider: str
    threads: int
    notes: tuple[str, ...] = ()

    @classmethod
    def create(cls, device: str = "auto", threads: int | None = None) -> Runtime:
        """The runtime for 'auto', 'cpu' or 'cuda'; ``threads`` None takes the CPUs of this process.

        Raises:
            UsageError: other words or counts.
            DeviceError: 'cuda' does not work here.
        """
        word("device", device, DEVICES)
        count = _cpu_count() if threads is None else whole("threads", threads, 1)
        if device == "cpu":
            return cls("cpu", CPU, count)
        lacking = _cuda_lacks()
        if lacking is None:
            return cls("cuda", CUDA, count)
        if device == "cuda":
            raise DeviceError(f"CUDA was asked for and does not work here: {lacking}")
        built_for_cuda = CUDA in ort.get_available_providers()
        note = f"CUDA does not work here, so the CPU is used: {lacking}"
        return cls("cpu", CPU, count, (note,) if built_for_cuda else ())

    def session(self, model: Model | Source, *, optimize: bool = True, prepack: bool = True) -> Session:
        """Load a model: a proto, its bytes, or a path (needed for external data and above 2 GB).

        Args:
            optimize: whether the graph is optimised.
            prepack: whether weights are packed; sessions that run once need less memory and start-up without.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: it loads on another device than this runtime's.
        """
        source = model if isinstance(model, Source) else source_of(model)
        return self._load(source, optimize, prepack)

    def session_of(self, loaded: LoadedModel) -> Session:
        """A session of a model as it was read; as a user runs it, unless the model is large.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: it loads on another device than this runtime's.
        """
        return self._load(source_of(loaded.proto, in_place=loaded.large), True, True)

    def profile(self, model: Model, feed: Mapping[str, np.ndarray], runs: int = 20) -> dict[str, float]:
        """Median seconds of every kernel over some runs, by onnxruntime's name of it (after its fusions).

        Raises:
            ModelError: the model does not run on the feed.
        """
        source = source_of(model)
        scratch = Scratch()
        session = self._load(source, True, True, profile=str(scratch.path / "run"))
        for _ in range(runs):
            session.run(feed)
        try:
            events = json.loads(Path(session.end_profiling()).read_text())
        except (OSError, ValueError) as error:  # cut short where the disk is full
            raise OutputError(
                f"the profile of a run cannot be written into {scratch.path.parent} ({error}); "
                "the environment variable TMPDIR names another folder"
            ) from error
        times: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                times.setdefault(name, []).append(event["dur"] * 1e-6)
        return {name: float(np.median(values[len(values) // 4 :])) for name, values in times.items()}

    def trace(self, model: Model, feed: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        """The concrete shape of every tensor of the main graph for one feed, initializers included.

        Values that are not tensors (sequences, maps, optionals) are left out. Activations are not kept:
        a Shape node hangs on each, and only those vectors are fetched.

        Raises:
            ModelError: the model does not run on the feed.
        """
        proto, source = opened(model)
        shapes = {init.name: tuple(init.dims) for init in proto.graph.initializer}
        shapes |= {init.values.name: tuple(init.dims) for init in proto.graph.sparse_initializer}
        shapes |= {name: tuple(np.shape(value)) for name, value in feed.items()}
        taken = {name for node in proto.graph.node for name in (*node.input, *node.output, node.name)}
        prefix = "shape_of_"
        while any(name.startswith(prefix) for name in taken):
            prefix = "_" + prefix
        wanted = {f"{prefix}{i}": name for i, name in enumerate(tensors(proto.graph))}
        while wanted:
            nodes = [helper.make_node(SHAPE, [name], [key], name=key) for key, name in wanted.items()]
            try:
                session = self._load(source + patch(proto, nodes, list(wanted)), False, False)
                break
            except ModelError as failure:
                # Not every value that is no tensor shows by its operator; the type check names our node.
                culprits = [k for k in re.findall(rf"{prefix}\d+", str(failure.__cause__)) if k in wanted]
                if not culprits:
                    raise
                for key in culprits:
                    wanted.pop(key, None)
        else:
            return shapes
        vectors = session.run(feed, list(wanted))
        shapes |= {name: tuple(int(d) for d in vectors[key]) for key, name in wanted.items()}
        return shapes

    def values(
        self, model: Model, feed: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The values of these tensors of the main graph for one feed, without graph optimisation.

        Any tensor can be asked for: intermediate, input, initializer or output.

        Raises:
            ModelError: the model does not run on the feed.
        """
        proto, source = opened(model)
        constants = {init.name: init for init in proto.graph.initializer}
        found: dict[str, np.ndarray] = {name: np.asarray(feed[name]) for name in names if name in feed}
        for name in names:
            if name in constants and name not in found:
                found[name] = (
                    source.mapped[name]
                    if name in source.mapped
                    else (onnx.numpy_helper.to_array(constants[name], base_dir=source.folder or ""))
                )
        produced = {name for node in proto.graph.node for name in node.output if name}
        unknown = sorted(set(names) - produced - set(found))
        if unknown:
            raise ModelError(f"the model has no tensor named {unknown[0]!r}")
        listed = {output.name for output in proto.graph.output}
        fetched = list(dict.fromkeys(name for name in names if name not in found))
        if fetched:
            extra = patch(proto, [], [name for name in fetched if name not in listed])
            found |= self._load(source + extra, False, False).run(feed, fetched)
        return {name: found[name] for name in names}

    def _load(
        self,
        source: Source,
        optimize: bool,
        prepack: bool,
        profile: str | None = None,
    ) -> Session:
        options = ort.SessionOptions()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Idle workers of one session would otherwise spin on the cores while another one is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Packed weights would be a second copy, and an arena keeps what the largest batch took.
        if source.bytes_mapped >= limits.LIMITS.large_model:
            options.enable_cpu_mem_arena = False
        if not prepack or source.mapped:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if source.folder is not None:
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, source.folder)
        held = {name: _in_place(values) for name, values in source.mapped.items()}
        for name, value in held.items():
            options.add_initializer(name, value)
        providers = [(CUDA, _CUDA_OPTIONS), CPU] if self.provider == CUDA else [CPU]
        try:
            session = ort.InferenceSession(source.model, options, providers=providers, enable_fallback=0)
        except MemoryError:
            raise
        except Exception as failure:  # onnxruntime raises a dozen unrelated classes
            raise ModelError(f"onnxruntime cannot load the model: {sentence(failure)}") from failure
        if session.get_providers()[0] != self.provider:
            raise DeviceError(f"the session was built on {session.get_providers()[0]}, not {self.provider}")
        session.disable_fallback()
        if isinstance(source.model, bytes) and len(source.model) + source.bytes_mapped > _WORTH_TRIMMING:
            # Kept to load the model again on other providers, which is as much memory again.
            session._model_bytes = None
            # What loading needed besides is freed, and kept by the C library: more than the weights take.
            external_weights.trim()
        return Session(session, self.threads, held, arena=options.enable_cpu_mem_arena)


@functools.cache
def _cuda_lacks() -> str | None:
    """What keeps CUDA from working, or None if a session really ran on it."""
    if CUDA not in ort.get_available_providers():
        return 'this onnxruntime has no CUDA: pip uninstall onnxruntime, then pip install "onnxmerge[gpu]"'
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    libraries = Path(ort.__file__).parent / "capi"
    try:
        # Loading the provider by hand first: onnxruntime only logs which library it lacks.
        for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
            if (libraries / name).exists():
                ctypes.CDLL(str(libraries / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as failure:
        if "undefined symbol" not in str(failure):
            return f"{failure} (pip install 'onnxruntime-gpu[cuda,cudnn]' brings the CUDA libraries)"
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node(ADD, ["x", "x"], ["y"])], "probe", [value], [result])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    try:
        session = Runtime("cuda", CUDA, 1).session(probe)
        session.run({"x": np.zeros(1, np.float32)})
    except (ModelError, DeviceError) as failure:
        return f"{failure} (check the driver with nvidia-smi)"
    return None


def _cpu_count() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _in_place(values: np.ndarray) -> ort.OrtValue:
    """An array as onnxruntime's, without a copy."""
    if values.dtype.kind == "f" and values.dtype.name != "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy(values)
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    plain = values.view(np.uint16) if values.dtype.name == "bfloat16" else values
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, kind)
