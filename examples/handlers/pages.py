"""A generator: subscribers get each page as soon as it is yielded, and progress reports in between.

Publish: busway publish report.wanted --data '{"pages": 5}'
Watch:   busway tail 'report.*'
"""

import time
from collections.abc import Generator

from busway import Context, Event, handler


@handler("report.wanted", timeout=120)
def render_report(event: Event, ctx: Context) -> Generator[dict[str, object], None, dict[str, int] | None]:
    """Render a report page by page."""
    pages = event.data["pages"]
    for page in range(1, pages + 1):
        if ctx.cancelled:
            return None
        time.sleep(0.3)  # stands for the rendering
        yield {"page": page, "text": f"Page {page} of {pages}."}
        ctx.progress(round(page / pages, 2), f"{page} of {pages} pages")
    return {"pages": pages}
