"""Makes the site of these pages and of those in the repository's root: a hook of mkdocs.yml.

A link in a page is one between files, as a Git host follows it. What leads out of the site, into
the source, is named there instead, or linked to where REPOSITORY_URL has the source.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
#: Pages of the repository's root, by their names in the site.
FROM_ROOT: Final = {
    "quickstart.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "reporting.md": "SECURITY.md",
}
_IN_THE_SITE: Final = {source: name for name, source in FROM_ROOT.items()}
_LINK: Final = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's root."""
    for name, source in FROM_ROOT.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead each link to a page of the site, or name the file of the source that it leads to."""
    own = page.file.src_uri
    source = FROM_ROOT.get(own, f"docs/{own}")
    repository = os.environ.get("REPOSITORY_URL", "").rstrip("/")

    def rewritten(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if not target or re.match(r"\w+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        name = _IN_THE_SITE.get(path, path.removeprefix("docs/"))
        if path in _IN_THE_SITE or path.startswith("docs/"):
            way = posixpath.relpath(name, posixpath.dirname(own) or ".")
            return f"{found['image']}[{found['text']}]({way}{'#' if anchor else ''}{anchor})"
        if repository:
            return f"[{found['text']}]({repository}/{path})"
        shown = found["text"].strip("`")
        return f"`{path}`" if shown in {path, f"{path}/"} else f"{found['text']} (`{path}`)"

    return _LINK.sub(rewritten, markdown)
