"""Open hostile files under limits, and write down how each ended: `python refuse.py JOB.json`.

The job: `what` to do, `cases` (name and path), `out` and the most `bytes` of memory that may be asked for. Whatever is
imported, run, unpickled, connected to or written outside the folder of the job is written down too.
"""

import contextlib
import json
import resource
import sys
import time
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
HOME = str(Path(sys.argv[1]).parent)
RUNS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
    "ctypes.dlopen",
)
seen: list[str] = []


def watch(event: str, arguments: tuple) -> None:
    if event in RUNS or (event == "import" and "evil" in str(arguments[0])):
        seen.append(f"{event} {arguments[0]}")
    elif event == "open":
        path, mode = str(arguments[0]), str(arguments[1] or "")
        if set(mode) & set("wax+") and not path.startswith((HOME, "/dev/null")):
            seen.append(f"{event} {path} {mode}")


def peak() -> int:
    """Most bytes that this process held. `ru_maxrss` would begin with what its parent held when it started this one."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def unpack(path: Path) -> None:
    from peftkit.share.unpack import unpack as unpack_adapter

    unpack_adapter(path, path.parent / "out")


def settings(path: Path) -> None:
    from peftkit.adapter.peft_file import read_peft_settings

    read_peft_settings(path)


def weights(path: Path) -> None:
    from peftkit.model.weight_files import read_weight_file

    read_weight_file(path)


def adapter(path: Path) -> None:
    from peftkit.adapter.attach import read_files

    read_files(path)


def mutant(path: Path) -> None:
    """Read an adapter whose weights have a changed header; the path ends in the seed of the change."""
    from hostile_headers import mutated

    folder = Path(HOME) / "mutant"
    (folder / "adapter_model.safetensors").write_bytes(mutated(int(path.name)))
    adapter(folder)


do = {one.__name__: one for one in (unpack, settings, weights, adapter, mutant)}[job["what"]]
from peftkit.errors import PeftkitError  # noqa: E402 - what is imported for the first time is no part of the cases

for warm_up in job["first"]:
    with contextlib.suppress(PeftkitError):
        do(Path(warm_up))
resource.setrlimit(resource.RLIMIT_AS, (job["bytes"], job["bytes"]))
resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
sys.addaudithook(watch)
ended = {}
for name, path in job["cases"]:
    started, before = time.perf_counter(), len(seen)
    try:
        do(Path(path))
        kind, message = None, ""
    except PeftkitError as error:
        kind, message = type(error).__name__, str(error)
    except BaseException as error:
        kind, message = f"crash: {type(error).__name__}", str(error)
    ended[name] = {
        "error": kind,
        "message": message,
        "seconds": time.perf_counter() - started,
        "peak": peak(),
        "ran": seen[before:],
    }
Path(job["out"]).write_text(json.dumps(ended), encoding="utf-8")
