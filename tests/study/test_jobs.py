"""Jobs follow from the rows; what a job leaves, and how it is found done, failed or refused."""

import json
import os
from pathlib import Path

import nbformat
import pytest

from clad_lib.config import make_config
from clad_lib.study import batch, jobs, notebooks, stages
from clad_lib.study.jobs import Job, Outcome
from clad_lib.study.stages import Places, Row, choose_methods, methods, needed, rows
from clad_lib.study.store import RECORD

SMOKE = make_config("digits", "CUR", profile="smoke", clusters=4)
STEMS = ("01_scenarios", "02_latent_space", "03_self_labelling", "04_classifier")
STEMS += ("05_odin_scoring", "06_baselines", "08_results")
PARAMETERS = """dataset = "digits"
scenario = "CUR"
profile = "fast"
seed = 0
device = "auto"
runs = "../runs"
overrides = {}
only = []"""


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path, SMOKE, "data")


def finish(places, name):
    folder = places.path(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text("{}", encoding="utf-8")
    return folder


def graph_of(places, wanted):
    stems = sorted({stages.rows()[name].shown_in for name in needed(wanted) if name != "copies"})
    return {job.step: job for job in jobs.graph(places, wanted, stems)}


def test_the_jobs_are_the_rows_and_the_notebooks_that_show_them(places):
    found = graph_of(places, ("ODIN", "OCSVM"))
    made = {step for step, job in found.items() if job.shows is None}
    assert made == {*needed(["copies", "ODIN", "OCSVM", "latent_map", "odin_grid"])}
    shown = {step: set(job.shows) for step, job in found.items() if job.shows is not None}
    assert shown == {
        "02_latent_space": {"autoencoder", "latent_map"},
        "03_self_labelling": {"clusters"},
        "04_classifier": {"classifier"},
        "05_odin_scoring": {"ODIN", "odin_grid"},
        "06_baselines": {"OCSVM"},
    }
    for name in made:
        assert places.root / found[name].key == places.path(name)


def test_a_job_comes_after_those_that_it_needs(places):
    found = graph_of(places, choose_methods("all"))
    order = [job.key for job in found.values()]
    assert len(set(order)) == len(order)
    assert all(
        order.index(need) < order.index(job.key) for job in found.values() for need in job.needs
    )
    needs = {step: {key.split("/")[2].rpartition("-")[0] for key in job.needs}
             for step, job in found.items()}  # fmt: skip
    assert needs["Selected"] == {*rows()["Selected"].needs, "copies"}
    assert needs["03_self_labelling"] == {"copies", "autoencoder", "latent_map", "clusters"}
    assert needs["06_baselines"] == {step for step, job in found.items() if job.shows is None}


def test_only_a_study_that_wants_a_chosen_score_trains_the_simulations(places):
    assert "simulations" not in graph_of(places, ("ODIN", "MSP"))
    assert "simulations" in graph_of(places, ("ODIN", "Selected"))


def test_methods_without_the_classifier_train_none(places):
    made = {step for step, job in graph_of(places, ("OCSVM", "OCNN")).items() if job.shows is None}
    assert made == {"copies", "autoencoder", "latent_map", "OCSVM", "OCNN"}


def test_a_row_of_another_package_is_a_job_at_once(places, monkeypatch):
    toy = Row("elsewhere:score", ("clusters",), shown_in="06_baselines", block="controls")
    known = rows() | {"Toy": toy}
    monkeypatch.setattr(stages, "rows", lambda: known)
    monkeypatch.setattr(jobs, "rows", lambda: known)
    job = graph_of(places, ("Toy",))["Toy"]
    assert [key.split("/")[2].rpartition("-")[0] for key in sorted(job.needs)] == [
        "clusters",
        "copies",
    ]
    assert "Toy" in graph_of(places, ("Toy",))["06_baselines"].shows
    assert "Toy" in methods()


def test_shared_stages_are_planned_once(tmp_path):
    configs = [make_config("digits", "CUR", profile="smoke", clusters=k) for k in (2, 3, 4)]
    planned = jobs.plan(configs, ("ODIN", "OCSVM"), tmp_path)
    steps = [job.step for job in planned]
    count = {step: steps.count(step) for step in steps}
    once = {"copies", "autoencoder", "latent_map", "OCSVM", "02_latent_space", "06_baselines"}
    assert {step for step, number in count.items() if number == 1} == once
    assert set(count.values()) == {1, 3}
    keys = [job.key for job in planned]
    assert len(set(keys)) == len(keys)
    assert all(keys.index(need) < keys.index(job.key) for job in planned for need in job.needs)


def test_a_studys_notebooks_are_executed_anew_and_side_by_side(places):
    folder = places.root / "digits" / "CUR" / "study-x" / "seed0" / "notebooks"
    planned = jobs.plan_study(places, [Path(f"{stem}.ipynb") for stem in STEMS], folder)
    shown = {job.step: job for job in planned if job.shows is not None}
    assert tuple(shown) == STEMS
    assert [places.root / job.key for job in shown.values()] == [
        folder / f"{stem}.ipynb" for stem in STEMS
    ]
    assert all(job.again for job in shown.values())
    made = [job.step for job in planned if job.shows is None]
    usual = {name for name, each in rows().items() if each.in_all}
    assert {*made} == usual  # without what takes minutes: Rotation, Fused and their network
    assert {*choose_methods("all")} <= usual
    assert "rotation_network" not in usual
    assert len(shown["01_scenarios"].needs) == 1  # the copies among the images
    assert len(shown["08_results"].needs) == len(made)
    assert shown["08_results"].shows == ()


def test_one_notebook_of_a_study_brings_what_it_shows_and_no_more(places):
    planned = jobs.plan_study(places, [Path("04_classifier.ipynb")], places.root / "here")
    assert {job.step for job in planned} == {
        *("autoencoder", "clusters", "classifier", "04_classifier")
    }


def test_a_row_is_done_when_it_is_there(places):
    job = graph_of(places, ("OCSVM",))["OCSVM"]
    assert not jobs.is_done(job)
    finish(places, "OCSVM")
    assert jobs.is_done(job)


def test_a_notebook_is_done_when_it_was_executed_after_all_that_it_shows(places):
    job = graph_of(places, ("OCSVM", "SVDD"))["06_baselines"]
    executed = places.root / job.key
    folder = finish(places, "OCSVM")
    executed.parent.mkdir(parents=True, exist_ok=True)
    assert not jobs.is_done(job)
    executed.touch()
    assert jobs.is_done(job)  # SVDD failed: the notebook shows what there is
    assert not jobs.is_done(job._replace(again=True))
    os.utime(folder, (2e9, 2e9))  # the folder changes when the notebook is put into it
    assert jobs.is_done(job)
    other = finish(places, "SVDD")
    late = executed.stat().st_mtime + 5
    os.utime(other / RECORD, (late, late))
    assert not jobs.is_done(job)
    os.utime(executed, (late, late))
    assert jobs.is_done(job)
    (folder / RECORD).unlink()
    (other / RECORD).unlink()
    assert not jobs.is_done(job)


@pytest.fixture
def executed(places, monkeypatch, tmp_path):
    """Notebooks that are not executed: what they were given, and what they raise."""
    given, raises = [], []

    def execute(source, target, parameters, kernel, *, fresh=True):
        given.append((source.name, parameters, kernel, fresh))
        target.write_text("{}", encoding="utf-8")
        if raises:
            raise raises.pop(0)
        if parameters.get("only") and not fresh:
            finish(places, parameters["only"][0])

    monkeypatch.setattr(notebooks, "execute", execute)
    return given, raises


def test_a_row_is_made_in_the_kernel_and_its_notebook_is_not_kept(places, executed):
    job = graph_of(places, ("OCSVM",))["OCSVM"]
    outcome = jobs.execute(job, "cpu", "kernel")
    assert (outcome.key, outcome.status, outcome.error) == (job.key, "done", "")
    assert outcome.seconds > 0
    ((source, parameters, kernel, fresh),) = executed[0]
    assert (source, kernel, fresh) == ("row.ipynb", "kernel", False)
    assert parameters["only"] == ["OCSVM"]
    assert parameters["overrides"] == {"clusters": 4}
    assert parameters["runs"] == str(places.root)
    assert not list(places.root.rglob("*.ipynb"))
    assert jobs.execute(job, "cpu", "kernel") == Outcome(job.key, "done")  # found, not made again
    assert len(executed[0]) == 1


def test_a_notebook_is_given_the_methods_that_are_there_and_is_kept(places, executed):
    job = graph_of(places, ("OCSVM", "SVDD"))["06_baselines"]
    finish(places, "SVDD")
    assert jobs.execute(job, "cpu", None).status == "done"
    source, parameters, _, fresh = executed[0][0]
    assert (source, fresh) == ("06_baselines.ipynb", True)
    assert parameters["only"] == ["SVDD"]
    assert (places.root / job.key).is_file()
    job = graph_of(places, ("ODIN",))["03_self_labelling"]
    jobs.execute(job, "cpu", None)
    assert "only" not in executed[0][1][1]  # it shows no method


def test_a_failure_is_kept_with_its_notebook_until_it_succeeds(places, executed):
    job = graph_of(places, ("OCSVM",))["OCSVM"]
    error = "row.ipynb, cell 3: ValueError: nu is 2\nexecuted so far: there"
    executed[1].append(notebooks.NotebookError(error))
    outcome = jobs.execute(job, "cpu", None)
    assert (outcome.status, outcome.error) == ("failed", "ValueError: nu is 2")
    assert (job.failure / "OCSVM.ipynb").is_file()
    record = json.loads((job.failure / "error.json").read_text(encoding="utf-8"))
    assert record["title"] == "digits CUR seed 0: OCSVM"
    assert jobs.failure_of(job) == Outcome(job.key, "failed", 0.0, "ValueError: nu is 2")
    assert jobs.execute(job, "cpu", None).status == "done"
    assert not job.failure.exists()
    assert jobs.failure_of(job) is None


def test_a_method_that_does_not_apply_is_refused(places, executed):
    job = graph_of(places, ("OCSVM",))["OCSVM"]
    error = "row.ipynb, cell 3: NotApplicable: got 3 images\nexecuted so far: there"
    executed[1].append(notebooks.NotebookError(error))
    outcome = jobs.execute(job, "cpu", None)
    assert (outcome.status, outcome.error) == ("refused", "NotApplicable: got 3 images")
    assert jobs.failure_of(job).status == "refused"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("row.ipynb, cell 3: KeyboardInterrupt: \nexecuted so far: there", "interrupted"),
        ("row.ipynb: InterruptedError: the kernel was closed; it said: ", "interrupted"),
        ("row.ipynb, cell 3: StoreError: cannot write /x: No space left on device; free", "full"),
        ("row.ipynb: OSError: [Errno 122] Disk quota exceeded; it said: ", "full"),
    ],
)
def test_what_the_user_or_a_full_disk_stopped_is_simply_not_done(places, executed, error, status):
    job = graph_of(places, ("OCSVM",))["OCSVM"]
    executed[1].append(notebooks.NotebookError(error))
    assert jobs.execute(job, "cpu", None).status == status
    assert not (places.root / "failures").exists()
    assert jobs.failure_of(job) is None


