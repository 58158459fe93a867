"""A wheel built from this tree, installed where the repository is not: what it brings, and that answering works."""

import json
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile

import pytest
from helpers import OFFLINE, ROOT

pytest.importorskip("setuptools", reason="needs setuptools to build a wheel without network")
QUESTION, CONTEXT = "Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."
NOT_COPIED = (".*", "*.egg-info", "__pycache__", "build", "runs", "venv", "tests", "docs", "bench")


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*NOT_COPIED))
    settings = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *settings, "--wheel-dir", folder, folder / "tree")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory, has_minilm):
    """The bin folder of a virtual environment with the wheel, which finds this one's libraries but not its minibert."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A path file inside a folder that a path file names is not read: an editable install there stays unseen.
    (venv / packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    return venv / "bin"


def test_the_wheel_holds_our_packages_with_their_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"minihub", "minirun", "minibert", "minigpt", "lora", "squad"}
    data = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    adapter = ("README.md", "adapter_config.json", "adapter_model.safetensors", "qa.json")
    assert data == {"minibert/qa/page.html", "squad/report/report.html", *(f"minibert/qa/adapter/{n}" for n in adapter)}
    sources = {str(path.relative_to(ROOT)) for package in top for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_a_reader_answers_from_an_empty_folder(installed, tmp_path):
    code = (
        "import minibert; print(minibert.__file__)\n"
        "from minibert.qa import load_reader\n"
        f"print(load_reader()({QUESTION!r}, {CONTEXT!r})['answer'])"
    )
    where, answer = run(installed / "python", "-c", code, cwd=tmp_path, env=OFFLINE).splitlines()
    assert where.startswith(str(installed.parent))
    assert answer == "Leonardo da Vinci"
    assert list(tmp_path.iterdir()) == []


def test_the_command_serves_the_page(installed, tmp_path):
    command = [installed / "minibert", "--serve", "--port", "0"]
    server = subprocess.Popen(command, cwd=tmp_path, env=OFFLINE, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"<title>Ask a text</title>" in page.read()
        body = json.dumps({"question": QUESTION, "context": CONTEXT}).encode()
        request = urllib.request.Request(f"{address}/answer", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.loads(reply.read())["answer"] == "Leonardo da Vinci"
    finally:
        server.terminate()
        server.communicate(timeout=30)
