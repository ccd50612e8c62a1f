"""Makes pages of the site from the documents that lie beside docs/, with their links as seen from docs/."""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPO = pathlib.Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; MkDocs calls this when it has listed docs/."""
    for source, page in PAGES.items():
        content = with_links_from_docs((REPO / source).read_text())
        files.append(File.generated(config, page, content=content))
    return files


def with_links_from_docs(text: str) -> str:
    """Returns the text of a document of the repository's root, with links as a file in docs/ writes them."""
    text = re.sub(r"\]\(docs/", "](", text)
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text
