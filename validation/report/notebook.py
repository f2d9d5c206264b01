"""A report inside a notebook."""

from __future__ import annotations

import html
import sys
from typing import Any

from rich.console import Console

from validation.report.html import render_html
from validation.report.model import Report
from validation.report.terminal import print_summary

_HEIGHT_PIXELS = 900


def show(report: Report) -> None:
    """Show the page in the notebook cell that calls this, or print the summary where there is no notebook.

    The page is put into a sandboxed frame: its styles do not reach the notebook, and neither would any script.

    Args:
      report: the finished report.
    """
    if not _in_notebook():
        print_summary(report, Console())
        return
    from IPython.display import HTML, display

    display(HTML(frame(report)))


def frame(report: Report) -> str:
    """The page as an HTML fragment that can stand inside another page."""
    page = html.escape(render_html(report), quote=True)
    style = f"width:100%;height:{_HEIGHT_PIXELS}px;border:0"
    return (
        f'<div><iframe title="Dataset validation report" sandbox="allow-scripts" style="{style}" '
        f'srcdoc="{page}"></iframe></div>'
    )


def _in_notebook() -> bool:
    # Without IPython loaded nobody can be in a notebook, and a shell without a kernel can show no HTML.
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
