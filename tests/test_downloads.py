"""Downloads from a server of the tests' own: whole, resumed after a break, and refused with the reason."""

import hashlib
import http.server
import threading
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import TINY, make_vit
from safetensors.torch import save_file

from mae_helpers.encoder import downloads
from mae_helpers.encoder import weights as checkpoints
from mae_helpers.encoder.downloads import DownloadError, download, from_hub
from mae_helpers.encoder.weights import CheckpointError, load_model
from mae_helpers.profile.settings import load_profile

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def server():
    """A web server with one file, `/weights.pth`; `breaks` says after how many bytes its next answers stop."""
    state = SimpleNamespace(breaks=[], asked=[], resumes=True, status=None, content=CONTENT)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status:
                self.send_error(state.status)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.resumes else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            self.send_response(206 if wanted and state.resumes else 200)
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            stop = start + state.breaks.pop(0) if state.breaks else None
            self.wfile.write(state.content[start:stop])

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{listening.server_port}/weights.pth"
    yield state
    listening.shutdown()
    listening.server_close()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(
    ("breaks", "resumes", "asked"),
    [
        ([], True, [None]),
        ([1_000_000, 500_000], True, [None, "bytes=1000000-", "bytes=1500000-"]),
        ([1_000_000], False, [None, "bytes=1000000-"]),
    ],
    ids=["whole", "goes on where it stopped", "a server that cannot resume sends it all again"],
)
def test_a_file_is_fetched_once_however_often_the_connection_breaks(server, tmp_path, breaks, resumes, asked):
    server.breaks, server.resumes = breaks, resumes
    threads = [threading.Thread(target=download, args=(server.url, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == asked
    assert names_in(tmp_path) == ["weights.pth"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.breaks = [700_000, 0]
    with pytest.raises(DownloadError, match="connection closed after 700000 of 3000000 bytes"):
        download(server.url, tmp_path, tries=2)
    assert names_in(tmp_path) == ["weights.pth.part"]
    assert download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=700000-"


def test_a_part_of_another_longer_file_is_thrown_away(server, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 4_000_000)
    assert download(server.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_told_at_once(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=rf"weights\.pth: HTTP Error {status}.*put it where `checkpoint`"):
        download(server.url, tmp_path)
    assert len(server.asked) == 1


def test_no_server_and_no_address_of_one_are_told(tmp_path):
    with pytest.raises(DownloadError, match="put it where `checkpoint` in the profile says"):
        download("http://127.0.0.1:9/weights.pth", tmp_path, tries=2)
    secret = tmp_path / "secret"
    secret.write_text("x")
    with pytest.raises(DownloadError, match="only addresses that begin with http"):
        download(secret.as_uri(), tmp_path / "cache")


def test_no_room_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match=r"2 MB are missing, and .* has no room"):
        download(server.url, tmp_path)
    assert not names_in(tmp_path)


@pytest.fixture
def profile(tiny_profile, server, tmp_path, monkeypatch):
    """The tiny profile, its mae_pretrained behind an address instead of in a file, and a cache folder of the test's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    tiny = load_profile(tiny_profile())
    path = tmp_path / "weights" / "official.pth"
    torch.save({"model": make_vit(0, num_classes=0).state_dict()}, path)
    server.content = path.read_bytes()
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()
    missing = str(tmp_path / "weights" / "weights.pth")
    model = tiny.models["mae_pretrained"].model_copy(update={"checkpoint": missing, "url": server.url, "hash": digest})
    return tiny.model_copy(update={"models": {"mae_pretrained": model}})


def test_missing_weights_are_fetched_once_verified_and_their_identity_stays(profile, server, tmp_path):
    expected, model = make_vit(0, num_classes=0).state_dict(), profile.models["mae_pretrained"]
    for _ in range(2):
        assert checkpoints.identity(model) == model.hash
        loaded = load_model(profile, "mae_pretrained").state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert len(server.asked) == 1
    cached = tmp_path / "cache" / "checkpoints" / "weights.pth"
    cached.write_bytes(cached.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match=r"weights\.pth: sha256 is [0-9a-f]+, expected"):
        load_model(profile, "mae_pretrained")


def test_a_file_of_the_users_goes_before_a_download(profile, server, tmp_path):
    (tmp_path / "weights" / "weights.pth").write_bytes(server.content)
    load_model(profile, "mae_pretrained")
    assert not server.asked


def test_timms_own_weights_come_from_the_hub_and_are_held_against_their_name(tmp_path, monkeypatch, tiny_profile):
    """The hub's cache keeps a file under its SHA-256 and points to it from a name."""
    save_file(make_vit(0, num_classes=0).state_dict(), tmp_path / "blob")
    stored = (tmp_path / "blob").rename(tmp_path / hashlib.sha256((tmp_path / "blob").read_bytes()).hexdigest())
    link, asked = tmp_path / "model.safetensors", []
    link.symlink_to(stored)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *what: asked.append(what) or str(link))
    model = {"model": "vit_base_patch16_224.mae", "arguments": TINY | {"num_classes": 0}}
    profile = load_profile(tiny_profile(models={"mae_pretrained": model}))
    load_model(profile, "mae_pretrained")
    assert asked == [("timm/vit_base_patch16_224.mae", "model.safetensors")]
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="sha256 is"):
        load_model(profile, "mae_pretrained")


def test_what_the_hub_does_not_give_is_told(monkeypatch):
    with pytest.raises(DownloadError, match="timm has no weights of that name"):
        from_hub("vit_base_patch16_224.nobody")

    def fail(*_):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(DownloadError, match=r"OSError: no network; fetch its model.safetensors by other means"):
        from_hub("vit_base_patch16_224.mae")
