"""Sends a folder as a modality or PACS would, with a program that is not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy.demo.processes import DemoError


def send_folder(folder: Path, *, ae_title: str, port: int, dcmsend: str | None) -> str:
    """C-STORE every ``*.dcm`` below ``folder`` to loopback; the name of the program that did it. Raises DemoError.

    dcmsend  path of DCMTK's program; None for pynetdicom's
    """
    if dcmsend is not None:
        name = "dcmsend (DCMTK)"
        command = [dcmsend, "-aet", "DEMOMODALITY", "-aec", ae_title, "--decompress-never"]
        command += ["+sd", "+r", "+sp", "*.dcm", "127.0.0.1", str(port), str(folder)]
    else:
        name = "pynetdicom's storescu"
        command = [sys.executable, "-m", "pynetdicom", "storescu", "127.0.0.1", str(port), str(folder)]
        command += ["-r", "-cx", "-aet", "DEMOMODALITY", "-aec", ae_title]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    output = (done.stdout + done.stderr).strip()
    if done.returncode != 0 or "E: Store failed" in output:
        raise DemoError(f"{name} could not send {folder} (exit code {done.returncode}):\n{output[-2000:]}")
    return name
