"""The terminal's view of running chapters."""

import time
from concurrent.futures import ThreadPoolExecutor

from mae_helpers.run.display import Display, clock, last_line


def test_a_chapter_that_ends_has_a_line_and_one_that_fails_says_so(capsys, tmp_path):
    display = Display()

    def chapter(title, result):
        with display.following(title, tmp_path / "progress"):
            assert title in display.running
            return 1 / result

    with ThreadPoolExecutor(2) as pool:
        display.wait([pool.submit(chapter, *each) for each in (("01_small", 1), ("02", 0))])
    assert not display.running
    told = capsys.readouterr().err
    assert "01_small  done  0:00" in told
    assert "02  failed" in told


def test_clock():
    assert clock(time.monotonic() - 125.9) == "2:05"


def test_a_terminal_has_one_line_of_what_is_running(capsys, tmp_path):
    display = Display()
    display.live = True
    (tmp_path / "progress").write_text("blur 3/9")

    def chapter(title, file):
        with display.following(title, file):
            time.sleep(0.8)

    with ThreadPoolExecutor(2) as pool:
        display.wait([pool.submit(chapter, *each) for each in (("01", tmp_path / "progress"), ("02", tmp_path / "no"))])
    first, *rest = capsys.readouterr().err.split("\r\033[K")[1:]
    assert first == "01 blur 3/9 0:00  |  02 starting 0:00"
    assert sorted(rest) == ["01  done  0:00\n", "02  done  0:00\n"]


def test_what_the_book_does_is_the_last_line_of_its_log(tmp_path):
    log = tmp_path / "book.log"
    assert last_line(log) == "starting"
    log.write_text("Running\n\x1b[01mreading sources... \x1b[39;49;00m[ 50%] \x1b[35mnotebooks/05\x1b[39;49;00m\n\n")
    assert last_line(log) == "reading sources... [ 50%] notebooks/05"
    log.write_text("x" * 200)
    assert last_line(log) == "x" * 60
