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

from mae_helpers.encoder.downloads import download, from_hub
from mae_helpers.encoder.weights import CheckpointError, identity, load_model
from mae_helpers.profile.settings import load_profile

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that PyTorch keeps checkpoints in."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def server():
    """A web server with one file, `/weights.pth`; `breaks` says after how many bytes its next answers stop."""
    state = SimpleNamespace(breaks=[], asked=[], resumes=True, status=None, content=CONTENT, more=0)

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
            self.send_header("Content-Length", str(len(state.content) - start + state.more))
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
def test_a_file_is_fetched_once_however_often_the_connection_breaks(server, cache, breaks, resumes, asked):
    server.breaks, server.resumes = breaks, resumes
    threads = [threading.Thread(target=download, args=(server.url,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert download(server.url).read_bytes() == CONTENT
    assert server.asked == asked
    assert names_in(cache) == ["weights.pth"]


@pytest.mark.parametrize(
    ("part", "asked"),
    [(CONTENT[:700_000], ["bytes=700000-"]), (b"x" * 4_000_000, ["bytes=4000000-", None])],
    ids=["goes on where an earlier run gave up", "a part of another longer file is thrown away"],
)
def test_what_an_earlier_run_left_is_used_where_it_can_be(server, cache, part, asked):
    (cache / "weights.pth.part").write_bytes(part)
    assert download(server.url).read_bytes() == CONTENT
    assert server.asked == asked


@pytest.mark.parametrize(
    ("trouble", "told", "asked", "left"),
    [
        ({"status": 403}, "HTTP Error 403.*put it where `checkpoint` in the profile says", 1, []),
        ({"status": 404}, "HTTP Error 404.*put it where `checkpoint` in the profile says", 1, []),
        ({"more": 2**60}, r"1\d{12} MB are missing, and .*checkpoints has no room", 1, []),
        ({"breaks": [700_000, 0]}, "connection closed after 700000 of 3000000 bytes", 2, ["weights.pth.part"]),
        ({"url": "http://127.0.0.1:9/weights.pth"}, "put it where `checkpoint` in the profile says", 0, []),
    ],
    ids=["forbidden", "not there", "no room", "broken again and again", "no server"],
)
def test_what_cannot_be_fetched_is_told(server, cache, trouble, told, asked, left):
    vars(server).update(trouble)
    with pytest.raises(CheckpointError, match=rf"weights\.pth: .*{told}"):
        download(server.url, tries=2)
    assert len(server.asked) == asked
    assert names_in(cache) == left


@pytest.fixture
def profile(tiny_profile, server, cache, tmp_path):
    """The tiny profile, its mae_pretrained behind an address instead of in a file."""
    tiny = load_profile(tiny_profile())
    path = tmp_path / "weights" / "official.pth"
    torch.save({"model": make_vit(0, num_classes=0).state_dict()}, path)
    server.content = path.read_bytes()
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()
    missing = str(tmp_path / "weights" / "weights.pth")
    model = tiny.models["mae_pretrained"].model_copy(update={"checkpoint": missing, "url": server.url, "hash": digest})
    return tiny.model_copy(update={"models": {"mae_pretrained": model}})


def test_missing_weights_are_fetched_once_verified_and_their_identity_stays(profile, server, cache):
    expected, model = make_vit(0, num_classes=0).state_dict(), profile.models["mae_pretrained"]
    for _ in range(2):
        assert identity(model) == model.hash
        loaded = load_model(profile, "mae_pretrained").state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert len(server.asked) == 1
    cached = cache / "weights.pth"
    cached.write_bytes(cached.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match=r"weights\.pth: sha256 is [0-9a-f]+, expected"):
        load_model(profile, "mae_pretrained")


def test_a_file_of_the_users_goes_before_a_download(profile, server, tmp_path):
    (tmp_path / "weights" / "weights.pth").write_bytes(server.content)
    load_model(profile, "mae_pretrained")
    assert not server.asked


@pytest.fixture
def hub(monkeypatch):
    """In place of the Hugging Face hub: it gives one `file`, or has no network where that is None."""
    state = SimpleNamespace(asked=[], file=None)

    def give(*what):
        state.asked.append(what)
        if state.file is None:
            raise OSError("no network")
        return str(state.file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    return state


def test_timms_own_weights_come_from_the_hub_and_are_held_against_their_name(tmp_path, hub, tiny_profile):
    """The hub's cache keeps a file under its SHA-256 and points to it from a name."""
    save_file(make_vit(0, num_classes=0).state_dict(), tmp_path / "blob")
    stored = (tmp_path / "blob").rename(tmp_path / hashlib.sha256((tmp_path / "blob").read_bytes()).hexdigest())
    hub.file = tmp_path / "model.safetensors"
    hub.file.symlink_to(stored)
    model = {"model": "vit_base_patch16_224.mae", "arguments": TINY | {"num_classes": 0}}
    profile = load_profile(tiny_profile(models={"mae_pretrained": model}))
    load_model(profile, "mae_pretrained")
    assert hub.asked == [("timm/vit_base_patch16_224.mae", "model.safetensors")]
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="sha256 is"):
        load_model(profile, "mae_pretrained")


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("nobody", "timm has no weights of that name"),
        ("mae", r"OSError: no network; fetch its model.safetensors by other means"),
    ],
)
def test_what_the_hub_does_not_give_is_told(hub, tag, told):
    with pytest.raises(CheckpointError, match=told):
        from_hub(f"vit_base_patch16_224.{tag}")
