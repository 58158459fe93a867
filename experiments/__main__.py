"""Studies, each ending in a Markdown table, a JSON file and a plot.

    python -m experiments ablate           rank x targets x learning rate of LoRA, at equal steps (42 runs)
    python -m experiments compare          LoRA against full fine-tuning, each at its best of three rates (6 runs)
    python -m experiments sweep            a Bayesian search of hyper-parameters (25 runs; needs optuna)
    python -m experiments padding          static, dynamic and like-length batches
    python -m experiments before-after     the same questions before and after fine-tuning

A run on MiniLM takes 2 minutes on 2 CPU cores, for 4,000 questions once; fewer teach it next to nothing.

The first three are made of train.py's runs: what is chosen is chosen on a part of the train file, whole articles held
out of training; the dev file is scored once a row; and when one is stopped, the same command goes on where it was. The
other two take minutes and begin anew. NAME --help lists the options.
"""

import importlib
import sys

import minibert

NAMES = ("ablate", "compare", "sweep", "padding", "before-after")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if len(sys.argv) > 1 else 2
    if sys.argv[1] not in NAMES:
        raise ValueError(f"no experiment is called {sys.argv[1]!r}, there are {', '.join(NAMES)}")
    return importlib.import_module(f"experiments.{sys.argv[1].replace('-', '_')}").main(sys.argv[2:])


if __name__ == "__main__":
    sys.argv[0] = "experiments"
    minibert.run_command(main)
