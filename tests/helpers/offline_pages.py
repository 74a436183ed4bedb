"Pages of widgets with the network off, closed and asked for trouble at the end."

from contextlib import contextmanager


@contextmanager
def offline_pages(
    browser,
    path,  # where the widget's page is written
    selector,  # of what the finished page shows
):
    "A function that opens a widget's page; what the page stumbles over is its `trouble`, and there may be none."
    pages = []

    def open_page(widget, axes=None, **options):
        page = browser.new_context(offline=True, **options).new_page()
        page.trouble = []
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or page.trouble.append(r.url))
        page.goto(widget.to_html(path, axes).as_uri())
        page.wait_for_selector(selector)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.trouble == []
        page.context.close()
