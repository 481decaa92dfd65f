"""Bad input of many kinds, as the commands meet it: one clear line, or a skip that is counted.

Whatever happens, nothing half-written is left: the bundle and the table of scores are whole or
they are not there.
"""

import contextlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clad_lib.__main__ import main
from clad_lib.data.folders import in_words, read_folder
from clad_lib.detector import Detector

COUNT, SIDE = 46, 8  # pictures in a good folder, and pixels of their sides


def noise(seed, height=SIDE, width=SIDE, channels=()):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def picture(seed=1000, kind="PNG", **sizes):
    Image.fromarray(noise(seed, **sizes)).save(stream := io.BytesIO(), kind)
    return stream.getvalue()


def fill(folder, count=COUNT, first=0):
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(picture(first + number))
    return folder


def press(capsys, *words):
    """Exit status, what was printed, and the lines on stderr that are no progress bar."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["clad", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capsys.readouterr()
    if isinstance(ended.value.code, str):  # as Python does at the end
        return 1, out, [ended.value.code]
    lines = [line for line in err.replace("\r", "\n").split("\n") if line.startswith("clad:")]
    return ended.value.code, out, lines


def fit(capsys, folder, out, *words):
    usual = ("--method", "NearestImage", "--device", "cpu")
    return press(capsys, "fit", folder, "--out", out, *usual, *words)


# Files and folders among good pictures: what is put there, and what the report then says of it.


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def saved(name, *pages, **options):
    return lambda folder: pages[0].save(folder / name, append_images=pages[1:], **options)


def inside(name):
    def make(folder):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(picture())

    return make


def link(name, target):
    return lambda folder: (folder / name).symlink_to(folder / target)


def ring(folder):
    for one, other in (("a", "b"), ("b", "a")):
        (folder / one).mkdir()
        (folder / one / "next").symlink_to(folder / other)


def huge(folder):
    Image.new("1", (20_000, 20_000)).save(folder / "x.png")


def zipped(folder):
    with zipfile.ZipFile(folder / "x.png", "w") as archive:
        archive.writestr("a.png", picture())


def unix_socket(folder):
    before = os.getcwd()
    os.chdir(folder)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("x.png")
    os.chdir(before)


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 255
    return bytes(changed)


GREY, FRAMES = Image.fromarray(noise(1)), [Image.fromarray(noise(seed)) for seed in (2000, 2001)]
FLOATS = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
ODD = FLOATS.copy()
ODD[0, 0] = np.nan
ALIEN, UNREAD = "1 hidden or of another program", "1 not a readable image"
NOWHERE, NO_FOLDER = "1 a link to nowhere or no regular file", "a link to a folder that was read"
AMONG = {
    "half a JPEG": (write("x.jpg", picture(kind="JPEG", height=40, width=40)[:300]), UNREAD),
    "half a PNG": (write("x.png", picture()[:60]), UNREAD),
    "half a GIF": (write("x.gif", picture(kind="GIF")[:30]), UNREAD),
    "half a WEBP": (write("x.webp", picture(kind="WEBP")[:30]), UNREAD),
    "half a TIFF": (write("x.tif", picture(kind="TIFF")[:100]), UNREAD),
    "the first bytes of a PNG": (write("x.png", b"\x89PNG\r\n\x1a\n"), UNREAD),
    "a PNG with a wrong checksum": (write("x.png", flipped(picture(), 20)), UNREAD),
    "a BMP that claims to be large": (
        write("x.bmp", picture(kind="BMP")[:18] + b"\xff\xff\xff\x7f" * 2 + bytes(60)),
        UNREAD,
    ),
    "zero bytes": (write("x.png", b""), "1 zero bytes"),
    "a text named as a picture": (write("x.jpg", b"no picture at all"), UNREAD),
    "a page of HTML named as a picture": (write("x.jpg", b"<html>404</html>"), UNREAD),
    "a ZIP named as a picture": (zipped, UNREAD),
    "random bytes": (write("x.jpg", np.random.default_rng(0).bytes(5000)), UNREAD),
    "PostScript, which another program would run": (write("x.eps", b"%!PS-Adobe-3.0"), UNREAD),
    "a text": (write("notes.txt", b"text"), "1 no picture by its name"),
    "SVG, which Pillow does not read": (write("x.svg", b"<svg/>"), "1 no picture by its name"),
    "a name without a suffix": (write("x", picture()), "1 no picture by its name"),
    "a picture of 20,000 x 20,000": (huge, UNREAD),
    "an animated GIF": (
        saved("x.gif", *FRAMES, save_all=True, duration=50),
        "1 first of several frames",
    ),
    "a TIFF of several pages": (saved("x.tif", *FRAMES, save_all=True), "1 first of several"),
    "a picture that loses its detail": (
        write("x.png", picture(height=400, width=300)),
        "1 shrunk more than 4 times",
    ),
    "floats that are no numbers": (saved("x.tif", Image.fromarray(ODD)), "1 values out of range"),
    "floats below zero": (saved("x.tif", Image.fromarray(-FLOATS)), "1 values out of range"),
    "infinite floats": (
        saved("x.tif", Image.fromarray(FLOATS + np.float32(np.inf))),
        "1 values out of range",
    ),
    "a hidden file": (write(".x.png", picture()), ALIEN),
    "what a Mac leaves": (inside("__MACOSX/x.png"), ALIEN),
    "what Jupyter leaves": (inside(".ipynb_checkpoints/x.png"), ALIEN),
    "what a NAS leaves": (inside("@eaDir/x.png"), ALIEN),
    "what Windows leaves": (write("Thumbs.db", b"thumbs"), ALIEN),
    "an empty folder": (lambda folder: (folder / "x").mkdir(), "1 a folder without pictures"),
    "a folder named as a picture": (
        lambda folder: (folder / "x.png").mkdir(),
        "1 a folder without pictures",
    ),
    "a link to nowhere": (link("x.png", "gone.png"), NOWHERE),
    "a link to itself": (link("x.png", "x.png"), NOWHERE),
    "a link to the folder itself": (link("x", "."), f"1 {NO_FOLDER}"),
    "folders that are linked in a ring": (ring, f"2 {NO_FOLDER}"),
    "a pipe, which would wait for ever": (lambda folder: os.mkfifo(folder / "x.png"), NOWHERE),
    "a socket": (unix_socket, NOWHERE),
    "a picture of 1 x 1": (write("x.png", picture(height=1, width=1)), ""),
    "a strip of 1 x 5,000": (write("x.png", picture(height=1, width=5000)), "1 shrunk more than"),
    "other sides and colour": (write("x.png", picture(height=6, width=9, channels=(3,))), ""),
    "16 bits among 8": (saved("x.png", Image.fromarray(noise(3).astype(np.uint16) * 257)), ""),
    "a copy": (write("x.png", picture(0)), ""),
    "a name beyond ASCII": (write("Über café 写真.png", picture()), ""),
    "a name that is no text": (write(os.fsdecode(b"caf\xe9.png"), picture()), ""),
    "a name with a line end and commas": (write('a\nb,"c".png', picture()), ""),
    "a long name": (write("x" * 240 + ".png", picture()), ""),
}


@pytest.mark.parametrize("kind", AMONG)
def test_what_lies_among_good_pictures_is_read_or_counted(kind, tmp_path, capsys):
    make, words = AMONG[kind]
    folder, kept, csv = fill(tmp_path / "normal"), tmp_path / "kept", tmp_path / "scores.csv"
    try:
        make(folder)
    except (OSError, UnicodeError):
        pytest.skip("this file system cannot hold it")
    status, out, lines = fit(capsys, folder, kept, "--size", SIDE)
    assert (status, lines) == (0, []), kind
    used = not words.startswith("1 ") or words.startswith(("1 first", "1 shrunk"))
    used = used and NO_FOLDER not in words
    assert f"{COUNT + used} images: " in out
    assert ("Left out or read in part: " in out) == bool(words)
    assert words in out
    assert Detector.load(kept, device="cpu").report().strip() in out
    status, out, lines = press(capsys, "score", kept, folder, "--csv", csv, "--device", "cpu")
    assert (status, lines) == (0, []), kind
    assert f"images: {COUNT + used}\n" in out
    entries = len(list(folder.iterdir())) + 2 * (NO_FOLDER in words and words[0] == "2")
    rows = csv.read_text(encoding="utf-8").count("\n") - (
        kind == "a name with a line end and commas"
    )
    assert rows >= entries  # a line a file, and one for the names of the columns
    assert {path.name for path in tmp_path.iterdir()} == {"normal", "kept", "scores.csv"}
    if words and not used:
        status, out, lines = fit(capsys, folder, tmp_path / "strict", "--size", SIDE, "--strict")
        assert (status, len(lines)) == (1, 1), kind
        assert not (tmp_path / "strict").exists()


# Folders and settings that cannot work: what is done, the words of the command, of the refusal.


def shades(values):
    def make(folder):
        folder.mkdir()
        for number, value in enumerate(values):
            Image.new("L", (SIDE, SIDE), value).save(folder / f"{number}.png")

    return make


def only(name, content):
    def make(folder):
        folder.mkdir()
        (folder / name).write_bytes(content)

    return make


def sized(height, width):
    def make(folder):
        fill(folder)
        (folder / "x.png").write_bytes(picture(height=height, width=width))

    return make


def frames_only(folder):
    folder.mkdir()
    (folder / "x").symlink_to(folder)


REFUSED = {
    "no such folder": (lambda folder: None, (), "expected pictures"),
    "an empty folder": (lambda folder: folder.mkdir(), (), "1 a folder without pictures"),
    "a picture in place of a folder": (
        lambda folder: folder.write_bytes(picture()),
        (),
        "no picture by its name",
    ),
    "texts alone": (only("a.txt", b"text"), (), "1 no picture by its name"),
    "damaged pictures alone": (only("a.png", b"text"), (), "no picture could be read"),
    "hidden files alone": (only(".a.png", picture()), (), "1 hidden or of another program"),
    "a loop of links alone": (frames_only, (), "expected pictures"),
    "three pictures": (lambda folder: fill(folder, 3), (), "got 3 images"),
    "one picture too few": (lambda folder: fill(folder, 43), (), "takes 44"),
    "all equal": (shades([90] * 50), (), "50 images, 1 of them independent"),
    "constant black": (shades([0] * 50), (), "1 of them independent"),
    "mostly copies": (shades([*range(10)] * 6), (), "60 images, 10 of them independent"),
    "mixed sizes": (sized(12, 12), (), "give the side to which all are brought"),
    "not square": (sized(8, 12), (), "give the side to which all are brought"),
    "a side that is no multiple of 4": (
        lambda folder: (
            [fill(folder), [each.unlink() for each in folder.iterdir()]]
            and [
                (folder / f"{n}.png").write_bytes(picture(n, height=10, width=10))
                for n in range(50)
            ]
        ),
        (),
        "a multiple of 4",
    ),
    "large pictures without a size": (
        lambda folder: [
            fill(folder, 0),
            (folder / "x.png").write_bytes(picture(height=260, width=260)),
        ],
        (),
        "such as --size 64",
    ),
    "size 0": (fill, ("--size", 0), "size is 0"),
    "size below 0": (fill, ("--size", -8), "size is -8"),
    "size 10": (fill, ("--size", 10), "expected a multiple of 4"),
    "a size beyond the memory": (fill, ("--size", 400_000), "GB of memory"),
    "alpha 0": (fill, ("--alpha", 0), "alpha is 0"),
    "alpha above 1": (fill, ("--alpha", 2), "alpha is 2"),
    "alpha that is no number": (fill, ("--alpha", "nan"), "alpha is nan"),
    "alpha for which there are too few": (fill, ("--alpha", 0.01), "takes 460"),
    "an unknown method": (fill, ("--method", "Patch"), "did you mean 'Patches'"),
    "a method that cannot be kept": (fill, ("--method", "OCNN"), "OCNN cannot be saved"),
    "a method that scores no new images": (fill, ("--method", "MSP"), "and no new ones"),
    "an unknown device": (fill, ("--device", "tpu"), "unknown device"),
    "a seed below 0": (fill, ("--seed", -1), "seed is -1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(kind, tmp_path, capsys):
    make, words, said = REFUSED[kind]
    make(tmp_path / "normal")
    status, out, lines = fit(capsys, tmp_path / "normal", tmp_path / "kept", *words)
    assert (status, out, len(lines)) == (1, "", 1), (kind, lines)
    assert said in lines[0]
    assert {path.name for path in tmp_path.iterdir()} <= {"normal"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of good pictures, and the bundle of a detector that was fitted to them."""
    root = tmp_path_factory.mktemp("place")
    folder = fill(root / "normal")
    Detector("NearestImage", device="cpu").fit(folder).save(root / "kept")
    return root


