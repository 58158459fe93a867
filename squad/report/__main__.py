"""python -m squad.report RUN"""

from pathlib import Path

import squad.report
from minihub import atomic_write
from minirun import Parser, run_command
from squad.report.files import read_run
from squad.report.page import make_page, windows_per_question


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m squad.report", description=squad.report.__doc__)
    parser.add_argument("run", help="folder of a run of train.py, or the evaluation folder in it")
    parser.add_argument("--dev", metavar="FILE", help="the SQuAD file evaluated on (the one that the run names)")
    parser.add_argument("--tokenizer", metavar="NAME", help="the run's tokenizer.json, or its folder (the run's model)")
    parser.add_argument("--output", metavar="FILE", help="where the page is written (RUN/report.html)")
    options = parser.parse_args(argv)
    run = read_run(options.run, options.dev)
    page = make_page(run, windows_per_question(run.examples, run.config, options.tokenizer))
    output = Path(options.output or Path(options.run) / "report.html")
    with atomic_write(output.parent, ".part-report") as part:  # the run may be writing there too
        (part / output.name).write_text(page, encoding="utf-8", errors="replace", newline="\n")
    print(output)
    return 0


if __name__ == "__main__":
    run_command(main, "squad.report")
