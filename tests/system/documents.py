"""Reader of Markdown documents: fenced blocks, links and headings."""

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n\Z")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TIME = re.compile(r"\d\d:\d\d|\d\d-\d\d|\d (?:ms|s|h|minutes|hours|days)\b|://")
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
    """Return the shown lines that were not printed. Indentation may differ; `...` stands for any lines.

    Numbers must be near, as rounding differs between processors: whole numbers by 0.1 %, others by 0.001 or one in the
    last digit. They are not compared in lines with a time, and errors of rounding, such as 1.0e-06, are not.
    """
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        found.setdefault(_without_numbers(line), []).append(line)
    return [
        line
        for line in shown
        if line.strip() not in ("", "...")
        and not any(_near(line, other) for other in found.get(_without_numbers(line), []))
    ]


def _without_numbers(line: str) -> str:
    return NUMBER.sub("N", line.strip())


def _near(shown: str, printed: str) -> bool:
    """Return whether the numbers of two lines, which are else equal, are near each other."""
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return TIME.search(shown) is not None or all(_is_near(*pair) for pair in pairs)


def _is_near(shown: str, printed: str) -> bool:
    if shown == printed or "e" in shown:
        return True
    if shown.isdecimal() and shown.startswith("0"):  # part of an id
        return False
    first, second = (float(number.replace(",", "").rstrip(".")) for number in (shown, printed))
    digits = len(shown.rstrip(".").partition(".")[2])
    allowed = max(1.001 * 10**-digits, 0.001) if digits else 0.001 * abs(second)
    return abs(first - second) <= allowed


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
