"""Reader of Markdown documents: fenced blocks, links and headings."""

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n\Z")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and whether a comment before it says that it is not run."""

    language: str
    text: str
    not_run: bool


@dataclass(frozen=True)
class Command:
    """A command of a `console` block, and the lines of output that the document shows below it."""

    text: str
    output: list[str]


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    return [
        Block(match[1], match[2], NOT_RUN.search(text[: match.start()]) is not None) for match in FENCE.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """Return the commands of a `console` block: lines that start with `$ `, and those that continue them by `\\`."""
    result: list[Command] = []
    continued = False
    for line in block.text.splitlines():
        if continued:
            result[-1] = Command(f"{result[-1].text}\n{line}", [])
        elif line.startswith("$ "):
            result.append(Command(line[2:], []))
        else:
            result[-1].output.append(line)
            continue
        continued = line.endswith("\\")
    return result


def missing_lines(shown: list[str], printed: str) -> list[str]:
    """Return the shown lines that were not printed. Numbers and indentation may differ; `...` stands for any lines."""
    lines = {NUMBER.sub("N", line.strip()) for line in printed.splitlines()}
    return [line for line in shown if line.strip() not in ("", "...") and NUMBER.sub("N", line.strip()) not in lines]


def dead_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of a Markdown file."""
    text = FENCE.sub("", page.read_text())
    targets = [target for target in LINK.findall(text) if not target.startswith(("https://", "http://", "mailto:"))]
    return [target for target in targets if not _leads_somewhere(page, target)]


def _leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in _anchors(file.read_text()))


def _anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
