"""The tables of a run: complete, in the published order, whole or not at all, with what made them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mae_helpers import results
from mae_helpers.profiles import ROOT, load_profile

NAME = "masking_invariance"


def table(**more):
    columns = {"cosine_to_mean": [0.5, 0.25], "norm": [2.5, 3.25], "mask": [1, 2], "image": ["a", "a"]}
    return pd.DataFrame(columns | {"model": "mae_pretrained"} | more)


def test_a_table_is_written_in_the_published_order_and_read_back(tmp_path):
    path = results.save_table(table(), NAME, tmp_path / "demo")
    assert path == tmp_path / "demo" / "masking_invariance.csv"
    assert path.read_text().splitlines()[0] == "model,image,mask,norm,cosine_to_mean"
    pd.testing.assert_frame_equal(results.read_table(NAME, tmp_path / "demo"), table()[results.COLUMNS[NAME]])


def test_further_columns_come_last(tmp_path):
    path = results.save_table(table(draw=7), NAME, tmp_path)
    assert path.read_text().splitlines()[0].endswith("cosine_to_mean,draw")


def test_a_missing_column_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"masking_invariance: the columns \['norm'\] are missing"):
        results.save_table(table().drop(columns="norm"), NAME, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_table_that_was_passed_in_is_not_changed(tmp_path):
    given = table()
    results.save_table(given, NAME, tmp_path)
    pd.testing.assert_frame_equal(given, table())


def test_every_published_table_has_distinct_columns():
    assert all(len(set(columns)) == len(columns) for columns in results.COLUMNS.values())


def test_no_temporary_file_is_left(tmp_path):
    results.write_whole(tmp_path / "new" / "a.txt", "text")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    results.write_whole(path, "old")

    def interrupted(self, text):
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", interrupted)
        with pytest.raises(OSError, match="no space"):
            results.write_whole(path, "new and longer")
    assert path.read_text() == "old"
    results.write_whole(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_table_that_is_not_there_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"masking_invariance\.csv: not there yet; run the chapter"):
        results.read_table(NAME, tmp_path)


def test_recording_a_run_merges_with_what_is_known(tmp_path):
    results.record_run(tmp_path, "first", {"seconds": 1}, device="cpu")
    results.record_run(tmp_path, "second", {"seconds": 2})
    results.record_run(tmp_path, "second", {"seconds": 3}, place=tmp_path)
    found = json.loads((tmp_path / "run.json").read_text())
    notebooks = {"first": {"seconds": 1}, "second": {"seconds": 3}}
    assert found == {"device": "cpu", "place": str(tmp_path), "notebooks": notebooks}


def test_results_lie_in_a_folder_of_the_profiles_name(tmp_path):
    demo = load_profile("demo")
    assert results.folder(demo) == ROOT / "results" / "demo"
    assert results.folder(demo, tmp_path) == results.folder(demo, str(tmp_path)) == tmp_path / "demo"


def test_provenance_holds_a_version_of_every_package():
    found = results.provenance()
    assert set(found) == {"python", "machine", "commit", "packages"}
    assert set(found["packages"]) == set(results.PACKAGES)
    assert all(found["packages"].values())


def test_commit_is_unknown_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.git_commit() == "unknown"
