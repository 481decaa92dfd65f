"""The table over all runs, from hand-made runs."""

import json

import numpy as np
import pytest

from clad_lib import plots, results


def write_run(root, *, dataset="mnist", scenario="CUR", method="ODIN", seed=0, auroc=0.9, profile="fast", **settings):
    folder = root / dataset / scenario / f"{method}-{profile}{len(settings)}" / f"seed{seed}"
    folder.mkdir(parents=True)
    config = dict(dataset=dataset, scenario=scenario, profile=profile, protocol="clean", seed=seed)
    record = dict(
        config=config, settings=settings, stage=method, seconds=1.5, commit="abc", machine=dict(cpu="x", cores=2, gpu=None)
    )
    (folder / "config.json").write_text(json.dumps(record))
    metrics = dict(auroc=auroc, aupr_anomaly=0.5, aupr_normal=0.5, fpr95=0.2, peak_memory_mb=9, images=dict(train=3, test=4))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_mean_and_spread_over_seeds(tmp_path):
    for seed, auroc in enumerate((0.8, 0.9, 0.7)):
        write_run(tmp_path, seed=seed, auroc=auroc)
    row = results.summary(results.collect(tmp_path)).iloc[0]
    assert row.seeds == 3
    assert row.auroc == pytest.approx(0.8)
    assert row.spread == pytest.approx(np.std([0.8, 0.9, 0.7], ddof=1))


def test_other_settings_are_kept_apart(tmp_path):
    write_run(tmp_path, auroc=0.9)
    write_run(tmp_path, auroc=0.5, clusters=3, latent=10)  # MNIST's latent is 10 by default
    table = results.collect(tmp_path)
    assert sorted(table.settings) == ["", "clusters=3"]
    assert sorted(results.summary(table).auroc) == pytest.approx([0.5, 0.9])
    assert results.wide(table)["mnist CUR"].tolist() == ["90.0*"]
    assert results.beside_paper(table).auroc.tolist() == pytest.approx([0.9])


def test_the_wide_table_marks_the_best_clean_method(tmp_path):
    for method, auroc in (("ODIN", 0.8), ("OCSVM", 0.7)):
        for seed in (0, 1):
            write_run(tmp_path, method=method, seed=seed, auroc=auroc + 0.1 * seed)
    table = results.wide(results.collect(tmp_path)).set_index("method")["mnist CUR"]
    assert table.to_dict() == {"ODIN": "85.0±7.1*", "OCSVM": "75.0±7.1"}


def test_the_committed_measurements_say_how_they_were_made():
    table = results.committed()
    assert {"command", *results.COLUMNS} - {"folder"} == set(table.columns)
    assert table[["command", "protocol", "commit", "machine"]].notna().all().all()
    assert table.auroc.between(0, 1).all()
    assert not table.commit.str.contains("dirty").any()


def test_a_half_written_run_is_left_out(tmp_path):
    write_run(tmp_path)
    (write_run(tmp_path, seed=1) / "config.json").write_text('{"config"')
    assert len(results.collect(tmp_path)) == 1


def test_the_paper_stands_beside_our_odin(tmp_path):
    write_run(tmp_path)
    table = results.beside_paper(results.collect(tmp_path))
    assert table.method.tolist() == ["CLAD"]
    assert table.paper[0] == pytest.approx(0.940)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_bars_are_drawn_with_and_without_published_values(tmp_path, dataset):
    write_run(tmp_path, dataset=dataset)
    assert plots.auroc_bars(results.beside_paper(results.collect(tmp_path))).data


def test_wrong_sql_names_the_columns(tmp_path):
    with pytest.raises(ValueError, match=r"results\(dataset, scenario"):
        results.query(results.collect(tmp_path), "SELECT nothing FROM results")
