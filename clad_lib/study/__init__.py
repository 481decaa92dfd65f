"""One run and many: artefacts, the table of stages and methods, notebooks, grids and results."""
