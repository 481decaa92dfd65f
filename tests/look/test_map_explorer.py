"""The map explorer without a browser: what it shows of images against what the test knows of them."""

import base64
import gzip
import html
import re
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch

from clad_lib.clad.posthoc import msp
from clad_lib.look import map_explorer as module
from clad_lib.look.images import as_uri
from clad_lib.look.map_explorer import MapExplorer, gather, in_words
from clad_lib.study.store import StoreError


def text(value):
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", value))).strip()


def made_up(count=60, clusters=3, channels=3):
    random = np.random.default_rng(0)
    labels, hidden = np.arange(count) % clusters, np.arange(count) % 2
    facts = pd.DataFrame(
        {
            "cluster": pd.Categorical.from_codes(labels, [f"cluster {k}" for k in range(clusters)]),
            "confidence": np.linspace(0.2, 0.9, count, dtype=np.float32),
            "hidden class (analysis)": pd.Categorical.from_codes(hidden, ["even", "odd"]),
        }
    )
    images = random.integers(0, 256, (count, channels, 8, 8), dtype=np.uint8)
    points = random.normal(size=(count, 2)).astype(np.float32)
    return dict(points=points, images=images, facts=facts, told="told.")


def tell(explorer, what, *rows):
    """As the page does for a pointer, a click or a lasso."""
    explorer.figure._handle_custom_msg({"what": what, "rows": list(rows)}, [])


def numbers(value):
    """An array as plotly sends it."""
    if isinstance(value, dict):
        shape = [int(n) for n in str(value.get("shape", "-1")).split(",")]
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).reshape(shape)
    return np.array(value)


def drawn(explorer):
    """name of each trace -> (rows, x) of its points, as the page gets them."""
    return {
        trace["name"]: (numbers(trace["customdata"])[:, 0].astype(int), numbers(trace["x"]))
        for trace in explorer.figure.traces
    }


@pytest.mark.parametrize("colour", ["cluster", "confidence", "hidden class (analysis)"])
def test_every_point_knows_its_image(colour):
    data = made_up()
    explorer = MapExplorer(**data)
    explorer.colour.value = colour
    found = drawn(explorer)
    rows = np.concatenate([rows for rows, _ in found.values()])
    assert sorted(rows) == list(range(60))
    np.testing.assert_array_equal(
        np.concatenate([x for _, x in found.values()]), data["points"][rows, 0]
    )
    if colour != "confidence":
        for name, (rows, _) in found.items():
            assert set(data["facts"][colour].iloc[rows]) == {name}
    assert colour in explorer.figure.alt
    assert all(trace["type"] == "scattergl" for trace in explorer.figure.traces)
    assert explorer.figure.frame["dragmode"] == "lasso"


def test_the_image_under_the_pointer_is_shown_beside_it():
    data = made_up()
    explorer = MapExplorer(**data)
    tell(explorer, "show", 7)
    assert as_uri(data["images"][7].transpose(1, 2, 0)) in explorer.figure.tip
    assert text(explorer.figure.tip) == "cluster 1, confidence 0.283, odd"


def test_a_selection_shows_its_images_and_what_they_share():
    data = made_up()
    explorer = MapExplorer(**data)
    tell(explorer, "select", *range(30))
    shown = explorer.panel.value
    assert shown.count("<img") == 24
    assert "30 images selected, 50 % of the map" in text(shown)
    assert "cluster 0: 10, cluster 1: 10, cluster 2: 10" in text(shown)
    assert "even: 15, odd: 15" in text(shown)
    confidence = data["facts"]["confidence"][:30]
    assert (
        f"{confidence.mean():.3g}, from {confidence.min():.3g} to {confidence.max():.3g}"
        in text(shown)
    )
    assert as_uri(data["images"][29].transpose(1, 2, 0)) in shown.split("Least sure")[0]
    assert as_uri(data["images"][0].transpose(1, 2, 0)) in shown.split("Least sure")[1]
    tell(explorer, "select")
    assert text(explorer.panel.value) == "No image is selected."
    tell(explorer, "select", 3)
    assert explorer.panel.value.count("<img") == 1


def test_a_click_opens_the_cluster_of_an_image():
    data = made_up()
    explorer = MapExplorer(**data)
    for row in (1, 1, 2):  # the same one again opens it again
        tell(explorer, "select", 0)
        tell(explorer, "open", row)
        assert explorer.cluster.value == f"cluster {row}"
        assert f"20 images in cluster {row}, 33.3 % of the map" in text(explorer.panel.value)
        assert "even: 10, odd: 10" in text(explorer.panel.value)
    explorer.cluster.value = "none"
    assert explorer.panel.value == ""


