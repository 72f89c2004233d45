"""The README's picture and scorecard are those of a run."""

import re

import pandas as pd
import yaml

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import readme
from mae_helpers.verdicts import scorecard as claims

README = (ROOT / "README.md").read_text()
BLOCK = readme.BLOCK.search(README)[0]


def test_the_readme_is_short():
    assert len(README.splitlines()) < 120


def test_the_picture_is_there():
    assert f"]({readme.PICTURE})" in README
    assert (ROOT / readme.PICTURE).read_text().lstrip().startswith("<?xml")
    assert (ROOT / readme.PICTURE).stat().st_size < 500_000


def test_the_scorecard_counts_every_claim_and_shows_ten_of_them():
    total, rest = re.search(r"Of (\d+) claims, on the demo: (.*)\. Ten", BLOCK).groups()
    counts = {verdict: int(number) for number, verdict in re.findall(r"(\d+) ([a-z ]+)", rest)}
    assert set(counts) <= set(claims.VERDICTS)
    assert sum(counts.values()) == int(total) == len(claims.CLAIMS)
    rows = [line.strip("| ").split(" | ") for line in BLOCK.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    known = {f"{entry['claim']} ({entry['where']})" for entry in claims.CLAIMS.values()}
    for said, here, verdict in rows:
        assert said in known
        assert re.search(r"\d", here)
        assert verdict in claims.VERDICTS


def test_an_update_writes_what_the_run_shows_and_nothing_else(tiny_run, tmp_path):
    card = pd.read_csv(tiny_run.tables / "scorecard.csv", keep_default_na=False)
    target, picture = tmp_path / "README.md", tmp_path / "overview.svg"
    target.write_text(README)
    readme.update(target, picture, tiny_run.executed, card)
    text = target.read_text()
    assert readme.BLOCK.sub("", text) == readme.BLOCK.sub("", README)
    first = card[card["id"] == "angles_grow"].iloc[0]
    assert f"| {first['claim']} ({first['where']}) | {first['here']} | {first['verdict']} |" in text
    assert "<svg" in picture.read_text()


def test_the_citation_file_is_whole():
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert about["references"][0]["url"] == "https://arxiv.org/abs/2602.03531"