def test_whatever_goes_wrong_is_an_outcome(places, executed):
    job = graph_of(places, ("OCSVM",))["OCSVM"]
    executed[1].append(KeyError("odd"))
    assert jobs.execute(job, "cpu", None).status == "failed"
    (places.root / "file").write_text("in the way", encoding="utf-8")
    elsewhere = job._replace(places=places._replace(root=places.root / "file"))
    with pytest.raises(Exception, match="file"):  # no place for an error either: Dask reports it
        jobs.execute(elsewhere, "cpu", None)


def test_a_record_of_a_failure_that_was_cut_off_blocks_nothing(places):
    job = graph_of(places, ("OCSVM",))["OCSVM"]
    job.failure.mkdir(parents=True)
    (job.failure / "error.json").write_text(
        '{"status": "failed", "error": "all"}', encoding="utf-8"
    )
    assert jobs.failure_of(job).error == "all"
    (job.failure / "error.json").write_text("", encoding="utf-8")
    assert jobs.failure_of(job) is None
    assert batch.overview([job], 1).startswith("to do")


def test_looking_for_finished_jobs_needs_no_torch(places):
    code = """
import sys
from pathlib import Path
from clad_lib.config import make_config
from clad_lib.study import batch, jobs
from clad_lib.study.stages import Places
places = Places(Path("nowhere"), make_config("digits", "CUR"), "data")
planned = list(jobs.graph(places, ("ODIN", "OCSVM"), ("05_odin_scoring",)))
assert not any(map(jobs.is_done, planned))
print([name for name in ("torch", "papermill", "plotly", "sklearn") if name in sys.modules])
"""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def write_notebook(path, *sources):
    document = nbformat.v4.new_notebook()
    document.metadata["kernelspec"] = dict(
        name="python3", display_name="Python 3", language="python"
    )
    document.cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, *sources)]
    document.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(document, path)


