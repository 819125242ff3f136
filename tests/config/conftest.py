import pytest

from analogsim.config.loader import load_plan, parse_set
from analogsim.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def complaints(folder):
    """What is said, line by line, of an experiment `e.yaml` of a text, with `--set` options."""

    def complaints(text, *options):
        (folder / "e.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            load_plan("e.yaml", [parse_set(option) for option in options])
        return str(error.value).split("\n")

    return complaints
