"""Processes for tests: of functions, forked from one that has imported the modules already; and of a copied repository."""

import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

from mae_helpers.profile.settings import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["mae_helpers.run.chapter", "mae_helpers.measures.alignment"])


def start(target, *arguments):
    """Call a function in a process of its own."""
    process = SERVER.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def ensure_running():
    """Start the process that the others are forked from, with what it imports."""
    multiprocessing.forkserver.ensure_running()


def copied(root):
    """A copy of the package in the folder `root`, with a folder for notebooks; the weights are linked."""
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(ROOT / "mae_helpers", root / "mae_helpers", ignore=ignored)
    (root / "mae_helpers" / "demo" / "weights").symlink_to(ROOT / "mae_helpers" / "demo" / "weights")
    (root / "notebooks").mkdir()
    return root


def python(root, *arguments, **environment):
    """Start Python where the copy in `root` is the package; an interrupt reaches it, whatever it means to the tests."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