OPEN = """from clad_lib.config import make_config
from clad_lib.study.engine import open_study
config = make_config(dataset, scenario, profile=profile, seed=seed, **overrides)
study = open_study(config, runs=runs, device=device)"""


def test_a_real_batch_makes_rows_and_executes_notebooks(tmp_path, monkeypatch):
    """Real kernels, rows and papermill, in a runs folder whose name could be a format string."""
    home, runs = tmp_path / "notebooks", tmp_path / "runs {seed} {0}"
    home.mkdir()
    show = "print(sorted(only), [round(study.find(name).metrics['auroc'], 6) for name in only])"
    write_notebook(home / "06_baselines.ipynb", OPEN, show)
    write_notebook(home / "08_results.ipynb", "print('last', runs)")
    monkeypatch.setattr(notebooks, "notebook_folder", lambda: home)
    monkeypatch.setattr(batch.cluster, "notebook_folder", lambda: home)
    wanted = ("PNGBytes", "NearestImage")
    planned = jobs.plan([SMOKE], wanted, runs)
    said = []
    options = dict(workers=1, device="cpu", say=said.append)
    report = batch.run_batch(planned, name="real", **options)
    assert report.count("done") == len(planned) == len(said) == 4, said
    aurocs = {}
    for job in planned:
        if job.step in wanted:
            metrics = json.loads((runs / job.key / "metrics.json").read_text(encoding="utf-8"))
            aurocs[job.step] = round(metrics["auroc"], 6)
    assert set(aurocs) == set(wanted)
    (shown,) = report.executed
    text = shown.read_text(encoding="utf-8")
    for name in wanted:
        assert str(aurocs[name]) in text
    bad = [job._replace(places=job.places._replace(config=SMOKE, data="else")) for job in planned]
    assert [job.step for job in bad if jobs.is_done(job)] == []
    assert batch.run_batch(planned, name="real", **options).seconds < report.seconds
    assert not list(runs.rglob(".seed*"))


def test_a_failing_row_leaves_its_traceback(tmp_path):
    config = make_config("digits", "CUR", profile="smoke", clusters=4, max_train=1)
    planned = jobs.plan([config], ("PixelLOF",), tmp_path)
    rows_only = [job for job in planned if job.shows is None]
    report = batch.run_batch(rows_only, name="s", workers=1, device="cpu")
    kept = [path.read_text(encoding="utf-8") for path in (tmp_path / "failures").rglob("*.ipynb")]
    assert report.count("done") < len(rows_only)
    assert len(kept) == report.count("failed", "refused") > 0
    assert all("Traceback" in text for text in kept)


def test_a_job_travels_between_processes(places):
    import pickle

    job = graph_of(places, ("ODIN",))["ODIN"]
    again = pickle.loads(pickle.dumps(job))
    assert again == job
    assert isinstance(again, Job)
    assert again.failure == job.failure
