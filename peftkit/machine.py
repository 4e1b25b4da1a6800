"""What this machine is: its accelerator, memory, and the dtype that it computes fast in."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("peftkit", "torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "tokenizers")


NVIDIA = Path("/dev/nvidiactl")
"""There where a process can use a CUDA card under Linux; WSL, whose driver has no such segments, lacks it."""
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""What torch reads the settings of its allocator from: its own name, and the one from before torch 2.9."""


def let_segments_grow() -> None:
    """Let torch's allocator make its segments longer in place of taking new ones, which leaves fewer gaps.

    Torch reads this when it first asks a card for memory, so it has to be said before. A user's own settings stay.
    """
    if NVIDIA.exists() and not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Look for no cycles of objects meanwhile: it takes a fifth of the time where many objects are made and kept."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's result; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, Any]:
    """Return processor, cores, memory in bytes, accelerator, and platform."""
    import psutil

    gpu, gpu_memory = accelerator()
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory": psutil.virtual_memory().total,
        "gpu": gpu,
        "gpu_memory": gpu_memory,
        "python": platform.python_version(),
        "platform": platform.system(),
    }


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerator() -> tuple[str | None, int]:
    """Return the first CUDA device's name and memory in bytes; (None, 0) without one."""
    import torch

    if not torch.cuda.is_available():
        return None, 0
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory


def key() -> str:
    """Return what tells machines apart whose speed was measured: processor and cores, or GPU, and torch's version."""
    found = describe()
    where = found["gpu"] or f"{found['cpu']}, {found['cores']} cores"
    return f"{where}, torch {versions().get('torch')}"


def device() -> str:
    """Return the device that a run uses: `cuda` where there is one, else `cpu`."""
    return "cuda" if accelerator()[0] else "cpu"


def fast_dtype() -> str:
    """Return the dtype that this machine multiplies fastest in without loss of range.

    bfloat16 on GPUs that have it, on processors with AMX tiles, and on AMD's with AVX512-BF16; elsewhere float32.
    Measured with torch 2.13 on two cores: on an AMD EPYC (Zen 5) products of 512 x 576 x 1536 ran at 830 GFLOP/s in
    bfloat16 and at 200 in float32; on a Xeon with AVX512-BF16 but no AMX at 160 and 300.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    by_amd = torch.cpu._is_avx512_bf16_supported() and _cpu_maker() == "AuthenticAMD"
    return "bfloat16" if by_amd or torch.cpu._is_amx_tile_supported() else "float32"


def resident() -> int:
    """Return the bytes of this process that are in memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_resident() -> int:
    """Return the largest number of bytes of this process that were in memory at once, since it started."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


def peak_cuda() -> tuple[int, int] | None:
    """Return the peak of allocated and of reserved bytes on the accelerator; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def available_memory() -> int:
    """Return how many bytes of main memory can be had without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def reserved_cuda() -> int:
    """Return how many bytes of the first CUDA device torch holds in this process, used or not."""
    import torch

    return int(torch.cuda.memory_reserved(0))


def free_cuda() -> int:
    """Return how many bytes of the first CUDA device this process can have: free ones, and what its torch holds."""
    import torch

    return int(torch.cuda.mem_get_info(0)[0]) + reserved_cuda()


def trim() -> None:
    """Give memory that was freed back to the system: glibc keeps it for this process otherwise."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _cpu_name() -> str:
    return _cpu_says("model name") or platform.processor() or platform.machine()


def _cpu_maker() -> str:
    """Return the processor's own name of its maker, such as `AuthenticAMD`; Windows has it at the end of its name."""
    return _cpu_says("vendor_id") or platform.processor().rpartition(", ")[2]


def _cpu_says(key: str) -> str | None:
    """Return what Linux tells of the first core under a key; None where it tells nothing."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return None


def quiet_libraries() -> None:
    """Keep other libraries' progress bars, advice and start-up remarks off the screen; errors still come through."""
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    import transformers

    for name in ("bitsandbytes", "bitsandbytes.backends", "transformers", "trl", "peft", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
