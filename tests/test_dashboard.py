"""The dashboard's page and the command that serves it; test_browser opens it."""

import nbformat
import pytest
from typer.testing import CliRunner

from clad_lib import __main__ as command_line
from clad_lib import dashboard
from clad_lib.headless import NotebookError


def test_the_page_is_prepared_with_its_parameters_and_not_executed(tmp_path):
    page = dashboard.prepare({"scenario": "STR", "runs": str(tmp_path), "local": False}, tmp_path / "deep" / "page.ipynb")
    code = [cell for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "code"]
    assert 'scenario = "STR"' in code[1].source
    assert "local = False" in code[1].source
    assert not any(cell.outputs for cell in code)


def test_unknown_parameters_and_folders_that_refuse_are_one_line(tmp_path):
    with pytest.raises(NotebookError, match="no parameter 'sede'"):
        dashboard.prepare({"sede": 1}, tmp_path / "page.ipynb")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotebookError, match="choose another folder with --runs"):
        dashboard.prepare({}, tmp_path / "file" / "page.ipynb")


@pytest.mark.parametrize(("arguments", "ip", "local"), [((), "127.0.0.1", True), (("--ip", "0.0.0.0"), "0.0.0.0", False)])
def test_it_listens_on_this_machine_unless_told_otherwise(arguments, ip, local, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(dashboard, "serve", lambda page, **options: served.append((page, options)) or 0)
    done = CliRunner().invoke(command_line.app, ["dashboard", "--profile", "smoke", "--runs", str(tmp_path), *arguments])
    assert done.exit_code == 0, done.output
    assert "this run has no scores yet" in done.output
    page, options = served[0]
    assert f"local = {local}" in page.read_text()
    line = dashboard.voila_command(page, **options)
    assert f"--Voila.ip={ip}" in line
    assert "--Voila.port_retries=0" in line  # the address that was printed, or an error
