"""The mutation fuzzer in a process of its own, where a hang or a crash of a library is no harm."""

import subprocess
import sys
from pathlib import Path


def test_mutated_files_load_or_are_refused(long):
    command = [sys.executable, str(Path(__file__).parent / "fuzz.py"), "--count", "10000" if long else "500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failures, " in done.stdout.splitlines()[-1]
    loaded = [line for line in done.stdout.splitlines() if " loaded " in line]
    assert len(loaded) >= 5  # it does not only refuse
