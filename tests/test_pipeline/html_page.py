"""A parser of report pages that checks their form while it collects what they hold."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "hr"}


class HtmlPage(HTMLParser):
    """Collects ids, loaded resources, texts and images, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.films: list[dict[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"<{tag}> repeats an attribute"
        assert not any(name.startswith("on") for name in found), f"<{tag}> has an event handler"
        if found.get("id"):
            self.ids.append(str(found["id"]))
        (self.links if tag == "a" else self.loads).extend(
            str(found[name])
            for name in ("src", "href", "srcset", "data", "poster", "action")
            if found.get(name)
        )
        if tag == "img":
            self.images.append(found)
        if "data-frames" in found:
            self.films.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
