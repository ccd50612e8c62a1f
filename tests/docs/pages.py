"""What a Markdown page holds: its blocks of code, links, anchors and code spans."""

import dataclasses
import itertools
import pathlib
import re
import shlex

from markdown_it import MarkdownIt

REPO = pathlib.Path(__file__).parents[2]
PAGES = [
    REPO / "README.md",
    *([REPO / "CONTRIBUTING.md"] if (REPO / "CONTRIBUTING.md").exists() else []),
    *sorted((REPO / "docs").rglob("*.md")),
    *sorted((REPO / "examples").rglob("*.md")),
]


def name_of(page):
    return str(page.relative_to(REPO))


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the line of the page that it begins at."""

    language: str
    text: str
    line: int


def _tokens(text):
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def blocks(text):
    """All blocks of code of a page, in order; an indented one has the language "indented"."""
    kinds = {"fence": lambda token: token.info.strip() or "none", "code_block": lambda token: "indented"}
    return [
        Block(kinds[token.type](token), token.content, token.map[0] + 1)
        for token in MarkdownIt("commonmark").enable("table").parse(text)
        if token.type in kinds
    ]


def links(text):
    """The targets of all links and pictures of a page."""
    for token in _tokens(text):
        if token.type in ("link_open", "image"):
            yield token.attrs.get("href") or token.attrs["src"]


def anchors(text):
    """The anchors of a page's headings, as GitHub and MkDocs name them."""
    tokens = list(_tokens(text))
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            title = re.sub(r"[^\w\s-]", "", token.content.lower())
            yield re.sub(r"\s+", "-", title.strip())


def code_spans(text):
    """The texts between backticks, outside of blocks."""
    return [token.content for token in _tokens(text) if token.type == "code_inline"]


def commands(text):
    """The commands of a block of shell, without comments; each is a list of words."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        for command in line.split(" && "):
            if words := shlex.split(command, comments=True):
                yield words


def is_stated(output, expected, *, whole):
    """Whether a program's output is as a document says, where `...` stands for anything within a line.

    A document shows all that a block of Python prints, and of a command the lines that matter, in their order.
    """
    lines = [re.escape(line).replace(re.escape("..."), ".*") for line in expected.splitlines()]
    if whole:
        return re.fullmatch(r"\n".join(lines) + r"\s*", output) is not None
    return re.search(r"^" + r"\n(?:.*\n)*".join(lines) + r"$", output, re.MULTILINE) is not None
