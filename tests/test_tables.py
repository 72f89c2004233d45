"""The tables of a run: complete, in the published order, whole or not at all, with what made them."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import processes
import pytest
import torch

from mae_helpers.profile.settings import ROOT, load_profile
from mae_helpers.run import tables as results
from mae_helpers.run.chapter import Chapter

NAME = "masking_invariance"
MADE_FROM = {"profile": "demo", "data": "0123456789abcdef"}


def table(**more):
    columns = {"cosine_to_mean": [0.5, 0.25], "norm": [2.5, 3.25], "mask": [1, 2], "image": ["a", "a"]}
    return pd.DataFrame(columns | {"model": "mae_pretrained"} | more)


def test_a_table_is_written_in_the_published_order_and_read_back(tmp_path):
    """Further columns come last, text is UTF-8, and the table that was passed in stays as it was."""
    given = table(draw=7, model="müde")
    path = results.save_table(given, NAME, tmp_path / "demo", MADE_FROM)
    assert path == tmp_path / "demo" / "masking_invariance.csv"
    assert path.read_text("utf-8").splitlines()[:2] == [
        "model,image,mask,norm,cosine_to_mean,draw",
        "müde,a,1,2.5,0.5,7",
    ]
    pd.testing.assert_frame_equal(given, table(draw=7, model="müde"))
    for made_from in (None, MADE_FROM):
        found = results.read_table(NAME, tmp_path / "demo", made_from)
        pd.testing.assert_frame_equal(found, given[[*results.COLUMNS[NAME], "draw"]])


def test_a_table_of_an_earlier_version_is_refused(tmp_path):
    path = results.save_table(table(), NAME, tmp_path, MADE_FROM)
    path.write_text("model,image,mask\nmae,a,1\n")
    with pytest.raises(ValueError, match=r"without the columns \['norm', 'cosine_to_mean'\].*run its chapter again"):
        results.read_table(NAME, tmp_path)


def test_a_column_of_names_and_numbers_has_one_type_however_long_the_table(tmp_path):
    levels = ["clean", *["I", "II", "III"], *map(str, range(0, 100, 10))]
    rows = pd.DataFrame(
        {"model": "mae", "perturbation": "blur", "level": [one for one in levels for _ in range(20_000)]}
    )
    rows = rows.assign(**dict.fromkeys(["mean_drop", "low", "high"], 1.0))
    results.save_table(rows, "fig8_feature_drop", tmp_path, MADE_FROM)
    assert results.read_table("fig8_feature_drop", tmp_path)["level"].map(type).unique().tolist() == [str]


def test_classes_keep_their_names_whatever_these_look_like(tmp_path):
    given = pd.DataFrame({"class": ["NA", "None", "nan", "007"], "model": "mae", "top1_percent": [1.5, None, 2.0, 0.0]})
    results.save_table(given, "demo_accuracy", tmp_path, MADE_FROM)
    pd.testing.assert_frame_equal(
        results.read_table("demo_accuracy", tmp_path), given[["model", "class", "top1_percent"]]
    )


def test_models_and_sets_keep_their_names_whatever_these_look_like(tmp_path):
    """A model may be called by its epochs, a set of images by its year."""
    given = pd.DataFrame({"model": ["100", "0300", "nan"], "dataset": ["2024", "1e3", "NA"], "images": [1, 2, 3]})
    given = given.assign(top1_percent=50.5, class_mean_percent=50.5, subset_top1_percent=None)
    results.save_table(given, "distribution_shift", tmp_path, MADE_FROM)
    found = results.read_table("distribution_shift", tmp_path, MADE_FROM)
    assert found[["model", "dataset"]].equals(given[["model", "dataset"]])
    assert found["subset_top1_percent"].isna().all()


def test_tables_lie_in_the_repository_or_where_one_works_if_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = load_profile("demo")
    assert results.folder(profile) == ROOT / "results" / "demo"
    assert results.folder(profile, "other") == results.folder(profile, Path("other")) == Path("other/demo")
    monkeypatch.setattr(results, "ROOT", tmp_path / "site-packages")
    assert results.folder(profile) == tmp_path / "results" / "demo"


def test_a_missing_column_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"masking_invariance: the columns \['norm'\] are missing"):
        results.save_table(table().drop(columns="norm"), NAME, tmp_path, MADE_FROM)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_table_and_no_other(tmp_path, monkeypatch, step):
    results.save_table(table(), NAME, tmp_path, MADE_FROM)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os if step == "fsync" else Path, step, interrupted)
    with pytest.raises(OSError, match="no space"):
        results.save_table(table(draw=7), NAME, tmp_path, MADE_FROM)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


def interrupted(*_):
    raise OSError("no space left on device")


def test_a_table_that_is_not_there_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"masking_invariance\.csv: not there yet; run the chapter"):
        results.read_table(NAME, tmp_path)


def test_what_a_table_was_made_from_lies_beside_it(tmp_path):
    path = results.save_table(table(), NAME, tmp_path, MADE_FROM)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "run.json").read_text()) == {"tables": {NAME: MADE_FROM | {"sha256": digest}}}
    assert {path.name for path in tmp_path.iterdir()} <= {f"{NAME}.csv", "run.json", "run.json.lock"}


REMEDY = "run the chapter that writes it again, or choose another results folder"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"profile": "paper"}, "made from another profile ('demo' instead of 'paper')"),
        ({"data": "fedcba9876543210"}, "made from another data ('0123456789ab' instead of 'fedcba987654')"),
    ],
)
def test_a_table_of_another_run_is_refused_with_the_remedy_until_it_is_written_again(tmp_path, changed, told):
    path, later = results.save_table(table(), NAME, tmp_path, MADE_FROM), MADE_FROM | changed
    with pytest.raises(ValueError, match="instead of") as caught:
        results.read_table(NAME, tmp_path, later)
    assert f"{path}: {told}; {REMEDY}" in str(caught.value)
    results.save_table(table(mask=[3, 4]), NAME, tmp_path, later)
    assert results.read_table(NAME, tmp_path, later)["mask"].tolist() == [3, 4]
    with pytest.raises(ValueError, match=f"another {next(iter(changed))}"):
        results.read_table(NAME, tmp_path, MADE_FROM)


@pytest.mark.parametrize("record", [None, "", "{", "[]", "{}"])
def test_a_table_of_which_the_record_says_nothing_is_refused(tmp_path, record):
    path = results.save_table(table(), NAME, tmp_path, MADE_FROM)
    (tmp_path / "run.json").unlink() if record is None else (tmp_path / "run.json").write_text(record)
    with pytest.raises(ValueError, match="made from another profile") as caught:
        results.read_table(NAME, tmp_path, MADE_FROM)
    assert str(path) in str(caught.value)
    assert len(results.read_table(NAME, tmp_path)) == 2
    results.save_table(table(), NAME, tmp_path, MADE_FROM)
    assert len(results.read_table(NAME, tmp_path, MADE_FROM)) == 2


def test_a_table_whose_bytes_are_not_those_that_were_written_is_refused(tmp_path):
    """As where a run was killed between a new table and its record, or a hand has changed it."""
    path = results.save_table(table(), NAME, tmp_path, MADE_FROM)
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(ValueError, match=rf"{NAME}\.csv: not as it was written .*; {REMEDY}"):
        results.read_table(NAME, tmp_path, MADE_FROM)


def writes(folder, number):
    for name in list(results.COLUMNS)[number::4][:5]:
        columns = {column: [number] for column in results.COLUMNS[name]}
        results.save_table(pd.DataFrame(columns), name, folder, MADE_FROM)
        results.record_run(folder, f"{number}_{name}", {"seconds": number}, device="cpu")


@pytest.mark.slow
def test_nothing_is_lost_where_several_processes_write_at_once(tmp_path):
    started = [processes.start(writes, tmp_path, number) for number in range(4)]
    for process in started:
        process.join(120)
    names = [name for number in range(4) for name in list(results.COLUMNS)[number::4][:5]]
    record = results.read_run(tmp_path)
    assert set(record["tables"]) == set(names)
    assert len(record["notebooks"]) == len(names)
    assert record["device"] == "cpu"
    assert all(len(results.read_table(name, tmp_path, MADE_FROM)) == 1 for name in names)


def opened(profile, folder):
    return Chapter(profile, torch.device("cpu"), 0, folder)


def test_a_chapter_reads_what_another_wrote_until_the_data_change(tiny_profile, tmp_path):
    profile = load_profile(tiny_profile())
    opened(profile, tmp_path / "tables").save(table(), NAME)
    assert len(opened(profile, tmp_path / "tables").read(NAME)) == 2
    with pytest.raises(ValueError, match="made from another profile"):
        opened(profile.model_copy(update={"name": "other"}), tmp_path / "tables").read(NAME)
    shutil.copy(tmp_path / "images" / "cat" / "000.png", tmp_path / "images" / "cat" / "another.png")
    with pytest.raises(ValueError, match=f"{NAME}.csv: made from another data"):
        opened(profile, tmp_path / "tables").read(NAME)


def test_what_tables_are_made_from_follows_a_users_images_and_checkpoints(tiny_profile, tmp_path):
    profile = load_profile(tiny_profile(second_images={"source": "flat", "folder": "images/dog"}))
    assert results.made_from(profile) == {"profile": "tiny", "data": results.data_fingerprint(profile)}
    assert results.made_from(profile) == results.made_from(load_profile(profile.path))
    found = [results.data_fingerprint(profile)]
    for name in ("cat", "dog"):
        image = next(iter(sorted((tmp_path / "images" / name).iterdir())))
        shutil.copy(image, image.with_name("another.png"))
        found.append(results.data_fingerprint(profile))
    found.append(results.data_fingerprint(profile.model_copy(update={"second_images": None})))
    for model in ("mae_pretrained", "vit_supervised"):
        with (tmp_path / "weights" / f"{model}.safetensors").open("ab") as file:
            file.write(b"x")
        found.append(results.data_fingerprint(profile))
    (tmp_path / "weights" / "mae_finetuned.safetensors").unlink()
    found.append(results.data_fingerprint(profile))
    assert len(set(found)) == len(found) == 7


def test_data_fingerprint_follows_what_lies_beside_the_bundled_weights(monkeypatch, tmp_path):
    profile = load_profile("demo")
    monkeypatch.setattr(results, "WEIGHTS", tmp_path)
    found = set()
    for name, content in [("log.csv", "a"), ("log.csv", "b"), ("card.json", "a"), ("readme.txt", "a")]:
        (tmp_path / name).write_text(content)
        found.add(results.data_fingerprint(profile))
    assert len(found) == 3


def test_recording_a_run_merges_with_what_is_known(tmp_path):
    results.record_run(tmp_path, "first", {"seconds": 1}, device="cpu")
    results.save_table(table(), NAME, tmp_path, MADE_FROM)
    results.record_run(tmp_path, "second", {"seconds": 2})
    results.record_run(tmp_path, "second", {"seconds": 3}, place=tmp_path)
    found = json.loads((tmp_path / "run.json").read_text())
    notebooks = {"first": {"seconds": 1}, "second": {"seconds": 3}}
    assert list(found.pop("tables")) == [NAME]
    assert found == {"device": "cpu", "place": str(tmp_path), "notebooks": notebooks}


def test_commit_is_unknown_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.git_commit() == "unknown"


def test_what_a_run_took_by_chapter(tmp_path):
    second = {"seconds": 2.5, "peak_memory_mb": 900, "parameters": {"seed": 1}}
    results.record_run(tmp_path, "02_b", second, device="cpu")
    results.record_run(tmp_path, "01_a", {"seconds": 1, "parameters": {"seed": 0, "k": 3}})
    expected = {"chapter": ["01_a", "02_b"], "seconds": [1, 2.5], "peak_memory_mb": [float("nan"), 900], "seed": [0, 1]}
    run = results.read_run(tmp_path)
    pd.testing.assert_frame_equal(results.run_table(run), pd.DataFrame(expected))  # no column of a GPU: none was used
    assert results.run_table(run, without="02_b")["chapter"].tolist() == ["01_a"]


def test_no_run_yet_is_told(tmp_path):
    results.save_table(table(), NAME, tmp_path, MADE_FROM)  # as from a notebook that was run by hand
    for folder in (tmp_path, tmp_path / "empty"):
        with pytest.raises(FileNotFoundError, match=r"run\.json: not there yet; `python -m mae_helpers.run` writes it"):
            results.read_run(folder)
