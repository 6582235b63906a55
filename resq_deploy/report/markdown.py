"""A report as Markdown: the words and tables of the page, without its plots."""

from resq_deploy.report.document import Block, Bullets, Commands, Document, Notice, Statement, Table


def as_markdown(document: Document) -> str:
    """Return a report as Markdown (tables as on GitHub)."""
    parts = [f"# {_plain(document.title)}", _plain(document.lead)]
    if document.verdict:
        parts += [_statement(statement) for statement in document.verdict.statements]
        parts += [_plain(ground) for ground in document.verdict.grounds]
    for section in document.sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def _statement(statement: Statement) -> str:
    reservations = "".join(f" {_plain(one)}." for one in statement.reservations)
    return f"> **{_plain(statement.about)}: {_plain(statement.label)}.** {_plain(statement.text)}{reservations}"


def _block(block: Block) -> str:
    if isinstance(block, str):
        return _plain(block)
    if isinstance(block, Notice):
        return f"> **{_plain(block.text)}**"
    if isinstance(block, Bullets):
        return "\n".join(f"- {_plain(item)}" for item in block.items)
    if isinstance(block, Commands):
        fenced = "\n".join(["```sh", *block.lines, "```"])
        return f"{_plain(block.folded)}:\n\n{fenced}" if block.folded else fenced
    return _table(block) if isinstance(block, Table) else ""


def _table(table: Table) -> str:
    rows = [table.headers, ["---", *("---:" for _ in table.headers[1:])], *table.rows]
    written = ["| " + " | ".join(cell if row is rows[1] else _plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join([f"{_plain(table.folded)}:\n", *written] if table.folded else written)


def _plain(text: str) -> str:
    """Keep text from being read as markup."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
