"""What test_interruptions.py starts: train.py, killed by itself at one of its operations on files.

python kill_script.py N train.py's arguments...      N: the operation before which it dies, counted from 1; 0: none
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import minibert
import train

at, *arguments = sys.argv[1:]
count = 0


def deadly(operation):
    def counted(*args):
        global count
        count += 1
        if count == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*args)

    return counted


# what brings a file to the disk and under its name: death may come before, between and after them
os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
minibert.run_command(lambda: train.main(arguments))