def test_before_there_are_clusters():
    data = made_up()
    explorer = MapExplorer(**data | {"facts": data["facts"][["hidden class (analysis)"]]})
    tell(explorer, "open", 5)
    assert explorer.cluster.value == "none"
    tell(explorer, "select", *range(4))
    assert explorer.panel.value.count("<img") == 4
    assert len(drawn(explorer)) == 2


def test_one_cluster_and_grey_images():
    explorer = MapExplorer(**made_up(clusters=1, channels=1))
    explorer.cluster.value = "cluster 0"
    assert "60 images in cluster 0, 100 % of the map" in text(explorer.panel.value)


def test_names_are_text_and_not_mark_up():
    facts = pd.DataFrame({"hidden class (analysis)": pd.Categorical(["<b>5 & 6</b>", "7"])})
    assert in_words(facts.iloc[:, 0]) == "7: 1, <b>5 & 6</b>: 1"
    explorer = MapExplorer(**made_up(2) | {"facts": facts})
    tell(explorer, "show", 0)
    assert "&lt;b&gt;5 &amp; 6" in explorer.figure.tip
    tell(explorer, "select", 0, 1)
    assert "&lt;b&gt;5 &amp; 6" in explorer.panel.value


def test_all_figures_share_one_script_even_after_all_widgets_were_closed():
    first, second = MapExplorer(**made_up()), MapExplorer(**made_up())
    assert first.figure.script is second.figure.script
    assert "plotly.js" in gzip.decompress(first.figure.script.source)[:200].decode()
    ipywidgets.Widget.close_all()
    third = MapExplorer(**made_up())
    assert third.figure.script.comm is not None
    assert third.figure.script is not first.figure.script


def test_points_that_are_no_numbers_are_refused():
    data = made_up()
    data["points"][0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        MapExplorer(**data)


def test_ten_thousand_points_are_small_to_send():
    explorer = MapExplorer(**made_up(10_000, clusters=10, channels=1))
    assert len(str(explorer.figure.traces)) < 1_000_000
    assert {trace["type"] for trace in explorer.figure.traces} == {"scattergl"}


@pytest.fixture
def study():
    """What the explorer reads of a study: a map of 12 of 20 images, clusters, outputs."""
    random = np.random.default_rng(0)
    rows = np.arange(0, 20, 2)
    logits = torch.from_numpy(random.normal(size=(20, 3)).astype(np.float32))
    made = {
        "latent_map": SimpleNamespace(points=random.normal(size=(10, 2)), rows=rows, backend="multicore",
                                      perplexity=3.0, seed=0),
        "clusters": SimpleNamespace(labels=np.arange(20) % 3, confidence=np.linspace(0, 1, 20)),
        "outputs": SimpleNamespace(train=SimpleNamespace(logits=logits)),
    }  # fmt: skip

    def find(name):
        if name not in made:
            raise StoreError(f"no {name}: run notebook 02_latent_space first")
        return made[name]

    split = SimpleNamespace(
        train=torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 1, 8, 8),
        answers=SimpleNamespace(train_class=np.arange(20) % 2),
        class_names=("even", "odd"),
    )
    return SimpleNamespace(split=split, find=find, has=made.__contains__, made=made)


def test_a_run_gives_its_map_and_what_is_known_of_each_image(study):
    data = gather(study)
    rows = np.arange(0, 20, 2)
    assert data["images"][:, 0, 0, 0].tolist() == rows.tolist()
    assert data["facts"]["cluster"].tolist() == [f"cluster {k}" for k in rows % 3]
    np.testing.assert_allclose(data["facts"]["confidence"], np.linspace(0, 1, 20)[rows])
    wanted = msp(study.find("outputs").train.logits)[rows]
    np.testing.assert_allclose(data["facts"]["anomaly score (MSP)"], wanted)
    assert set(data["facts"]["hidden class (analysis)"]) == {"even"}
    assert "10 of 20 training images; t-SNE by multicore, perplexity 3, seed 0" in data["told"]
    assert text(module.map_explorer(study).message.value).startswith(data["told"])
    del study.made["clusters"], study.made["outputs"]
    assert list(gather(study)["facts"]) == ["hidden class (analysis)"]


def test_an_empty_run_shows_a_sentence(study):
    study.made.clear()
    shown = module.map_explorer(study).children[-1].value
    assert "run notebook 02_latent_space first" in text(shown)