def test_places_that_cannot_be_written_or_read_are_named(place, tmp_path, capsys):
    normal, kept, odd = place / "normal", place / "kept", tmp_path / os.fsdecode(b"caf\xe9")
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "file.zip").write_bytes(b"text")
    fill(tmp_path / "few", 3)
    before = sorted(tmp_path.rglob("*"))
    score, update = ("score", kept, normal, "--csv"), ("update", kept)
    for words, said in {
        ("fit", normal, "--out", kept): "exists already",
        ("fit", normal, "--out", tmp_path / "file"): "exists already",
        ("fit", normal, "--out", tmp_path / "file" / "kept", "--method", "OCSVM"): "cannot write",
        ("score", tmp_path, normal, "--csv", tmp_path / "s"): "no detector in",
        ("score", tmp_path / "none", normal, "--csv", tmp_path / "s"): "no detector in",
        ("score", tmp_path / "file", normal, "--csv", tmp_path / "s"): "damaged",
        ("score", tmp_path / "file.zip", normal, "--csv", tmp_path / "s"): "damaged",
        ("score", kept, tmp_path / "none", "--csv", tmp_path / "s"): "expected pictures",
        (*score, tmp_path / "none" / "s"): "cannot write",
        (*score, tmp_path): "cannot write",
        (*update, "--calibrate", tmp_path / "few"): "expected 22 or more",
        (*update, "--train", tmp_path / "none"): "expected pictures",
        (*update, "--train", normal): "got 0 independent images",
        ("threshold", kept, "--alpha", 3): "alpha is 3",
        ("evaluate", kept, "--normal", normal, "--anomalous", tmp_path / "none"): "expected pict",
        ("export", kept, "--onnx", tmp_path / "m.onnx"): "only Patches",
        ("inspect", tmp_path): "no detector in",
    }.items():
        status, _, lines = press(capsys, *words)
        assert (status, len(lines)) == (1, 1), (words, lines)
        assert said in lines[0], words
        assert sorted(tmp_path.rglob("*")) == before, words
    with contextlib.suppress(OSError):
        odd.mkdir()
        status, out, lines = fit(capsys, normal, odd / "kept")
        assert (status, lines) == (0, [])
        assert "kept in " in out


