import os
import resource
from contextlib import contextmanager
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


@pytest.fixture
def full_disk():
    """A context in which no file may grow beyond a number of bytes."""

    @contextmanager
    def limited(largest=12_000):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
