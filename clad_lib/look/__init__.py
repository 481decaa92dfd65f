"""Charts, pictures and the interactive explorers."""