STAGES = {
    "while files are looked for": "clad_lib.data.folders.os.path.realpath",
    "while pictures are read": "clad_lib.data.folders.decode",
    "while it learns": "clad_lib.study.own_images.Study.fit",
    "while it calibrates": "clad_lib.detector.guarantees.one_per_track",
    "while the bundle is written": "clad_lib.study.bundle.Path.write_bytes",
    "when the bundle is moved to its place": "clad_lib.study.store.os.replace",
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_leaves_nothing_half_written(stage, place, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(STAGES[stage], interrupt)
    status, _, lines = fit(capsys, place / "normal", tmp_path / "kept")
    assert (status, len(lines)) == (1, 1)
    assert "interrupted" in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["decode", "to_csv", "replace"])
def test_an_interrupt_while_scoring_leaves_no_table(step, place, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    names = {"decode": "clad_lib.data.folders.decode", "to_csv": "pandas.DataFrame.to_csv"}
    monkeypatch.setattr(names.get(step, "os.replace"), interrupt)
    words = ("score", place / "kept", place / "normal", "--csv", tmp_path / "scores.csv")
    status, _, lines = press(capsys, *words)
    assert (status, len(lines)) == (1, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [("fit", "normal", "--out"), ("score", "kept", "normal", "--csv")]
)
def test_a_disk_that_takes_no_more_leaves_nothing(words, place, tmp_path):
    resource = pytest.importorskip("resource")

    def limit():  # bytes of a file: the system refuses what is longer, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    words = [str(place / word) if word in ("normal", "kept") else word for word in words]
    run = [
        sys.executable,
        "-B",
        "-m",
        "clad_lib",
        *words,
        str(tmp_path / "made"),
        "--device",
        "cpu",
    ]
    run += ["--method", "OCSVM"] * (words[0] == "fit")
    done = subprocess.run(run, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with users")
def test_what_an_ordinary_user_may_not_read_is_counted():
    with tempfile.TemporaryDirectory() as name:
        folder = fill(Path(name, "normal"))
        (folder / "closed").mkdir()
        (folder / "closed" / "x.png").write_bytes(picture())
        (folder / "x.png").write_bytes(picture())
        for closed in (folder / "closed", folder / "x.png"):
            closed.chmod(0)
        folder.parent.chmod(0o755)
        Image.init()  # an ordinary user may not be able to read the modules of formats
        said, told = os.pipe()
        if not (child := os.fork()):
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            try:
                words = in_words(read_folder(folder, progress=False)[2])
            except BaseException as error:
                words = repr(error)
            os.write(told, words.encode())
            os._exit(0)
        os.waitpid(child, 0)
        words = os.read(said, 10_000).decode()
        (folder / "closed").chmod(0o700)
    assert "1 a folder that cannot be read (such as " in words
    assert "1 not a readable image (such as " in words


def test_a_fact_of_a_data_set_is_no_setting_of_a_run(tmp_path, capsys):
    asked = ("run", "--dataset", fill(tmp_path / "a"), "--scenario", "ALL", "--set", "mirror=True")
    status, _, told = press(capsys, *asked, "--runs", tmp_path / "runs")
    assert status
    assert "unknown setting 'mirror'" in "".join(told)
    assert not (tmp_path / "runs").exists()
