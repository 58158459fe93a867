"""What test_interruptions.py starts: train.py, which kills itself at one of its operations on files.

python kill_script.py N train.py's arguments...      N: the operation before which it dies, counted from 1; 0: none
"""

import os
import signal
import sys

from helpers import train

import minirun

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


# These bring a file to the disk and rename it: death may come before, between and after them.
os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
minirun.run_command(lambda: train.main(arguments))
