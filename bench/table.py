"""The rows of a report, and the report as JSON and Markdown."""

import json
from pathlib import Path

MARKS = {True: "met", False: "missed", None: ""}


def row(work: str, goal: str, measured: str, met: bool | None, **figures) -> dict:
    """A line of the table; met None: there was no goal, or nothing to measure it with. figures go to the JSON only."""
    print(f"{work}: {measured} (goal {goal})", flush=True)
    return {"work": work, "goal": goal, "measured": measured, "met": met, **figures}


def markdown(report: dict) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [f"{report['date']}; {machine}", "", "| work | goal | measured | |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['work']} | {r['goal']} | {r['measured']} | {MARKS[r['met']]} |" for r in report["rows"]]
    return "\n".join(lines)


def write(report: dict, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(report) + "\n", encoding="utf-8")
