"""Where the tests find the repository's files, wherever they stand themselves."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Photos, golden pictures, and weights that are small enough for git.
DATA: Final = ROOT / "tests" / "data"
