"""What the tests start under torchrun: train.py, where one process can be made to fail or to get a signal.

python parallel_script.py {plain,signal,fail} STEP train.py's arguments...
"""

import os
import signal
import sys
from pathlib import Path

from helpers import train

import minirun

what, at, *arguments = sys.argv[1:]
original, taken = train.training_step, []


def training_step(*args):
    taken.append(1)
    if len(taken) == int(at) and os.environ["RANK"] == "1":
        if what == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "fail":
            raise OSError("the disk of this machine is gone")
    return original(*args)


train.training_step = training_step
try:
    minirun.run_command(lambda: train.main(arguments))
finally:
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    left = f"gloo's threads left: {sum('gloo' in name for name in threads)}\n"
    os.write(1, left.encode())  # in one piece: print's two could lie on both sides of the other process's
