"""The study of the exact gradient: its own code makes rows of each committed table again."""

import nbformat
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def study(root) -> dict:
    "What the study's cells define, up to the switch that makes it."
    names: dict = {}
    for cell in nbformat.read(root / "nbs" / "studies" / "exact_mdp.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            if "def sweep" in cell.source:
                return names
    raise AssertionError("no cell defines the sweep")


@pytest.fixture(scope="module")
def tables(root) -> dict[str, pd.DataFrame]:
    folder = root / "nbs" / "studies"
    text = dict(scale=str, value=str)
    return {path.stem: pd.read_csv(path, dtype=text) for path in sorted(folder.glob("exact_mdp*.csv"))}


def same(made: pd.DataFrame, stored: pd.DataFrame):
    "Three digits are kept."
    pd.testing.assert_frame_equal(
        made.reset_index(drop=True), stored.reset_index(drop=True), rtol=1.1e-2, atol=1e-9, check_dtype=False
    )


def test_cases_are_made_again(study, tables):
    stored = tables["exact_mdp"]
    names = dict(drift="random", kl=0.2, pair=7)
    made = study["table"]([(names, dict(seed=7, drift="random", kl=0.2), {})])
    same(made, stored[(stored.drift == "random") & (stored.kl == 0.2) & (stored.pair == 7)])
    assert stored.groupby(["drift", "kl", "kind"]).size().eq(40).all() and not stored.isna().any().any()


def test_a_setting_is_made_again(study, tables, monkeypatch):
    chosen = {place: study["changes"][place] for place in [("lambda", 0.0), ("vocabulary, six tokens", 2)]}
    monkeypatch.setitem(study, "changes", chosen)
    keys = ["axis", "value", "kind"]
    made = study["quartiles"](study["settings_table"](range(10)), keys)
    stored = tables["exact_mdp_settings"]
    for axis, value in chosen:
        kept = [frame[(frame.axis == axis) & (frame.value.astype(str) == str(value))] for frame in (made, stored)]
        assert len(kept[1]) > 50
        same(kept[0].assign(value=str(value)), kept[1])


def test_ranges_and_paths_are_made_again(study, tables):
    for name, make in (("exact_mdp_ranges", "ranges_table"), ("exact_mdp_paths", "paths_table")):
        stored = tables[name]
        same(study[make](range(3, 4)), stored[stored.pair == 3])


def test_only_what_is_missing_is_made(study, tmp_path, monkeypatch):
    "Killed and started again, the study goes on with the next table; where none is missing it begins anew."
    others = ("exact_mdp.csv", "exact_mdp_ranges.csv", "exact_mdp_paths.csv")
    for name in others:
        (tmp_path / name).write_text("kept")
    monkeypatch.setitem(study, "changes", {("share", 0.1): ({}, dict(future=0.1))})
    made = dict(study["sweep"](tmp_path, seeds=range(1), few=range(1)))
    assert list(made) == ["exact_mdp_settings.csv"] and len(made["exact_mdp_settings.csv"]) == 8 * 14
    assert all((tmp_path / name).read_text() == "kept" for name in others)
    (tmp_path / "exact_mdp_settings.csv").write_text("kept")
    assert next(study["sweep"](tmp_path, seeds=range(1), few=range(1)))[0] == "exact_mdp.csv"
    assert not list(tmp_path.iterdir())
