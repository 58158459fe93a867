"""The rows of a report, and the report as JSON and Markdown."""

from pathlib import Path

from minihub import write_json

MARKS = {True: "met", False: "missed", None: ""}


def row(work: str, goal: str, measured: str, met: bool | None, **figures) -> dict:
    """A line of the table. met: None without a goal or a measurement. figures: for the JSON only."""
    print(f"{work}: {measured} (goal {goal})", flush=True)
    return {"work": work, "goal": goal, "measured": measured, "met": met, **figures}


def markdown(report: dict) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    dates = sorted({part["date"] for part in report["parts"].values()})
    lines = [f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {machine}", ""]
    lines += ["| work | goal | measured | |", "| --- | --- | --- | --- |"]
    for part in report["parts"].values():
        lines += [f"| {r['work']} | {r['goal']} | {r['measured']} | {MARKS[r['met']]} |" for r in part["rows"]]
    return "\n".join(lines)


def write(report: dict, file: Path) -> None:
    """Write JSON to `file` and Markdown beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, report)
    file.with_suffix(".md").write_text(markdown(report) + "\n", encoding="utf-8")
