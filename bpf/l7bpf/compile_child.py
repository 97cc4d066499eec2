# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the datapath, pins the programs, and exits: LLVM's 100 MB leave with it.

Run by the system's interpreter, which has bcc, with the standard library only: it may import nothing of this project.
A job comes as JSON on standard input, the result goes as JSON to standard output. Failure verdict: nothing is replaced;
the result names the error.

Programs are pinned under a name of this process and renamed over the old ones only when every one of them was accepted.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Loads every program of the job, then pins them all."""
    os.environ["BCC_KERNEL_SOURCE"] = job["kernel_source"]
    from bcc import BPF, lib  # noqa: PLC0415 - reads its environment when imported

    try:
        bpf = BPF(text=job["source"], cflags=job["cflags"])
    except Exception as error:  # noqa: BLE001 - bcc raises plain Exception; whatever it is goes to the parent
        return {"error": str(error), "stage": "compile"}
    loaded: dict[str, tuple[int, int]] = {}
    for name, (kind, attach_type) in job["programs"].items():
        try:
            function = bpf.load_func(name, kind, attach_type=attach_type)
        except Exception as error:  # noqa: BLE001
            return {"error": str(error), "stage": "load", "program": name}
        loaded[name] = (function.fd, len(bpf.dump_func(name)) // 8)
    folder = Path(job["folder"])
    temporary: dict[str, Path] = {}
    try:
        for name, (fd, _) in loaded.items():
            path = folder / f"{name}_{os.getpid()}"
            if lib.bpf_obj_pin(fd, bytes(path)) < 0:
                return {"error": f"cannot pin {path}", "stage": "pin", "program": name}
            temporary[name] = path
        for name in list(temporary):
            temporary.pop(name).rename(folder / name)
    except OSError as error:
        return {"error": str(error), "stage": "pin"}
    finally:
        for path in temporary.values():
            path.unlink()
    return {"instructions": {name: count for name, (_, count) in loaded.items()}}


if __name__ == "__main__":
    result = run(json.load(sys.stdin))
    json.dump(result, sys.stdout)
    sys.exit(1 if "error" in result else 0)
