"""Fresh processes for tests, forked from one that has imported the modules already: a start takes no seconds."""

import multiprocessing
import multiprocessing.forkserver

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["mae_helpers.run.chapter", "mae_helpers.measures"])


def start(target, *arguments):
    """Call a function in a process of its own."""
    process = SERVER.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def ensure_running():
    """Start the process that the others are forked from, with what it imports."""
    multiprocessing.forkserver.ensure_running()
