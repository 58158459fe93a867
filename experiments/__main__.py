"""Studies, each ending in a Markdown table, a JSON file and, but for the last, a plot.

    python -m experiments ablate           rank x targets x learning rate of LoRA, at equal steps (42 runs)
    python -m experiments compare          LoRA against full fine-tuning, each at its best of three rates (6 runs)
    python -m experiments recipe           what each part of train.py's recipe is worth, three seeds (18 runs)
    python -m experiments teach            how the shipped adapter was made: two models, and one taught by both (3 runs)
    python -m experiments sweep            a Bayesian search of hyper-parameters (25 runs; needs optuna)
    python -m experiments padding          static, dynamic and like-length batches
    python -m experiments before-after     the same questions before and after fine-tuning
    python -m experiments decoding         greedy, top-k, nucleus, temperature, on a run of train_gpt.py
    python -m experiments pointing         the same questions answered by pointing and by writing

A run of MiniLM on 4,000 questions takes 2 minutes per epoch on 2 CPU cores; with fewer it learns next to nothing.

The first five consist of runs of train.py. Whatever is chosen is chosen on articles held out of the train file, and
the dev file is scored once per row. After an interruption the same command continues where it was. The others take
minutes and start again. ablate and padding take --gpt: GPT-2 instead of BERT. NAME --help lists the options.
"""

import importlib
import sys

import minirun

NAMES = ("ablate", "compare", "recipe", "teach", "sweep", "padding", "before-after", "decoding", "pointing")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if len(sys.argv) > 1 else 2
    if sys.argv[1] not in NAMES:
        raise ValueError(f"no experiment is called {sys.argv[1]!r}, there are {', '.join(NAMES)}")
    return importlib.import_module(f"experiments.{sys.argv[1].replace('-', '_')}").main(sys.argv[2:])


if __name__ == "__main__":
    minirun.run_command(main, "experiments")
