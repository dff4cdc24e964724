import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The open MS images, which stay outside the repository."""
    folder = Path(os.environ.get("LESIONDELTA_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the open MS images are not at {folder} (set LESIONDELTA_DATA)")
    return folder
